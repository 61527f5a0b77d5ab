"""OpenAI's ``/v1/responses``: every field honoured, or refused by name. Nothing is stored; clients keep their turns."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BaseModel
from starlette.responses import Response

from redraft.constrain.constraint import Constraint
from redraft.engine.result import Chunk, Result
from redraft.engine.tools import ToolUse
from redraft.serve import deltas, prepare
from redraft.serve.answers import Answers, Done, EventStream
from redraft.serve.deltas import Piece, Pieces
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.prepare import Prepared
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.fields import JSON_OBJECT, OtherTool, UnreadPart, warnings_of
from redraft.serve.wire.openai.common import (
    FIELDS_OF_THINKING,
    FIELDS_OF_TOOLS,
    Choice,
    Function,
    call_for_template,
    fields_of,
    json_constraint,
    mode_of,
    not_run,
    thought_for_template,
    tools_of,
)
from redraft.serve.wire.openai.events import ResponseEvents
from redraft.serve.wire.openai.responses_fields import (
    AllowedChoice,
    AsJsonObject,
    AsSchema,
    EarlierReasoning,
    FunctionCall,
    FunctionCallOutput,
    FunctionTool,
    Message,
    NamedTool,
    Namespace,
    Part,
    Refusal,
    ResponsesBody,
    TextOptions,
)

router = APIRouter()

_FIELDS = fields_of(
    {
        **{"prompt": "input", "max_tokens": "max_output_tokens", "constraint": "text"},
        **FIELDS_OF_THINKING,
        **{"thinking": "reasoning", "reasoning_effort": "reasoning.effort"},
    }
)


@router.post("/v1/responses")
async def responses(body: ResponsesBody, http: HttpRequest) -> Response:
    """Answer a conversation."""
    here = serving(http, body.model)
    here.note_prompt(http, body.model_dump(include={"instructions", "input"}, exclude_none=True))
    prepared = await _prepare(here, body)
    answers = Answers(here, prepared.answers(), client_of(http, body.user or body.safety_identifier))
    names = {full: (space, function.name) for full, space, function in _functions(body)}
    summarised = body.reasoning is not None and body.reasoning.summarised is not None
    events = ResponseEvents(_described(here, prepared, body), names, summarised)
    headers = warnings_of(_left_out(body))
    if body.stream:
        return EventStream(_stream(prepared, answers, events), answers, headers)
    try:
        (result,) = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    return Json(events.whole(prepared, result, deltas.whole(prepared, result)), headers=headers)


async def _stream(prepared: Prepared, answers: Answers[Result], events: ResponseEvents) -> AsyncIterator[str]:
    """Yield text when its canvas has converged; what the constraint makes certain, before any work."""
    pieces = Pieces(prepared)
    try:
        certain = Piece(pieces.beginning, parts=pieces.certain_call.parts)
        for one in events.begin(certain):
            yield one
        if certain:
            answers.text_is_ready()
        async for _, event in answers.events():
            match event:
                case Chunk():
                    for one in events.add(pieces.add(event)):
                        yield one
                case Done(result=result):
                    for one in events.add(pieces.last()):
                        yield one
                    for one in events.end(prepared, result):
                        yield one
    except Exception as error:
        yield events.fail(of_engine(error, _FIELDS))


async def _prepare(here: Serving, body: ResponsesBody) -> Prepared:
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")
    tools = _tools(here, body)
    parameters = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "seed": body.seed,
        **body.sampling,
        "constraint": _format(here, body.text),
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
        "thinking_budget": body.thinking_budget,
        "chat_template_kwargs": body.chat_template_kwargs,
    }
    fields = _FIELDS if tools is None else _FIELDS | FIELDS_OF_TOOLS
    return await prepare.generation(here, _conversation(body), parameters, fields, tools)


def _functions(body: ResponsesBody) -> Iterator[tuple[str, str | None, FunctionTool]]:
    """Yield the functions that may be called: the name that the model knows, the namespace and the function."""
    for tool in body.tools or ():
        match tool:
            case FunctionTool():
                yield tool.name, None, tool
            case Namespace():
                about = tool.description
                for one in tool.tools:
                    if isinstance(one, FunctionTool):
                        # What is said of all of them is told once, with the first.
                        texts = [text for text in (about, one.description) if text]
                        about = None
                        described = one.model_copy(update={"description": "\n\n".join(texts) or None})
                        yield _full_name(tool.name, one.name), tool.name, described


def _full_name(namespace: str | None, name: str) -> str:
    return name if namespace is None else f"{namespace}.{name}"


def _left_out(body: ResponsesBody) -> Iterator[OtherTool]:
    for tool in body.tools or ():
        for one in tool.tools if isinstance(tool, Namespace) else (tool,):
            if isinstance(one, OtherTool):
                yield one


def _tools(here: Serving, body: ResponsesBody) -> ToolUse | None:
    match body.tool_choice:
        case NamedTool(name=name, namespace=space):
            choice = Choice("required", [_full_name(space, name)], one=True)
        case AllowedChoice(mode=mode, tools=allowed):
            choice = Choice(mode, [_full_name(tool.namespace, tool.name) for tool in allowed])
        case OtherTool() as other:
            raise not_run(other)
        case mode:
            choice = mode_of(mode)
    functions = [
        Function(name=full, description=tool.description, parameters=tool.parameters, strict=tool.strict)
        for full, _, tool in _functions(body)
    ]
    return tools_of(here, functions, choice, body.parallel_tool_calls)


def _format(here: Serving, wanted: TextOptions | None) -> Constraint | None:
    match wanted and wanted.format:
        case AsJsonObject():
            return JSON_OBJECT
        case AsSchema(schema_=schema):
            return json_constraint(here, schema, "text")
    return None


def _conversation(body: ResponsesBody) -> list[dict[str, Any]]:
    """Return messages as chat templates take them. What the model did in one turn, in several items, is one message."""
    shown: list[dict[str, Any]] = []
    if body.instructions is not None:
        shown.append({"role": "system", "content": body.instructions})
    for item in body.input:
        match item:
            case Message(role="assistant"):
                _own_turn(shown)["content"] += _text(item.content)
            case Message(role=role):
                speaker = "system" if role == "developer" else role
                shown.append({"role": speaker, "content": _text(item.content)})
            case EarlierReasoning(content=content, summary=summary):
                if thought := "".join(part.text for part in content or summary or ()):
                    turn = _own_turn(shown)
                    turn |= thought_for_template(turn.get("reasoning", "") + thought)
            case FunctionCall():
                name = _full_name(item.namespace, item.name)
                call = call_for_template(item.call_id, name, item.arguments, "input")
                _own_turn(shown).setdefault("tool_calls", []).append(call)
            case FunctionCallOutput():
                shown.append({"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id})
    return shown


def _own_turn(shown: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the model's message at the end, begun if there is none."""
    if not shown or shown[-1]["role"] != "assistant":
        shown.append({"role": "assistant", "content": ""})
    return shown[-1]


def _text(content: Sequence[Part]) -> str:
    """Return the text of parts; those that cannot be shown to the model are refused where the body is read."""
    shown = (part for part in content if not isinstance(part, UnreadPart))
    return "".join(part.refusal if isinstance(part, Refusal) else part.text for part in shown)


def _described(here: Serving, prepared: Prepared, body: ResponsesBody) -> dict[str, Any]:
    """Return what a response repeats of its request."""
    wanted = None if body.text is None else body.text.format
    return {
        "model": here.settings.model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {
            "effort": None if body.reasoning is None else body.reasoning.effort,
            "summary": None if body.reasoning is None else body.reasoning.summarised,
        },
        "seed": prepared.request.seed,
        "service_tier": "default",
        "store": False,
        "background": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": "auto" if body.tool_choice is None else _dumped(body.tool_choice),
        "tools": [_tool_dumped(tool) for tool in body.tools or ()],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": body.user,
        "safety_identifier": body.safety_identifier,
    }


def _dumped(choice: str | BaseModel) -> Any:
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)


def _tool_dumped(tool: BaseModel) -> dict[str, Any]:
    shown = tool.model_dump(exclude_none=True)
    return {"strict": True, **shown} if isinstance(tool, FunctionTool) else shown
