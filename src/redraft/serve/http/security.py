"""API keys of those who may ask, and headers that say what a browser may do with the answers."""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.errors import RequestError
from redraft.serve.errors import ApiError

# The page and what shows whether the server lives need no key.
_OPEN = ("/health",)
_GUARDED = ("/v1/", "/tokenize", "/detokenize", "/metrics", "/openapi.json")

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


def check_keys(keys: Sequence[str]) -> Sequence[str]:
    """Return ``keys`` if all are texts that a client has to know; else raise RequestError.

    An empty one is mostly a variable that is not set, and must not be taken for a server that needs no key.
    """
    if isinstance(keys, str):
        raise RequestError("api_keys must be a list of keys, such as ['secret'], not one text")
    for key in keys:
        if not isinstance(key, str) or not key.strip():
            raise RequestError(
                f"an API key is {key!r}; give a text that is not empty, or no key at all to let everybody in"
            )
    return keys


class ApiKeys:
    """ASGI middleware that lets in who has one of the keys; without keys everybody."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app, self._keys = app, [key.encode() for key in check_keys(keys)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request with 401, or pass it on."""
        guarded = scope["type"] == "http" and scope["path"].startswith(_GUARDED) and scope["path"] not in _OPEN
        if guarded and self._keys and scope["method"] != "OPTIONS" and not self._known(Headers(scope=scope)):
            error = ApiError(
                401,
                "a valid API key is needed: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                type="authentication_error",
                code="invalid_api_key",
            )
            await error.response(scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        """Compare in a time that does not tell how much of a key was right, nor which key."""
        given = key_of(headers).encode()
        return any([hmac.compare_digest(given, key) for key in self._keys])


def key_of(headers: Headers) -> str:
    """Return the API key that a request came with; empty if there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


class BrowserHeaders:
    """ASGI middleware that sets a strict content security policy, and forbids guessing of content types."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to the answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
