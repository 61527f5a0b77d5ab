"""Who asks, and whether they still wait: known to everything that is done for a request, also before it is queued."""

import asyncio
import threading
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.serve.http.entry import Entry
from redraft.serve.http.security import key_of


@dataclass(frozen=True, eq=False)
class Asking:
    """An HTTP request that is open."""

    owner: str
    """The API key that it came with, where keys are asked for; otherwise its address."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set once the connection has closed, or the answer is out."""


ASKING: ContextVar[Asking | None] = ContextVar("redraft_asking", default=None)
"""The HTTP request that the current task or thread works for."""
# By this its owner stands in the state of a request's scope, which whoever reads the connection shares.
_OWNER = "redraft.owner"


def owner_of(scope: Scope, with_keys: bool) -> str:
    """Name whom a request counts for: an API key, or an address where no key is asked for.

    A key that nobody checked could be another one each time. Of IPv6 addresses one client has a whole network.
    """
    key = key_of(Headers(scope=scope)) if with_keys else ""
    if key:
        return f"key {key}"
    host = str(scope["client"][0]) if scope.get("client") else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def asked_on(scope: MutableMapping[str, Any] | None) -> str | None:
    """Return whom the latest request on a connection counted for, once that is known to be true; None before. Who only
    looks at something is nobody."""
    found: str | None = ((scope or {}).get("state") or {}).get(_OWNER)
    return found


class Presence:
    """ASGI middleware that notes when the connection of a request closes, whatever is being done for it."""

    def __init__(self, app: ASGIApp, with_keys: bool, begin: Callable[[Asking], None], entry: Entry) -> None:
        """``begin`` is called within each request, before anything is done for it."""
        self._app, self._with_keys, self._begin = app, with_keys, begin
        self._entry = entry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asking = Asking(owner_of(scope, self._with_keys))
        ASKING.set(asking)
        if scope["method"] == "POST":
            scope.setdefault("state", {})[_OWNER] = asking.owner
        self._begin(asking)
        listener = _Listener(receive, asking, self._entry)
        try:
            await self._app(scope, listener.receive, send)
        finally:
            asking.gone.set()
            listener.close()


class _Listener:
    """Hands on a request's messages; behind the body it listens by itself for the end of the connection.

    The end of a body is handed on when it is the request's turn, or the end of its connection in its place, at once.
    """

    def __init__(self, receive: Receive, asking: Asking, entry: Entry) -> None:
        self._receive, self._asking, self._entry = receive, asking, entry
        self._turn: asyncio.Future[None] | None = None
        self._end: asyncio.Task[Message] | None = None

    async def receive(self) -> Message:
        """Return the next message."""
        if self._end is not None:
            # Whoever waits for it may be cancelled; it is still listened for.
            return await asyncio.shield(self._end)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._asking.gone.set()
        elif not message.get("more_body", False):
            self._turn = self._entry.line_up(self._asking.owner)
            self._end = asyncio.create_task(self._listen())
            await self._turn
            if self._asking.gone.is_set():
                return await asyncio.shield(self._end)
        return message

    def close(self) -> None:
        """Listen no longer."""
        if self._end is not None:
            self._end.cancel()

    async def _listen(self) -> Message:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._asking.gone.set()
                if self._turn is not None and not self._turn.done():
                    self._turn.set_result(None)
                return message
