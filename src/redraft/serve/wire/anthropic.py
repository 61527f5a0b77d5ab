"""Anthropic's ``/v1/messages``, with its strict order of events."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel
from starlette.responses import Response

from redraft.constrain.constraint import Constraint
from redraft.engine.result import Chunk, Result
from redraft.engine.tools import ToolUse
from redraft.serve import deltas, prepare
from redraft.serve.answers import Answers, Done, EventStream
from redraft.serve.deltas import Piece, Pieces, if_late, usage_of
from redraft.serve.errors import ApiError, Json, bad_request, of_engine, to_json
from redraft.serve.prepare import Prepared
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.anthropic_fields import (
    CountBody,
    CustomTool,
    MessagesBody,
    RedactedThinkingBlock,
    TextBlock,
    Thinking,
    ThinkingBlock,
    ToolChoice,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from redraft.serve.wire.fields import warnings_of
from redraft.serve.wire.openai.common import json_constraint, thought_for_template

router = APIRouter()


_FIELDS = {
    "prompt": "messages",
    "stop": "stop_sequences",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "constraint": "tools",
    "thinking": "thinking",
    "thinking_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
}


@router.post("/v1/messages")
async def messages(body: MessagesBody, http: HttpRequest) -> Response:
    """Answer a conversation."""
    here = serving(http, body.model)
    here.note_prompt(http, [turn.model_dump(exclude_none=True) for turn in body.messages])
    prepared = await _prepare(here, body)
    user = None if body.metadata is None else body.metadata.user_id
    answers = Answers(here, prepared.answers(), client_of(http, user))
    reply = _Reply(here, prepared, _omits_thoughts(body))
    headers = warnings_of(body.left_out)
    if body.stream:
        return EventStream(reply.stream(answers, http.url.path), answers, headers)
    try:
        (result,) = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    return Json(reply.whole(result), headers=headers)


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountBody, http: HttpRequest) -> Response:
    """Count the tokens of the prompt that a message would be answered to."""
    here = serving(http, body.model)
    tools, thinking = _tools(here, body), _thinking(body)["thinking"]

    def count() -> int:
        return len(prepare.prompt_tokens(here, _conversation(body), "messages", thinking, tools))

    return Json({"input_tokens": await here.check(count, _FIELDS)}, headers=warnings_of(body.left_out))


async def _prepare(here: Serving, body: MessagesBody) -> Prepared:
    tools = _tools(here, body)
    parameters = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "stop": body.stop_sequences or None,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "mode": body.mode,
        "deadline_ms": body.deadline_ms,
        "quality": body.quality,
        **_thinking(body),
        "constraint": _format(here, body),
    }
    fields = dict(_FIELDS) if tools is not None else {**_FIELDS, "constraint": "output_config"}
    return await prepare.generation(here, _conversation(body), parameters, fields, tools)


def _format(here: Serving, body: CountBody) -> Constraint | None:
    wanted = None if body.output_config is None else body.output_config.format
    if wanted is not None and body.output_format is not None:
        raise bad_request("output_format is the older name of output_config.format; give one of them", "output_format")
    wanted = wanted or body.output_format
    return None if wanted is None else json_constraint(here, wanted.schema_, "output_config")


def _conversation(body: CountBody) -> list[dict[str, Any]]:
    """Return the messages as chat templates take them. Instructions at the beginning are one: many templates know one
    alone."""
    shown: list[dict[str, Any]] = [{"role": "system", "content": _text(body.system)}] if body.system else []
    for turn in body.messages:
        new = _for_template(turn)
        if turn.role == "system" and len(shown) == 1 and shown[0]["role"] == "system":
            shown[0]["content"] += f"\n\n{new[0]['content']}"
        else:
            shown += new
    return shown


def _omits_thoughts(body: MessagesBody) -> bool:
    return body.thinking is not None and body.thinking.display == "omitted"


def _thinking(body: CountBody) -> dict[str, Any]:
    """Return what decides whether and how long the model thinks. An effort alone asks for care, not for a thought."""
    thinking = body.thinking or Thinking(type="disabled")
    if thinking.type == "enabled" and thinking.budget_tokens is None:
        raise bad_request("thinking: 'enabled' needs budget_tokens; 'adaptive' does without", "thinking.budget_tokens")
    if thinking.type == "disabled" and thinking.budget_tokens is not None:
        raise bad_request("thinking: 'disabled' has no budget_tokens; leave them out", "thinking.budget_tokens")
    return {
        "thinking": thinking.type != "disabled",
        "thinking_budget": thinking.budget_tokens,
        "reasoning_effort": None if body.output_config is None else body.output_config.effort,
    }


def _text(content: Sequence[BaseModel]) -> str:
    """Return the text of blocks; that of a tool's name, which a search found, is the name."""
    texts = [
        block.tool_name if isinstance(block, ToolReferenceBlock) else block.text
        for block in content
        if isinstance(block, TextBlock | ToolReferenceBlock)
    ]
    return "".join(texts)


def _for_template(turn: Turn) -> list[dict[str, Any]]:
    """Return a turn as chat templates take it; tools' answers become messages of their own, before its text."""
    text, thought, calls, results = "", "", [], []
    for block in turn.content:
        match block:
            case TextBlock():
                text += block.text
            case ThinkingBlock():
                thought += block.thinking
            case RedactedThinkingBlock():
                pass
            case ToolUseBlock():
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            case ToolResultBlock():
                said = _text(block.content or ())
                content = f"error: {said}" if block.is_error else said
                results.append({"role": "tool", "content": content, "tool_call_id": block.tool_use_id})
    message: dict[str, Any] = {"role": turn.role, "content": text}
    if calls:
        message["tool_calls"] = calls
    message |= thought_for_template(thought)
    return [*results, *([message] if text or calls or not results else [])]


def _tools(here: Serving, body: CountBody) -> ToolUse | None:
    choice = body.tool_choice or ToolChoice(type="auto")
    named = next((tool for tool in body.left_out if choice.type == "tool" and tool.name == choice.name), None)
    if named is not None:
        raise bad_request(
            f"tool_choice: {choice.name!r} is of the type {named.type!r}, which this server does not run", "tool_choice"
        )
    given = [tool for tool in body.tools or () if isinstance(tool, CustomTool)]
    if not given:
        if choice.type in ("any", "tool"):
            raise bad_request("tool_choice needs tools that the client runs", "tool_choice")
        return None
    tools = [prepare.tool(here, tool.name, tool.input_schema) for tool in given]
    shown = [_shown(tool) for tool in given]
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


def _shown(tool: CustomTool) -> dict[str, Any]:
    """Return a tool as chat templates take it."""
    examples = [f"Example: {to_json(example)}" for example in tool.input_examples or ()]
    description = "\n\n".join(filter(None, (tool.description, *examples)))
    function = {"name": tool.name, "description": description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def failed(error: ApiError, path: str) -> str:
    """Return the event that ends a stream in the midst of it."""
    return _event("error", **error.envelope(path))


class _Reply:
    """Writes an answer in Anthropic's words."""

    def __init__(self, here: Serving, prepared: Prepared, omits_thoughts: bool) -> None:
        self._model, self._prepared, self._omits_thoughts = here.settings.model, prepared, omits_thoughts
        self._id = f"msg_{uuid4().hex}"

    def whole(self, result: Result) -> dict[str, Any]:
        """Return the message at once."""
        piece = deltas.whole(self._prepared, result)
        content: list[dict[str, Any]] = []
        if piece.thought:
            thought = "" if self._omits_thoughts else piece.thought
            content.append({"type": "thinking", "thinking": thought, "signature": ""})
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
            "forwards": cost["forwards"],
            "accepted_drafts": cost["accepted_drafts"],
            "unconverged_canvases": list(result.unconverged_canvases),
            **if_late(result),
        }

    def _stop(self, result: Result, called: bool) -> dict[str, Any]:
        stop = deltas.stop_string(self._prepared, result)
        # A stop string ends the text before the calls, so that there is none then.
        if called:
            reason = "tool_use"
        elif stop is not None:
            reason = "stop_sequence"
        else:
            reason = "end_turn" if result.finish_reason == "stop" else "max_tokens"
        return {"stop_reason": reason, "stop_sequence": stop}

    async def stream(self, answers: Answers[Result], path: str) -> AsyncIterator[str]:
        """Yield message_start, each block's start, deltas and stop, message_delta, message_stop."""
        pieces, blocks = Pieces(self._prepared), _Blocks(self._omits_thoughts)
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
            yield failed(of_engine(error, _FIELDS), path)


class _Blocks:
    """Content blocks one after the other: a new one where the kind of content changes."""

    def __init__(self, omits_thoughts: bool = False) -> None:
        self._index, self._kind, self._omits_thoughts = -1, "", omits_thoughts

    def add(self, piece: Piece) -> list[str]:
        """Return the events for more content."""
        events: list[str] = []
        if piece.thought:
            events += self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            if not self._omits_thoughts:
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
