"""OpenAI's ``/v1/responses``: every field honoured, or refused by name. Nothing is stored; clients keep their turns."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import BeforeValidator, Discriminator, Field, Tag
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
from redraft.serve.wire.fields import JSON_OBJECT, Body, Seed, Temperature, Whole, WholeNucleus, only
from redraft.serve.wire.openai.common import (
    FIELDS_OF_TOOLS,
    Function,
    FunctionName,
    call_for_template,
    fields_of,
    json_constraint,
    tools_of,
)
from redraft.serve.wire.openai.events import ResponseEvents

router = APIRouter()

_NOT_STORED = "this server stores nothing; send the earlier turns in input"


class InputText(Body):
    """Text as a part of a message."""

    type: Literal["input_text"]
    text: str


class OutputText(Body):
    """Text that the model wrote in an earlier turn."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any] | None, only([])] = None
    logprobs: Annotated[list[Any] | None, only([])] = None
    parsed: Any = None
    """The value that the client's ``parse`` made of the text, and sends back beside it."""


class ReasoningText(Body):
    """Text that the model thought in an earlier turn."""

    type: Literal["reasoning_text"]
    text: str


Status = Literal["in_progress", "completed", "incomplete"]
Part = Annotated[InputText | OutputText, Discriminator("type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


# A string is one part: of a fault in a list, a union of both would say that it is no string.
Text = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]


class Message(Body):
    """A turn of somebody."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: str | None = None
    status: Status | None = None


class FunctionCall(Body):
    """A call that the model made in an earlier turn."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionCallOutput(Body):
    """The answer of a function."""

    type: Literal["function_call_output"]
    call_id: str
    output: Text
    id: str | None = None
    status: Status | None = None


class EarlierReasoning(Body):
    """A thought of an earlier turn."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[Any] | None, only([])] = None
    content: list[ReasoningText] | None = None
    encrypted_content: Annotated[str | None, only()] = None
    status: Status | None = None


def _kind(item: Any) -> str:
    """Return an item's type; a message need not name it."""
    found = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", "message")
    return str(found)


Item = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[EarlierReasoning, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="items are of the type message, function_call, function_call_output or reasoning",
    ),
]


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


Items = Annotated[list[Item], Field(min_length=1), BeforeValidator(_as_items, json_schema_input_type=str | list[Item])]


class OfFunction(Body):
    """A mark that something is about a function: there are no other tools."""

    type: Literal["function"]


# The last base's fields are looked at first: a tool of another type is refused for that, not for what it lacks.
class FunctionTool(Function, OfFunction):
    """A tool that the client runs."""


class NamedTool(FunctionName, OfFunction):
    """The tool that must be called."""


class AsText(Body):
    """Any text."""

    type: Literal["text"]


class AsJsonObject(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class AsSchema(Body):
    """JSON that is valid under a schema, whatever ``strict`` says."""

    type: Literal["json_schema"]
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextOptions(Body):
    """The form of the text."""

    format: Annotated[AsText | AsJsonObject | AsSchema, Discriminator("type")] | None = None
    verbosity: Annotated[Literal["medium"] | None, only("medium", instead="say in the prompt how long to be")] = None


class Reasoning(Body):
    """A switch: the model thinks first, or it does not."""

    effort: Annotated[
        Literal["none", "high"] | None,
        only("none", "high", instead="this model thinks or does not, and decides for itself how long"),
    ] = None
    summary: Annotated[str | None, only(instead="the thought itself is given, whole")] = None
    generate_summary: Annotated[str | None, only(instead="the thought itself is given, whole")] = None


class StreamOptions(Body):
    """Options of what a stream tells besides."""

    include_obfuscation: Literal[False] | None = None


class ResponsesBody(Body):
    """The body of a request for a response."""

    model: str
    input: Items
    instructions: str | None = None
    max_output_tokens: Whole | None = None
    temperature: Temperature | None = None
    seed: Seed = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Annotated[bool | None, only(False, instead=_NOT_STORED)] = None
    previous_response_id: Annotated[str | None, only(instead=_NOT_STORED)] = None
    conversation: Annotated[str | None, only(instead=_NOT_STORED)] = None
    background: Annotated[bool | None, only(False)] = None
    include: Annotated[list[str] | None, only([])] = None
    top_p: WholeNucleus = None
    top_logprobs: Annotated[int | None, only(0, instead="chat completions have log probabilities")] = None
    truncation: Annotated[Literal["disabled"] | None, only("disabled", instead="nothing is cut off a prompt")] = None
    service_tier: Annotated[Literal["auto", "default"] | None, only("auto", "default")] = None


_FIELDS = fields_of(
    {"prompt": "input", "max_tokens": "max_output_tokens", "constraint": "text", "thinking": "reasoning"}
)


@router.post("/v1/responses")
async def responses(body: ResponsesBody, http: HttpRequest) -> Response:
    """Answer a conversation."""
    here = serving(http)
    here.check_model(body.model)
    here.note_prompt(http, body.model_dump(include={"instructions", "input"}, exclude_none=True))
    prepared = await _prepare(here, body)
    answers = Answers(http, prepared.answers(), client_of(http, body.user or body.safety_identifier))
    events = ResponseEvents(_described(here, prepared, body))
    if body.stream:
        return EventStream(_stream(prepared, answers, events), answers)
    try:
        (result,) = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    return Json(events.whole(prepared, result, deltas.whole(prepared, result)))


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
    for field in ("tool_choice", "parallel_tool_calls"):
        if getattr(body, field) not in (None, "none") and not body.tools:
            raise bad_request(f"{field} needs tools", field)
    tools = _tools(here, body)
    parameters = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "seed": body.seed,
        "constraint": _format(here, body.text),
        "thinking": True if body.reasoning is not None and body.reasoning.effort == "high" else None,
    }
    fields = _FIELDS if tools is None else _FIELDS | FIELDS_OF_TOOLS
    return await prepare.generation(here, _conversation(body), parameters, fields, tools)


def _tools(here: Serving, body: ResponsesBody) -> ToolUse | None:
    if not body.tools:
        return None
    functions = [Function(**tool.model_dump(exclude={"type"})) for tool in body.tools]
    return tools_of(here, functions, body.tool_choice, body.parallel_tool_calls)


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
            case EarlierReasoning(content=content):
                _own_turn(shown)["reasoning_content"] = _text(content or [])
            case FunctionCall():
                call = call_for_template(item.call_id, item.name, item.arguments, "input")
                _own_turn(shown).setdefault("tool_calls", []).append(call)
            case FunctionCallOutput():
                shown.append({"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id})
    return shown


def _own_turn(shown: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the model's message at the end, begun if there is none."""
    if not shown or shown[-1]["role"] != "assistant":
        shown.append({"role": "assistant", "content": ""})
    return shown[-1]


def _text(content: Sequence[InputText | OutputText | ReasoningText]) -> str:
    return "".join(part.text for part in content)


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
        "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
        "seed": prepared.request.seed,
        "service_tier": "default",
        "store": False,
        "background": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": "auto" if body.tool_choice is None else _dumped(body.tool_choice),
        "tools": [{"strict": True, **tool.model_dump(exclude_none=True)} for tool in body.tools or ()],
        "top_p": 1.0,
        "truncation": "disabled",
        "user": body.user,
        "safety_identifier": body.safety_identifier,
    }


def _dumped(choice: str | NamedTool) -> Any:
    return choice if isinstance(choice, str) else choice.model_dump()
