"""The fields of a request for a response."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from redraft.engine.thinking import ReasoningEffort
from redraft.serve.wire.fields import (
    HINT,
    Body,
    OtherTool,
    Seed,
    Temperature,
    ThinkingBudget,
    UnreadPart,
    Whole,
    only,
)
from redraft.serve.wire.openai.common import Function, FunctionName, kind_of_choice, kind_of_tool
from redraft.serve.wire.sampling import Sampled

_NOT_STORED = "this server stores nothing; send the earlier turns in input"


class InputText(Body):
    """Text as a part of a message."""

    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Annotated[Any, HINT] = None


class InputImage(UnreadPart):
    """An image."""

    what = "images"
    type: Literal["input_image"]


class InputFile(UnreadPart):
    """A file."""

    what = "files"
    type: Literal["input_file"]


class OutputText(Body):
    """Text that the model wrote in an earlier turn."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any] | None, only([])] = None
    logprobs: Annotated[list[Any] | None, only([])] = None
    parsed: Annotated[Any, HINT] = None
    """The value that the client's ``parse`` made of the text, and sends back beside it."""


class Refusal(Body):
    """A refusal, which the model wrote in an earlier turn in the place of an answer."""

    type: Literal["refusal"]
    refusal: str


class ReasoningText(Body):
    """Text that the model thought in an earlier turn."""

    type: Literal["reasoning_text"]
    text: str


Status = Literal["in_progress", "completed", "incomplete"]
Part = Annotated[InputText | OutputText | Refusal | InputImage | InputFile, Discriminator("type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


# A string is one part: of a fault in a list, a union of both would say that it is no string.
Text = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]


class Message(Body):
    """A turn of somebody."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: Annotated[str | None, HINT] = None
    status: Annotated[Status | None, HINT] = None
    phase: Annotated[Literal["commentary", "final_answer"] | None, HINT] = None


class FunctionCall(Body):
    """A call that the model made in an earlier turn."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    id: Annotated[str | None, HINT] = None
    status: Annotated[Status | None, HINT] = None
    caller: Annotated[dict[str, Any] | None, HINT] = None


class FunctionCallOutput(Body):
    """The answer of a function."""

    type: Literal["function_call_output"]
    call_id: str
    output: Text
    id: Annotated[str | None, HINT] = None
    status: Annotated[Status | None, HINT] = None
    name: Annotated[str | None, HINT] = None
    namespace: Annotated[str | None, HINT] = None
    caller: Annotated[dict[str, Any] | None, HINT] = None


class SummaryText(Body):
    """A summary of what the model thought in an earlier turn; of this server's, the thought itself."""

    type: Literal["summary_text"]
    text: str


class EarlierReasoning(Body):
    """A thought of an earlier turn: its content or, where it has none, the summary of it."""

    type: Literal["reasoning"]
    id: Annotated[str | None, HINT] = None
    summary: list[SummaryText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: Annotated[str | None, HINT] = None
    """A thought that another server may have written for itself."""
    status: Annotated[Status | None, HINT] = None


class ItemReference(BaseModel):
    """A name of an item that a server which stores them would know."""

    model_config = ConfigDict(extra="allow")
    type: Literal["item_reference"]

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        raise ValueError(f"{_NOT_STORED}, each item whole, as clients do that are told store: false")


def _kind(item: Any) -> str:
    """Return an item's type; a message need not name it."""
    found = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", "message")
    return str(found)


Item = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[EarlierReasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
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
    """A mark that something is about a function."""

    type: Literal["function"]


# The last base's fields are looked at first: a tool of another type is refused for that, not for what it lacks.
class FunctionTool(Function, OfFunction):
    """A tool that the client runs."""

    defer_loading: Annotated[bool | None, HINT] = None
    """All tools are shown to the model at once."""
    allowed_callers: Annotated[list[str] | None, HINT] = None
    output_schema: Annotated[dict[str, Any] | None, HINT] = None


class Namespace(Body):
    """Functions that share the first part of their names."""

    type: Literal["namespace"]
    name: str
    description: str | None = None
    tools: list[
        Annotated[
            Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(kind_of_tool)
        ]
    ]


class NamedTool(FunctionName, OfFunction):
    """The tool that must be called."""

    namespace: str | None = None


class AllowedChoice(Body):
    """Only some of the tools may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


def _kind_of_tool(tool: Any) -> str:
    found = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return "namespace" if found == "namespace" else kind_of_tool(tool)


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[Namespace, Tag("namespace")]
    | Annotated[OtherTool, Tag("other")],
    Discriminator(_kind_of_tool),
]
ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required", "any"], Tag("mode")]
    | Annotated[NamedTool, Tag("function")]
    | Annotated[AllowedChoice, Tag("allowed_tools")]
    | Annotated[OtherTool, Tag("other")],
    Discriminator(kind_of_choice),
]


class AsText(Body):
    """Any text."""

    type: Literal["text"]


class AsJsonObject(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class AsSchema(Body):
    """JSON that is valid under a schema, whatever ``strict`` says."""

    type: Literal["json_schema"]
    name: Annotated[str, HINT]
    description: Annotated[str | None, HINT] = None
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    strict: Annotated[bool | None, HINT] = None


class TextOptions(Body):
    """The form of the text."""

    format: Annotated[AsText | AsJsonObject | AsSchema, Discriminator("type")] | None = None
    verbosity: Annotated[Literal["medium"] | None, only("medium", instead="say in the prompt how long to be")] = None


Summary = Literal["auto", "concise", "detailed"]


class Reasoning(Body):
    """The effort of thinking, and the place where the thought is told: as its item's content, or where a summary is
    wanted, whole, as that."""

    effort: ReasoningEffort | None = None
    summary: Summary | Literal["none"] | None = None
    generate_summary: Summary | None = None
    """The same by an older name."""
    context: Annotated[str | None, HINT] = None
    """The chat template decides which earlier thoughts the model is shown."""

    @property
    def summarised(self) -> Summary | None:
        """The kind of summary that is wanted; None for none."""
        if self.summary is None or self.summary == "none":
            return self.generate_summary
        return self.summary


class StreamOptions(Body):
    """Options of what a stream tells besides."""

    include_usage: Annotated[bool | None, HINT] = None
    """The last event has it in any case."""
    include_obfuscation: Annotated[bool | None, only(False)] = None


def _included(name: Any) -> Any:
    if name == "message.output_text.logprobs":
        raise ValueError("log probabilities are given by chat completions alone; leave them out")
    return name


# What hosted tools would have found, and thoughts in a form that clients cannot read: there is none of it to include.
Include = Annotated[str, AfterValidator(_included)]


class ResponsesBody(Sampled):
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
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    thinking_budget: ThinkingBudget | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Annotated[bool | None, only(False, instead=_NOT_STORED)] = None
    previous_response_id: Annotated[str | None, only(instead=_NOT_STORED)] = None
    conversation: Annotated[str | None, only(instead=_NOT_STORED)] = None
    background: Annotated[bool | None, only(False)] = None
    max_tool_calls: Annotated[int | None, HINT] = None
    """It counts calls of tools that a server runs; there are none."""
    include: Annotated[list[Include] | None, HINT] = None
    prompt_cache_key: Annotated[str | None, HINT] = None
    prompt_cache_retention: Annotated[str | None, HINT] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, HINT] = None
    client_metadata: Annotated[dict[str, Any] | None, HINT] = None
    context_management: Annotated[list[Any] | None, only([], instead="the conversation is never cut")] = None
    prompt: Annotated[None, only(instead=_NOT_STORED)] = None
    moderation: Annotated[None, only()] = None
    top_logprobs: Annotated[int | None, only(0, instead="chat completions have log probabilities")] = None
    truncation: Annotated[Literal["disabled"] | None, only("disabled", instead="nothing is cut off a prompt")] = None
    service_tier: Annotated[Literal["auto", "default"] | None, only("auto", "default")] = None
