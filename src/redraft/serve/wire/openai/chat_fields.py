"""The fields of a chat completion: what OpenAI's own clients send, and those that other servers have besides."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from redraft.engine.thinking import ReasoningEffort
from redraft.serve.wire.fields import (
    HINT,
    Body,
    OtherTool,
    Seed,
    Stop,
    Temperature,
    ThinkingBudget,
    UnreadPart,
    Whole,
    only,
)
from redraft.serve.wire.openai.common import (
    Function,
    FunctionName,
    StreamOptions,
    TopLogprobs,
    kind_of_choice,
    kind_of_tool,
)
from redraft.serve.wire.sampling import Sampled


class TextPart(Body):
    """Text as a part of a message's content."""

    type: Literal["text"]
    text: str
    cache_control: Annotated[dict[str, Any] | None, HINT] = None


class ImagePart(UnreadPart):
    """An image."""

    what = "images"
    type: Literal["image_url"]


class AudioPart(UnreadPart):
    """Sound."""

    what = "sounds"
    type: Literal["input_audio"]


class VideoPart(UnreadPart):
    """A video."""

    what = "videos"
    type: Literal["video_url"]


class FilePart(UnreadPart):
    """A file."""

    what = "files"
    type: Literal["file"]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Part = Annotated[TextPart | ImagePart | AudioPart | VideoPart | FilePart, Discriminator("type")]
# A string is one part: of a fault in a list, a union of both would say that it is no string.
Content = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]


class OfMessage(Body):
    """Fields that messages of all roles may have."""

    name: str | None = None
    """Who speaks, among several of one role; the chat template decides whether the model is told."""
    type: Annotated[Literal["text", "message"] | None, HINT] = None


class Instruction(OfMessage):
    """An instruction that the model is given before the conversation."""

    role: Literal["system", "developer"]
    content: Content


class FromUser(OfMessage):
    """A message of the user."""

    role: Literal["user"]
    content: Content


class CalledFunction(Body):
    """A call's function and its arguments, JSON text or an object."""

    name: str
    arguments: str | dict[str, Any]


class EarlierCall(Body):
    """A call that the model made in an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[int | None, HINT] = None


class FromModel(OfMessage):
    """A message that the model wrote in an earlier turn."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[EarlierCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """The same by another name, which some servers have."""
    refusal: Annotated[str | None, only()] = None
    audio: Annotated[str | None, only()] = None
    function_call: Annotated[str | None, only(instead="use tool_calls")] = None
    annotations: Annotated[list[Any] | None, only([])] = None
    prefix: Annotated[bool | None, only(False, instead="say in the prompt how to begin")] = None


class FromTool(OfMessage):
    """A message that a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[Instruction | FromUser | FromModel | FromTool, Discriminator("role")]


class AsText(Body):
    """Any text."""

    type: Literal["text"]


class AsJsonObject(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema with a name. It always holds, whatever ``strict`` says."""

    name: Annotated[str, HINT]
    description: Annotated[str | None, HINT] = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: Annotated[bool | None, HINT] = None


class AsSchema(Body):
    """JSON that is valid under a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[AsText | AsJsonObject | AsSchema, Discriminator("type")]


class StructuredOutputs(Body):
    """A constraint in vLLM's words: exactly one of these."""

    json_: Annotated[dict[str, Any] | bool | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=255)] | None = None
    json_object: Literal[True] | None = None
    grammar: Annotated[str | None, only(instead="use a JSON schema or a regex")] = None
    structural_tag: Annotated[str | None, only(instead="use tools")] = None
    disable_any_whitespace: Annotated[bool | None, HINT] = None
    """JSON is always written without needless space."""
    disable_additional_properties: Annotated[bool | None, only(False, instead="say so in the schema")] = None
    disable_fallback: Annotated[bool | None, HINT] = None
    whitespace_pattern: Annotated[str | None, only()] = None

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        given = (self.json_, self.regex, self.choice, self.json_object)
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of json, regex, choice and json_object: true")
        if isinstance(self.json_, str):
            try:
                self.json_ = json.loads(self.json_)
            except (ValueError, RecursionError):
                raise ValueError("json is no schema: it is a text that is not JSON") from None
            if not isinstance(self.json_, dict | bool):
                raise ValueError("json is no schema: it must be an object, or its JSON text")
        return self

    @property
    def schema_given(self) -> dict[str, Any] | bool | None:
        """The JSON schema; None for any object."""
        assert not isinstance(self.json_, str)
        return self.json_


class FunctionTool(Body):
    """A function that the client runs."""

    type: Literal["function"]
    function: Function
    cache_control: Annotated[dict[str, Any] | None, HINT] = None


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Body):
    """The tools that may be called, of all that are given."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedChoice(Body):
    """Only some of the tools may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(kind_of_tool)
]
ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required", "any"], Tag("mode")]
    | Annotated[NamedTool, Tag("function")]
    | Annotated[AllowedChoice, Tag("allowed_tools")]
    | Annotated[OtherTool, Tag("other")],
    Discriminator(kind_of_choice),
]
_NO_FUNCTIONS = "use tools"


class ChatBody(Sampled):
    """The body of a chat completion."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    temperature: Temperature | None = None
    seed: Seed = None
    random_seed: Seed = None
    stop: Stop | None = None
    n: Whole | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: ReasoningEffort | None = None
    thinking_budget: ThinkingBudget | None = None
    thinking_token_budget: ThinkingBudget | None = None
    """The same by vLLM's name."""
    reasoning_summary: bool | None = None
    """Mercury's: whether the answer tells the thought, as it does unless told."""
    chat_template_kwargs: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, Any] | None, HINT] = None
    prompt_cache_key: Annotated[str | None, HINT] = None
    prompt_cache_retention: Annotated[str | None, HINT] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, HINT] = None
    reasoning_summary_wait: Annotated[bool | None, HINT] = None
    realtime: Annotated[bool | None, HINT] = None
    store: Annotated[bool | None, only(False)] = None
    service_tier: Annotated[Literal["auto", "default"] | None, only("auto", "default")] = None
    modalities: Annotated[list[str] | None, only(["text"])] = None
    verbosity: Annotated[Literal["medium"] | None, only("medium", instead="say in the prompt how long to be")] = None
    functions: Annotated[list[Any] | None, only([], instead=_NO_FUNCTIONS)] = None
    function_call: Annotated[Literal["none"] | None, only("none", instead=_NO_FUNCTIONS)] = None
    audio: Annotated[None, only()] = None
    prediction: Annotated[None, only()] = None
    moderation: Annotated[None, only()] = None
    web_search_options: Annotated[None, only()] = None
    safe_prompt: Annotated[bool | None, only(False, instead="say in the prompt what to heed")] = None
    prompt_mode: Annotated[None, only()] = None
    guardrails: Annotated[list[Any] | None, only([])] = None

    @property
    def functions_given(self) -> list[FunctionTool]:
        """The tools that may be run."""
        return [tool for tool in self.tools or () if isinstance(tool, FunctionTool)]

    @property
    def left_out(self) -> list[OtherTool]:
        """The tools of kinds that are not run here."""
        return [tool for tool in self.tools or () if isinstance(tool, OtherTool)]


def text_of(content: Sequence[Part] | None) -> str:
    """Return a message's content as one text."""
    return "".join(part.text for part in content or () if isinstance(part, TextPart))
