"""Sizes that one request may have, checked before any work."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.models.tokenizer import Check
from redraft.serve.errors import ApiError, to_json
from redraft.serve.http.presence import owner_of

# Bodies up to this size are taken while there is room for the process at all.
SMALL = 1 << 16


@dataclass(frozen=True)
class RequestLimits:
    """Sizes beyond which a request is refused: a body or prompt with 413, a schema or questions with 422."""

    body_bytes: int = 4 << 20
    prompt_tokens: int | None = None
    """None for what the model's context holds."""
    schema_bytes: int = 64 << 10
    questions: int = 64
    choices: int = 16
    """Answers to one prompt (``n``)."""
    answers: int = 128
    """Answers to all prompts of one request together."""
    body_values: int = 1 << 15
    """Strings, arrays and objects in a body. Its other values may be so many, and as many as the context has tokens."""
    header_seconds: float = 10.0
    """The time that the head of a request may take to arrive."""
    body_seconds: float = 10.0
    """The time that its body may take besides what it takes at ``body_rate`` bytes a second."""
    body_rate: int = 1 << 14
    held_bodies: int = 16
    """Bodies of the largest size that are held at once. Beyond that a client waits that holds its share of them."""

    def check_prompt(self, tokens: int, param: str | None, more: str = "") -> None:
        """Refuse a prompt of too many tokens; ``more`` is said after their number."""
        if self.prompt_tokens is not None and tokens > self.prompt_tokens:
            raise ApiError(
                413,
                f"the prompt has {tokens} tokens{more}; this server takes at most {self.prompt_tokens}",
                param=param,
            )

    def before_tokenizing(self, param: str | None) -> Check:
        """Make a check that refuses a text which is too long however it is tokenized."""
        return lambda needed: self.check_prompt(needed, param, " or more")

    def check_schema(self, schema: Mapping[str, Any] | bool | str, param: str) -> None:
        """Refuse a schema, or a pattern, of too many bytes."""
        text = schema if isinstance(schema, str) else to_json(schema)
        size = len(text.encode(errors="replace"))
        if size > self.schema_bytes:
            raise ApiError(422, f"{param} has {size} bytes; this server takes at most {self.schema_bytes}", param=param)

    def check_questions(self, count: int) -> None:
        """Refuse too many questions at once."""
        if count > self.questions:
            raise ApiError(
                422, f"there are {count} questions; this server takes at most {self.questions}", param="questions"
            )


def too_large(max_bytes: int) -> str:
    """Say that a body is beyond the limit, packed or not."""
    return f"the body is larger than the {max_bytes} bytes that this server takes"


class BodyLimit:
    """ASGI middleware that refuses bodies beyond a size, also those that do not say how long they are; those that come
    too slowly; and more than the server has memory for."""

    def __init__(self, app: ASGIApp, limits: RequestLimits, with_keys: bool) -> None:
        self._app, self._limits, self._with_keys = app, limits, with_keys
        self._held: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.body_bytes
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > limit:
            await self._refuse(scope, receive, send)
            return
        owner, began = owner_of(scope, self._with_keys), time.monotonic()
        received, more = 0, True

        async def counted() -> Message:
            nonlocal received, more
            if not more:
                return await receive()
            # Of what reading a body may raise, HTTPException is what the framework hands on.
            try:
                async with asyncio.timeout(began + self._seconds_for(received) - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, "the body did not arrive in time; send it without pauses", headers={"connection": "close"}
                ) from None
            size = len(message.get("body", b""))
            received, more = received + size, bool(message.get("more_body", False))
            self._held[owner] += size
            if received > limit:
                raise HTTPException(413, too_large(limit))
            self._check_room(owner, received)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held[owner] -= received
            self._held = +self._held

    def _seconds_for(self, received: int) -> float:
        return self._limits.body_seconds + received / self._limits.body_rate

    def _check_room(self, owner: str, received: int) -> None:
        """Refuse a body that is not small where there are too many bytes of its client."""
        room = self._limits.held_bodies * self._limits.body_bytes
        if received > SMALL and self._held.total() > room and self._held[owner] > room // len(self._held):
            raise HTTPException(
                503, "too many large bodies are being answered; try again later", headers={"connection": "close"}
            )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = ApiError(413, too_large(self._limits.body_bytes)).response(scope["path"])
        # What is left of the body is not read.
        response.headers["connection"] = "close"
        await response(scope, receive, send)
