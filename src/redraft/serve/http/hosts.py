"""The names under which a server may be asked for, where no key shows who asks.

A page in a browser can have its own name lead to this machine (DNS rebinding) and then read what the server answers; it
can also send what needs no leave to be sent. What a browser says of both it cannot change: ``Host`` and ``Origin``.
"""

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from redraft.errors import RequestError
from redraft.serve.errors import ApiError

ANY = "*"


def check_hosts(hosts: Sequence[str]) -> Sequence[str]:
    """Return ``hosts`` if all are names as a URL has them, or ``*``; else raise RequestError."""
    for host in hosts:
        if host != ANY and (not host or host_name(host) != host.lower().rstrip(".")):
            raise RequestError(f"the allowed host {host!r} must be a name or an address without a port, or {ANY!r}")
    return hosts


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header, or in a URL's place of it: without the port, in small letters."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def own_names(bound: str) -> frozenset[str]:
    """Return the names by which a server is reached that listens at ``bound``, besides all addresses."""
    names = {"localhost", bound.lower()}
    if not is_loopback(bound):
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return frozenset(names - {""})


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens at ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Hosts:
    """ASGI middleware that refuses requests for another host, and those of other hosts' pages."""

    def __init__(self, app: ASGIApp, names: Sequence[str], origins: Sequence[str]) -> None:
        """``names``: those that are allowed besides localhost and all addresses, which no other page can have for its
        own; with ``*`` all are. ``origins``: those whose pages may ask."""
        self._app = app
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request with 403, or pass it on."""
        if scope["type"] == "http" and ANY not in self._names:
            headers = Headers(scope=scope)
            error = self._fault(headers.getlist("host"), headers.get("origin"))
            if error is not None:
                await error.response(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _fault(self, hosts: Sequence[str], origin: str | None) -> ApiError | None:
        # Without one, as HTTP/1.0 has it, no browser asks.
        for host in hosts:
            if not self._allowed(host_name(host)):
                return ApiError(
                    403,
                    f"this server is not {host!r}; start it with --allowed-host {host_name(host) or 'NAME'}, or with "
                    "an --api-key, to have it answer under that name",
                    code="host_not_allowed",
                )
        if origin is not None and origin not in self._origins and ANY not in self._origins:
            scheme, _, host = origin.partition("://")
            if scheme in ("http", "https", "null") and not self._allowed(host_name(host)):
                return ApiError(
                    403,
                    f"pages of {origin!r} may not ask this server; start it with --cors {origin} to let them",
                    code="origin_not_allowed",
                )
        return None

    def _allowed(self, name: str) -> bool:
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
