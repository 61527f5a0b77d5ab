"""Bounds what a large body makes the interpreter do at once: how many values it has, and how soon the next one comes.

Reading JSON and checking its fields holds the interpreter's lock for as long as it takes. That grows with the number of
values, not with the length of texts.
"""

import asyncio
import time
from weakref import WeakValueDictionary

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.serve.http.entry import Entry
from redraft.serve.http.presence import owner_of

# Bodies up to this size are read in no time, whatever is in them.
LARGE = 1 << 14


class BodyShape:
    """ASGI middleware that refuses bodies of too many values, and hands on one large body of a client at a time."""

    def __init__(self, app: ASGIApp, max_values: int, max_numbers: int, entry: Entry, with_keys: bool) -> None:
        """``max_values``: strings, arrays and objects, keys included. ``max_numbers``: members of arrays and objects,
        of which token ids may be many."""
        self._app, self._max_values, self._max_numbers = app, max_values, max_numbers
        self._entry, self._with_keys = entry, with_keys
        self._one_of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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
            read, parts, more = True, list[bytes](), True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if len(body) > LARGE:
                await self._large(body, owner_of(scope, self._with_keys))
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, send)

    async def _large(self, body: bytes, owner: str) -> None:
        """Check a large body when it is its client's turn, and none of its others is being checked."""
        async with self._one_of.setdefault(owner, asyncio.Lock()):
            await self._entry.enter(owner)
            values, members, seconds = await asyncio.to_thread(_timed, body, 2 * self._max_values)
            self._entry.spent(owner, seconds)
        for found, limit, what in (
            (values, self._max_values, "strings, arrays and objects"),
            (members, self._max_numbers, "members of arrays and objects"),
        ):
            if found > limit:
                raise HTTPException(413, f"the body has more than {limit} JSON {what}; this server takes no more")


def _timed(body: bytes, max_quotes: int) -> tuple[int, int, float]:
    """Return the ``shape`` of a body, and the processor's seconds that it took to find it."""
    began = time.thread_time()
    return *shape(body, max_quotes), time.thread_time() - began


def shape(body: bytes, max_quotes: int) -> tuple[int, int]:
    """Count the strings, arrays and objects of JSON, and the members of these, without reading it.

    Of what has more than ``max_quotes`` quotes only these are counted.
    """
    quotes = body.count(b'"') - (body.count(b'\\"') if b"\\" in body else 0)
    if quotes > max_quotes:
        return quotes // 2, 0
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    if plain.count(b'"') > max_quotes:
        return plain.count(b'"') // 2, 0
    outside = b"".join(plain.split(b'"')[::2])
    opened = outside.count(b"[") + outside.count(b"{")
    return plain.count(b'"') // 2 + opened, outside.count(b",") + opened
