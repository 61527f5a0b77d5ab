"""Unpacks bodies that clients pack (``content-encoding``) before anything else sees them.

Unpacking stops at the limit of a body: what would come after is never made.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.serve.errors import ApiError
from redraft.serve.http.limits import too_large

_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS
# As RFC 9659 bounds it for this use: what a packed body may make its reader hold, 8 MiB.
_WINDOW_LOG = 23


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


_UNPACKERS: dict[str, Callable[[], _Unpacker]] = {"gzip": lambda: zlib.decompressobj(_WITH_GZIP_HEADER)}
_BROKEN: tuple[type[Exception], ...] = (zlib.error,)

try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:  # a Python that was built without it
    pass
else:
    _UNPACKERS["zstd"] = lambda: zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    )
    _BROKEN += (zstd.ZstdError,)


class Unpacking:
    """ASGI middleware: unpacks bodies, each a single gzip member or zstd frame, and refuses other encodings."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """``max_bytes``: of a body that is unpacked."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body unpacked."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(raw=list(scope["headers"]))
        encoding = ", ".join(headers.getlist("content-encoding")).strip().lower()
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
            return
        if encoding not in _UNPACKERS:
            response = _unknown(encoding).response(scope["path"])
            response.headers["accept-encoding"] = ", ".join(_UNPACKERS)
            await response(scope, receive, send)
            return
        del headers["content-encoding"], headers["content-length"]
        unpacked = False

        async def whole() -> Message:
            nonlocal unpacked
            if unpacked:
                return await receive()
            unpacked, packed, more = True, bytearray(), True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                packed += message.get("body", b"")
                more = message.get("more_body", False)
            body = await asyncio.to_thread(_unpack, bytes(packed), encoding, self._max_bytes)
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app({**scope, "headers": headers.raw}, whole, send)


def _unpack(packed: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the body; HTTPException, which the framework hands on, where it is too large or broken."""
    if not packed:
        return b""
    unpacker = _UNPACKERS[encoding]()
    try:
        body = unpacker.decompress(packed, max_bytes + 1)
    except _BROKEN as error:
        raise HTTPException(400, f"the body is not what its content-encoding {encoding} says: {error}") from error
    if len(body) > max_bytes:
        raise HTTPException(413, too_large(max_bytes))
    if not unpacker.eof:
        raise HTTPException(400, f"the body is not what its content-encoding {encoding} says: its end is missing")
    # One after the other they could be so many, each of nothing, that opening them would take seconds.
    if unpacker.unused_data:
        raise HTTPException(400, f"after the {encoding} data something follows; pack the body as one piece")
    return body


def _unknown(encoding: str) -> ApiError:
    known = " or ".join(_UNPACKERS)
    return ApiError(415, f"content-encoding {encoding!r} is not known here; use {known}, or send the body as it is")
