"""The fields of Anthropic's messages: what its own clients send, and agents that are made for it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from redraft.engine.quality import Quality
from redraft.engine.thinking import ReasoningEffort
from redraft.models.base import GenerationMode
from redraft.serve.wire.fields import HINT, Body, Only, OtherTool, UnreadPart, Whole, only
from redraft.serve.wire.sampling import DeadlineMs, TopK, TopP


class CacheControl(Body):
    """A wish to keep the prompt up to here. Prefixes are kept anyway, as memory allows; usage says what that saved."""

    type: Literal["ephemeral"]
    ttl: Annotated[str | None, HINT] = None
    scope: Annotated[str | None, HINT] = None


Cached = Annotated[CacheControl | None, HINT]


class TextBlock(Body):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: Cached = None
    citations: Annotated[list[Any] | None, only([])] = None


class ThinkingBlock(Body):
    """An earlier thought of the model; the chat template decides what is shown of it."""

    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str, HINT] = ""
    cache_control: Cached = None


class RedactedThinkingBlock(Body):
    """A thought in a form that its own model alone can read; nothing of it is shown."""

    type: Literal["redacted_thinking"]
    data: Annotated[str, HINT]
    cache_control: Cached = None


class ToolUseBlock(Body):
    """A call that the model made in an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Cached = None
    caller: Annotated[dict[str, Any] | None, HINT] = None


class ImageBlock(UnreadPart):
    """An image."""

    what = "images"
    type: Literal["image"]


class DocumentBlock(UnreadPart):
    """A document."""

    what = "documents"
    type: Literal["document"]


class ToolReferenceBlock(Body):
    """The name of a tool that a search found. All tools are shown to the model anyway."""

    type: Literal["tool_reference"]
    tool_name: str
    cache_control: Cached = None


def _as_blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# A string is one block: of a fault in a list, a union of both would say that it is no string.
ResultBlock = Annotated[TextBlock | ImageBlock | DocumentBlock | ToolReferenceBlock, Discriminator("type")]
ResultContent = Annotated[
    list[ResultBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[ResultBlock])
]


class ToolResultBlock(Body):
    """The answer of a tool."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: ResultContent | None = None
    is_error: bool | None = None
    cache_control: Cached = None


Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock | ImageBlock | DocumentBlock,
    Discriminator("type"),
]
Content = Annotated[list[Block], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block])]
System = Annotated[list[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])]


class Turn(Body):
    """A message of either side, or an instruction that stands among them."""

    role: Literal["user", "assistant", "system"]
    content: Content


class CustomTool(Body):
    """A tool that the client runs. Its input is always valid under the schema."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    input_examples: list[dict[str, Any]] | None = None
    """Told to the model behind the description."""
    type: Literal["custom"] | None = None
    strict: Annotated[bool | None, HINT] = None
    cache_control: Cached = None
    eager_input_streaming: Annotated[bool | None, HINT] = None
    """Inputs are streamed canvas by canvas anyway."""
    defer_loading: Annotated[bool | None, HINT] = None
    """All tools are shown to the model at once."""
    allowed_callers: Annotated[list[str] | None, HINT] = None


def _kind_of_tool(tool: Any) -> str:
    found = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return "other" if isinstance(found, str) and found != "custom" else "custom"


class ServerTool(OtherTool):
    """A tool that Anthropic's servers run, or know the schema of."""

    name: str | None = None


Tool = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[ServerTool, Tag("other")], Discriminator(_kind_of_tool)
]


class ToolChoice(Body):
    """When tools are to be called: if the model wants, surely, one by name, or never."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """The switch of thinking before the answer; "enabled" says for how many tokens at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Whole | None = None
    display: Literal["summarized", "omitted"] | None = None
    """Thoughts are shown whole; "omitted": their blocks are empty."""


class Metadata(Body):
    """The user who asks."""

    user_id: str | None = None


class JsonFormat(Body):
    """The answer is JSON that is valid under a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")]


class OutputConfig(Body):
    """The effort that an answer is worth, and its form."""

    effort: ReasoningEffort | None = None
    format: JsonFormat | None = None
    task_budget: Annotated[None, only(instead="use max_tokens")] = None


class ClearThinking(Body):
    """A wish about earlier thoughts: only to keep them all, for the chat template decides which are shown."""

    type: Literal["clear_thinking_20251015"]
    keep: Annotated[
        Literal["all"] | dict[str, Any] | None,
        only("all", {"type": "all"}, instead="leave out what is not to be shown"),
    ] = None


class ContextManagement(Body):
    """The parts to be cut off a conversation: nothing is."""

    edits: list[ClearThinking] | None = None


class CountBody(Body):
    """The fields that a message is asked with, and its tokens are counted by."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: System | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    # What it may hold leaves the conversation as it is.
    context_management: Annotated[ContextManagement | None, Only(lambda given: given)] = None
    cache_control: Cached = None
    speed: Annotated[Literal["standard"] | None, only("standard")] = None
    mcp_servers: Annotated[list[Any] | None, only([], instead="give the servers' tools in tools")] = None

    @property
    def left_out(self) -> list[ServerTool]:
        """The tools of kinds that are not run here."""
        return [tool for tool in self.tools or () if isinstance(tool, ServerTool)]


class MessagesBody(CountBody):
    """The body of a message."""

    max_tokens: Whole
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    metadata: Metadata | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    mode: GenerationMode | None = None
    deadline_ms: DeadlineMs | None = None
    quality: Quality | None = None
    service_tier: Annotated[Literal["auto", "standard_only"] | None, only("auto", "standard_only")] = None
    container: Annotated[None, only()] = None
    diagnostics: Annotated[dict[str, Any] | None, HINT] = None
    inference_geo: Annotated[str | None, HINT] = None
    """It is computed where this server stands."""
