"""Sizes that one request may have, checked before any work."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.models.tokenizer import Check
from redraft.serve.errors import ApiError, to_json


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
    """ASGI middleware that refuses bodies beyond a size, also those that do not say how long they are."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # Of what reading a body may raise, this is what the framework hands on.
                raise HTTPException(413, too_large(self._max_bytes))
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = ApiError(413, too_large(self._max_bytes)).response(scope["path"])
        # What is left of the body is not read.
        response.headers["connection"] = "close"
        await response(scope, receive, send)
