"""Anthropic's ``/v1/messages``, with its strict order of events."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Field
from starlette.responses import Response

from redraft.engine.result import Chunk, Result
from redraft.engine.tools import ToolUse
from redraft.serve import deltas, prepare
from redraft.serve.answers import Answers, Done, EventStream
from redraft.serve.deltas import Piece, Pieces, usage_of
from redraft.serve.errors import Json, bad_request, of_engine, to_json
from redraft.serve.prepare import Prepared
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.fields import Body, Whole, only
from redraft.serve.wire.sampling import TopK, TopP, sampling_of

router = APIRouter()


class CacheControl(Body):
    """A wish to keep the prompt up to here. Prefixes are kept anyway, as memory allows; usage says what that saved."""

    type: Literal["ephemeral"]


class TextBlock(Body):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Annotated[list[str] | None, only([])] = None


class ThinkingBlock(Body):
    """An earlier thought of the model; the chat template decides what is shown of it."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(Body):
    """A call that the model made in an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Annotated[None, only()] = None


class ToolResultBlock(Body):
    """The answer of a tool."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool = False
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Discriminator("type")]


class Turn(Body):
    """A message of either side."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class CustomTool(Body):
    """A tool that the client runs. Its input is always valid under the schema."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Body):
    """When tools are to be called: if the model wants, surely, one by name, or never."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """A switch: the model thinks before it answers, or it does not."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Whole | None = None
    display: Annotated[Literal["summarized"] | None, only("summarized", instead="thoughts are shown whole")] = None


class Metadata(Body):
    """The user who asks."""

    user_id: str | None = None


class MessagesBody(Body):
    """The body of a message."""

    model: str
    max_tokens: Whole
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: list[CustomTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    metadata: Metadata | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    service_tier: Annotated[Literal["auto", "standard_only"] | None, only("auto", "standard_only")] = None


_FIELDS = {
    "prompt": "messages",
    "stop": "stop_sequences",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "constraint": "tools",
}


@router.post("/v1/messages")
async def messages(body: MessagesBody, http: HttpRequest) -> Response:
    """Answer a conversation."""
    here = serving(http)
    here.check_model(body.model)
    here.note_prompt(http, [turn.model_dump(exclude_none=True) for turn in body.messages])
    prepared = await _prepare(here, body)
    user = None if body.metadata is None else body.metadata.user_id
    answers = Answers(http, prepared.answers(), client_of(http, user))
    reply = _Reply(here, prepared)
    if body.stream:
        return EventStream(reply.stream(answers, http.url.path), answers)
    try:
        (result,) = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    return Json(reply.whole(result))


async def _prepare(here: Serving, body: MessagesBody) -> Prepared:
    tools = _tools(here, body)
    if tools is not None and body.stop_sequences:
        raise bad_request("stop_sequences cannot be given together with tools", "stop_sequences")
    parameters = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "stop": body.stop_sequences or None,
        **sampling_of(body),
        "thinking": _thinks(body) or None,
    }
    shown: list[dict[str, Any]] = []
    if body.system:
        shown.append({"role": "system", "content": _text(body.system)})
    for turn in body.messages:
        shown += _for_template(turn)
    return await prepare.generation(here, shown, parameters, _FIELDS, tools)


def _thinks(body: MessagesBody) -> bool:
    thinking = body.thinking
    if thinking is None or thinking.type == "disabled":
        return False
    budget = thinking.budget_tokens
    if thinking.type == "enabled" and (budget is None or budget < body.max_tokens - 1):
        raise bad_request(
            "thinking: how many of the tokens go into a thought cannot be bounded here; use {'type': 'adaptive'}, or "
            f"budget_tokens {body.max_tokens - 1} and more, which is all of max_tokens",
            "thinking",
        )
    return True


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def _for_template(turn: Turn) -> list[dict[str, Any]]:
    """Return a turn as chat templates take it; tools' answers become messages of their own, before its text."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    text, thought, calls, results = "", "", [], []
    for block in turn.content:
        match block:
            case TextBlock():
                text += block.text
            case ThinkingBlock():
                thought += block.thinking
            case ToolUseBlock():
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            case ToolResultBlock():
                said = _text(block.content)
                content = f"error: {said}" if block.is_error else said
                results.append({"role": "tool", "content": content, "tool_call_id": block.tool_use_id})
    message: dict[str, Any] = {"role": turn.role, "content": text}
    if calls:
        message["tool_calls"] = calls
    if thought:
        message["reasoning_content"] = thought
    return [*results, *([message] if text or calls or not results else [])]


def _tools(here: Serving, body: MessagesBody) -> ToolUse | None:
    if not body.tools:
        if body.tool_choice is not None and body.tool_choice.type != "none":
            raise bad_request("tool_choice needs tools", "tool_choice")
        return None
    tools, shown = [], []
    for given in body.tools:
        tools.append(prepare.tool(here, given.name, given.input_schema))
        function = {"name": given.name, "description": given.description or "", "parameters": given.input_schema}
        shown.append({"type": "function", "function": function})
    choice = body.tool_choice or ToolChoice(type="auto")
    max_calls = 1 if choice.disable_parallel_tool_use else None
    match choice.type:
        case "none":
            return ToolUse(tools, shown, 0, 0)
        case "auto":
            return ToolUse(tools, shown, 0, max_calls)
        case "any":
            return ToolUse(tools, shown, 1, max_calls)
    chosen = [tool for tool in tools if tool.name == choice.name]
    if not chosen:
        raise bad_request(f"tool_choice: there is no tool {choice.name!r}", "tool_choice")
    return ToolUse(chosen, shown, 1, 1)


class _Reply:
    """Writes an answer in Anthropic's words."""

    def __init__(self, here: Serving, prepared: Prepared) -> None:
        self._model, self._prepared = here.settings.model, prepared
        self._id = f"msg_{uuid4().hex}"

    def whole(self, result: Result) -> dict[str, Any]:
        """Return the message at once."""
        piece = deltas.whole(self._prepared, result)
        content: list[dict[str, Any]] = []
        if piece.thought:
            content.append({"type": "thinking", "thinking": piece.thought, "signature": ""})
        if piece.text or not piece.calls:
            content.append({"type": "text", "text": piece.text})
        content += [{**_use(call.name), "input": json.loads(call.arguments)} for call in piece.calls]
        cost = usage_of([result])
        return {
            **self._message(content, cost["prompt_tokens"] - cost["cached"], cost["cached"]),
            **self._stop(result, bool(piece.calls)),
            "usage": self._usage(result),
        }

    def _message(self, content: list[dict[str, Any]], given: int, cached: int) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": given, "cache_read_input_tokens": cached, "output_tokens": 0},
        }

    def _usage(self, result: Result) -> dict[str, Any]:
        cost = usage_of([result])
        return {
            "input_tokens": cost["prompt_tokens"] - cost["cached"],
            "cache_read_input_tokens": cost["cached"],
            "cache_creation_input_tokens": 0,
            "output_tokens": cost["completion_tokens"],
            "canvases": cost["canvases"],
            "denoising_steps": cost["denoising_steps"],
            "unconverged_canvases": list(result.unconverged_canvases),
        }

    def _stop(self, result: Result, called: bool) -> dict[str, Any]:
        stop = deltas.stop_string(self._prepared, result)
        if called:
            reason = "tool_use"
        elif stop is not None:
            reason = "stop_sequence"
        else:
            reason = "end_turn" if result.finish_reason == "stop" else "max_tokens"
        return {"stop_reason": reason, "stop_sequence": stop}

    async def stream(self, answers: Answers[Result], path: str) -> AsyncIterator[str]:
        """Yield message_start, each block's start, deltas and stop, message_delta, message_stop."""
        pieces, blocks = Pieces(self._prepared), _Blocks()
        try:
            yield _event("message_start", message=self._message([], len(self._prepared.request.prompt), 0))
            for one in blocks.add(pieces.certain_call):
                yield one
            if called := bool(pieces.certain_call):
                answers.text_is_ready()
            async for _, event in answers.events():
                if isinstance(event, Chunk):
                    piece = pieces.add(event)
                elif isinstance(event, Done):
                    piece = pieces.last()
                else:
                    continue
                called = called or bool(piece.parts)
                for one in blocks.add(piece):
                    yield one
                if isinstance(event, Done):
                    for one in blocks.close():
                        yield one
                    stop = self._stop(event.result, called)
                    yield _event("message_delta", delta=stop, usage=self._usage(event.result))
            yield _event("message_stop")
        except Exception as error:
            yield f"event: error\ndata: {to_json(of_engine(error, _FIELDS).envelope(path))}\n\n"


class _Blocks:
    """Content blocks one after the other: a new one where the kind of content changes."""

    def __init__(self) -> None:
        self._index, self._kind = -1, ""

    def add(self, piece: Piece) -> list[str]:
        """Return the events for more content."""
        events: list[str] = []
        if piece.thought:
            events += self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            events.append(self._delta({"type": "thinking_delta", "thinking": piece.thought}))
        if piece.text:
            events += self._open("text", {"type": "text", "text": ""})
            events.append(self._delta({"type": "text_delta", "text": piece.text}))
        for part in piece.parts:
            if part.name is not None:
                events += [*self._stop(), *self._open("tool_use", {**_use(part.name), "input": {}})]
            if part.arguments:
                events.append(self._delta({"type": "input_json_delta", "partial_json": part.arguments}))
        return events

    def close(self) -> list[str]:
        """Return the events at the end; an answer without any content is an empty text."""
        opened = [] if self._index >= 0 else self._open("text", {"type": "text", "text": ""})
        return [*opened, *self._stop()]

    def _open(self, kind: str, block: dict[str, Any]) -> list[str]:
        if kind == self._kind:
            return []
        events = self._stop()
        self._index, self._kind = self._index + 1, kind
        return [*events, _event("content_block_start", index=self._index, content_block=block)]

    def _delta(self, delta: dict[str, Any]) -> str:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> list[str]:
        if not self._kind:
            return []
        events = [self._delta({"type": "signature_delta", "signature": ""})] if self._kind == "thinking" else []
        self._kind = ""
        return [*events, _event("content_block_stop", index=self._index)]


def _event(kind: str, **content: Any) -> str:
    return f"event: {kind}\ndata: {to_json({'type': kind, **content})}\n\n"


def _use(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{uuid4().hex}", "name": name}
