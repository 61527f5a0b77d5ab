"""Bounds what a large body makes the interpreter do at once: how many values it has, and how soon the next one comes.

Reading JSON and checking its fields holds the interpreter's lock for as long as it takes. That grows with the number of
values, not with the length of texts.
"""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Bodies up to this size are read in no time, whatever is in them.
LARGE = 1 << 14
# Seconds from one large body to the next, in which others have their turn.
_PAUSE = 0.05


class BodyShape:
    """ASGI middleware that refuses bodies of too many values, and hands on one large body at a time."""

    def __init__(self, app: ASGIApp, max_values: int, max_numbers: int) -> None:
        """``max_values``: strings, arrays and objects, keys included. ``max_numbers``: members of arrays and objects,
        of which token ids may be many."""
        self._app, self._max_values, self._max_numbers = app, max_values, max_numbers
        self._one = asyncio.Lock()
        self._next = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body in one piece."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = False

        async def whole() -> Message:
            nonlocal read
            if read:
                return await receive()
            read, body, more = True, bytearray(), True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                body += message.get("body", b"")
                more = message.get("more_body", False)
            if len(body) > LARGE:
                await self._large(bytes(body))
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, whole, send)

    async def _large(self, body: bytes) -> None:
        """Check a large body, and wait for its turn."""
        async with self._one:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + _PAUSE
            values, members = await asyncio.to_thread(shape, body, 2 * self._max_values)
        for found, limit, what in (
            (values, self._max_values, "strings, arrays and objects"),
            (members, self._max_numbers, "members of arrays and objects"),
        ):
            if found > limit:
                raise HTTPException(413, f"the body has more than {limit} JSON {what}; this server takes no more")


def shape(body: bytes, max_quotes: int) -> tuple[int, int]:
    """Count the strings, arrays and objects of JSON, and the members of these, without reading it.

    Of what has more than ``max_quotes`` quotes only these are counted.
    """
    quotes = body.count(b'"') - body.count(b'\\"')
    if quotes > max_quotes:
        return quotes // 2, 0
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    if plain.count(b'"') > max_quotes:
        return plain.count(b'"') // 2, 0
    outside = b"".join(plain.split(b'"')[::2])
    opened = outside.count(b"[") + outside.count(b"{")
    return plain.count(b'"') // 2 + opened, outside.count(b",") + opened
