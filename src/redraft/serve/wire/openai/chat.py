"""OpenAI's ``/v1/chat/completions``: every field honoured, or refused by name."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from redraft.constrain.constraint import Choice as OneOf
from redraft.constrain.constraint import Constraint, Regex
from redraft.engine.result import Chunk, Result, StepEvent, TokenLogprob
from redraft.engine.tools import ToolUse
from redraft.models.tools import ToolCall
from redraft.serve import deltas, prepare
from redraft.serve.answers import Answers, Done, EventStream
from redraft.serve.deltas import Piece, Pieces, if_late
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.prepare import Prepared
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.fields import JSON_OBJECT, OtherTool, warnings_of
from redraft.serve.wire.openai.chat_fields import (
    AllowedChoice,
    AsJsonObject,
    AsSchema,
    AsText,
    ChatBody,
    FromModel,
    FromTool,
    FromUser,
    Instruction,
    NamedTool,
    StructuredOutputs,
    text_of,
)
from redraft.serve.wire.openai.common import (
    DONE,
    FIELDS_OF_THINKING,
    FIELDS_OF_TOOLS,
    FINGERPRINT,
    Choice,
    call_for_template,
    fields_of,
    frame,
    json_constraint,
    mode_of,
    not_run,
    running,
    thought_for_template,
    thought_tokens,
    token_logprob,
    tools_of,
    usage,
)

router = APIRouter()

_FIELDS = fields_of({"prompt": "messages", "constraint": "response_format", **FIELDS_OF_THINKING})


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatBody, http: HttpRequest) -> Response:
    """Answer a conversation."""
    here = serving(http, body.model)
    here.note_prompt(http, [message.model_dump(exclude_none=True) for message in body.messages])
    prepared = await _prepare(here, body)
    client = client_of(http, body.user or body.safety_identifier)
    headers = warnings_of(body.left_out)
    answers = Answers(here, prepared.answers(body.n or 1), client, steps=bool(body.diffusing))
    reply = _Reply(here, prepared, body)
    if body.stream:
        frames = reply.diffusing(answers) if body.diffusing else reply.stream(answers)
        return EventStream(_with_errors(frames, http.url.path), answers, headers)
    try:
        results = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    return Json(reply.whole(results), headers=headers)


async def _prepare(here: Serving, body: ChatBody) -> Prepared:
    _check_together(here, body)
    messages = [for_template(message) for message in body.messages]
    tools = _tools(here, body)
    parameters = {
        "max_tokens": body.max_completion_tokens if body.max_tokens is None else body.max_tokens,
        "temperature": body.temperature,
        "seed": body.random_seed if body.seed is None else body.seed,
        **body.sampling,
        "stop": body.stop,
        "constraint": _format(here, body.response_format, body.structured_outputs),
        "reasoning_effort": body.reasoning_effort,
        "thinking_budget": body.thinking_token_budget if body.thinking_budget is None else body.thinking_budget,
        "chat_template_kwargs": body.chat_template_kwargs,
        "top_logprobs": (body.top_logprobs or 0) if body.logprobs else None,
    }
    fields = dict(_FIELDS)
    if body.max_tokens is None:
        fields["max_tokens"] = "max_completion_tokens"
    if body.thinking_budget is None:
        fields["thinking_budget"] = "thinking_token_budget"
    if body.structured_outputs is not None:
        fields["constraint"] = "structured_outputs"
    if tools is not None:
        fields |= FIELDS_OF_TOOLS
    prepared = await prepare.generation(here, messages, parameters, fields, tools)
    if body.diffusing and prepared.request.mode != "diffusion":
        raise bad_request(
            f"diffusing shows canvases, and mode {prepared.request.mode!r} shows none; leave it out", "diffusing"
        )
    if body.logprobs and prepared.request.thought is not None:
        raise bad_request("logprobs are those of the answer's tokens; they cannot be given with a thought", "logprobs")
    return prepared


def _check_together(here: Serving, body: ChatBody) -> None:
    """Refuse fields that only make sense with others, or not together."""
    formatted = body.response_format is not None and body.response_format.type != "text"
    constrained = formatted or body.structured_outputs is not None
    several = body.n is not None and body.n > 1
    if body.n is not None and body.n > here.limits.choices:
        raise bad_request(f"n: {body.n} answers; this server gives at most {here.limits.choices}", "n")
    both = body.max_completion_tokens not in (None, body.max_tokens) and body.max_tokens is not None
    for wrong, param, message in (
        (both, "max_tokens", "max_tokens and max_completion_tokens limit the same, and differ; give one"),
        (body.stream_options is not None and not body.stream, "stream_options", "stream_options needs stream: true"),
        (body.diffusing and not body.stream, "diffusing", "diffusing needs stream: true"),
        (body.diffusing and several, "diffusing", "diffusing is for one answer; leave n out"),
        (body.seed is not None and body.random_seed is not None, "random_seed",
         "seed and random_seed say the same; give one of them"),
        (formatted and body.structured_outputs is not None, "structured_outputs",
         "structured_outputs and response_format both say what may be answered; give one of them"),
        (body.diffusing and body.functions_given, "diffusing", "diffusing cannot show tool calls; leave tools out"),
        (body.diffusing and body.logprobs, "diffusing", "diffusing text has no log probabilities; leave logprobs out"),
        (body.top_logprobs and not body.logprobs, "top_logprobs", "top_logprobs needs logprobs: true"),
        (body.logprobs and (constrained or body.functions_given), "logprobs",
         "logprobs are those of the model's own choice; they cannot be given with tools or with a response_format"),
        (body.thinking_budget is not None and body.thinking_token_budget is not None, "thinking_budget",
         "thinking_budget and thinking_token_budget say the same; give one of them"),
    ):  # fmt: skip
        if wrong:
            raise bad_request(message, param)


def for_template(message: Instruction | FromUser | FromModel | FromTool) -> dict[str, Any]:
    """Return a message as chat templates take it."""
    shown: dict[str, Any] = {"role": message.role, "content": text_of(message.content)}
    if message.name is not None:
        shown["name"] = message.name
    match message:
        case Instruction():
            shown["role"] = "system"
        case FromModel():
            if message.tool_calls:
                shown["tool_calls"] = [
                    call_for_template(call.id, call.function.name, call.function.arguments, "messages")
                    for call in message.tool_calls
                ]
            shown |= thought_for_template(message.reasoning_content or message.reasoning)
        case FromTool():
            shown["tool_call_id"] = message.tool_call_id
        case FromUser():
            pass
    return shown


def _format(
    here: Serving, wanted: AsText | AsJsonObject | AsSchema | None, structured: StructuredOutputs | None
) -> Constraint | None:
    match wanted:
        case AsJsonObject():
            return JSON_OBJECT
        case AsSchema(json_schema=named):
            return json_constraint(here, named.schema_, "response_format")
    match structured:
        case StructuredOutputs(regex=str(pattern)):
            here.limits.check_schema(pattern, "structured_outputs")
            return Regex(pattern)
        case StructuredOutputs(choice=list(options)):
            return OneOf(options)
        case StructuredOutputs():
            return json_constraint(here, structured.schema_given, "structured_outputs")
    return None


def _tools(here: Serving, body: ChatBody) -> ToolUse | None:
    match body.tool_choice:
        case NamedTool(function=function):
            choice = Choice("required", [function.name], one=True)
        case AllowedChoice(allowed_tools=allowed):
            choice = Choice(allowed.mode, [tool.function.name for tool in allowed.tools])
        case OtherTool() as other:
            raise not_run(other)
        case mode:
            choice = mode_of(mode)
    functions = [tool.function for tool in body.functions_given]
    return tools_of(here, functions, choice, body.parallel_tool_calls)


async def _with_errors(frames: AsyncIterator[str], path: str) -> AsyncIterator[str]:
    """Yield ``frames``; what fails after the first of them is told in one of its own, and ends the stream."""
    try:
        async for one in frames:
            yield one
    except Exception as error:
        yield frame(of_engine(error, _FIELDS).envelope(path))


class _Reply:
    """Writes answers in OpenAI's words."""

    def __init__(self, here: Serving, prepared: Prepared, body: ChatBody) -> None:
        self._prepared, self._body = prepared, body
        self._written = 0
        """Tokens of all answers so far."""
        self._head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": here.settings.model,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """Return all answers at once."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(index, result) for index, result in enumerate(results)],
            "usage": self._usage(results),
        }

    def _choice(self, index: int, result: Result) -> dict[str, Any]:
        piece = deltas.whole(self._prepared, result)
        stopped = deltas.stop_string(self._prepared, result) is not None
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        message |= self._thought(piece)
        if piece.calls:
            message["content"] = piece.text or None
            message["tool_calls"] = [_call(call) for call in piece.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(result.logprobs),
            **self._end(result, bool(piece.calls), stopped),
        }

    def _thought(self, piece: Piece) -> dict[str, str]:
        """Tell a thought by both of the names that clients know."""
        if not piece.thought or self._body.reasoning_summary is False:
            return {}
        return {"reasoning_content": piece.thought, "reasoning": piece.thought}

    def _end(self, result: Result, called: bool, stopped: bool = False) -> dict[str, Any]:
        """``stopped``: the text beside calls ended at a stop string."""
        return {
            "finish_reason": "tool_calls" if called else "stop" if stopped else result.finish_reason,
            "seed": result.seed,
            "unconverged_canvases": list(result.unconverged_canvases),
            **if_late(result),
        }

    def _usage(self, results: Sequence[Result]) -> dict[str, Any]:
        return usage(results, thought_tokens(self._prepared, results))

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        content = [token_logprob(self._prepared, one) for one in logprobs]
        return {"content": content, "refusal": None}

    def _chunk(self, index: int, delta: dict[str, Any], **more: Any) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return self._frame([choice], None)

    def _frame(self, choices: list[dict[str, Any]], cost: dict[str, Any] | None) -> str:
        content = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        options = self._body.stream_options
        if options is not None and options.include_usage:
            so_far = options.continuous_usage_stats
            content["usage"] = running(len(self._prepared.request.prompt), self._written) if so_far else None
            if cost is not None:
                content["usage"] = cost
        return frame(content)

    @property
    def _wants_usage(self) -> bool:
        return self._body.stream_options is not None and self._body.stream_options.include_usage

    def _deltas(self, piece: Piece) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        if thought := self._thought(piece):
            deltas.append(thought)
        if piece.text:
            deltas.append({"content": piece.text})
        for part in piece.parts:
            new = {"function": {"arguments": part.arguments}}
            call = new if part.name is None else _call(ToolCall(part.name, part.arguments))
            deltas.append({"tool_calls": [{"index": part.call, **call}]})
        return deltas

    async def stream(self, answers: Answers[Result]) -> AsyncIterator[str]:
        """Yield text when its canvas has converged; what the constraint makes certain, before any work."""
        pieces = [Pieces(self._prepared) for _ in range(len(answers))]
        called = [False] * len(pieces)
        results: dict[int, Result] = {}
        for index, one in enumerate(pieces):
            yield self._chunk(index, {"role": "assistant", "content": one.beginning, "refusal": None})
            for delta in self._deltas(one.certain_call):
                yield self._chunk(index, delta)
            if one.beginning or one.certain_call:
                answers.text_is_ready()
        async for index, event in answers.events():
            match event:
                case Chunk():
                    self._written += len(event.token_ids)
                    piece, logprobs = pieces[index].add(event), self._logprobs(event.logprobs)
                case Done(result=result):
                    results[index] = result
                    piece, logprobs = pieces[index].last(), None
                case _:
                    continue
            for delta in self._deltas(piece):
                yield self._chunk(index, delta, logprobs=logprobs)
                logprobs = None
            if logprobs and logprobs["content"]:
                yield self._chunk(index, {"content": ""}, logprobs=logprobs)
            called[index] |= bool(piece.parts)
            if isinstance(event, Done):
                yield self._chunk(index, {}, **self._end(event.result, called[index], pieces[index].stopped))
        if self._wants_usage:
            yield self._frame([], self._usage([results[index] for index in sorted(results)]))
        yield DONE

    async def diffusing(self, answers: Answers[Result]) -> AsyncIterator[str]:
        """Yield Mercury's chunks: the content is the whole text as the canvas has it, and replaces what was there."""
        yield self._chunk(0, {"role": "assistant", "content": ""})
        before: list[int] = []
        async for _, event in answers.events():
            match event:
                case StepEvent():
                    argmax = event.argmax.tolist()
                    text = await asyncio.to_thread(deltas.text_as_it_stands, self._prepared, before, argmax)
                    answers.text_is_ready()
                    yield self._chunk(0, {"content": text})
                case Chunk():
                    self._written += len(event.token_ids)
                    before += event.token_ids
                    if thought := self._thought(Piece(thought=event.thought)):
                        yield self._chunk(0, thought)
                case Done(result=result):
                    yield self._chunk(0, {"content": result.text})
                    yield self._chunk(0, {}, **self._end(result, False))
                    if self._wants_usage:
                        yield self._frame([], self._usage([result]))
        yield DONE


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"call_{uuid4().hex}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
