"""Fields, events and costs that OpenAI's routes have in common."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from redraft.constrain.constraint import Constraint, JSONSchema
from redraft.engine import text
from redraft.engine.request import thought_markers
from redraft.engine.result import Result, TokenLogprob
from redraft.engine.tools import ToolUse
from redraft.serve.deltas import usage_of
from redraft.serve.errors import bad_request, to_json
from redraft.serve.prepare import Prepared, tool
from redraft.serve.state import Serving
from redraft.serve.wire.fields import HINT, JSON_OBJECT, Body, OtherTool, only
from redraft.serve.wire.sampling import SAMPLING

DONE = "data: [DONE]\n\n"
# Clients compare it to see whether the same seed can give the same answer.
FINGERPRINT = "redraft"


class StreamOptions(Body):
    """Options of what a stream tells besides."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's: with the usage, every chunk says what the answer has cost up to it."""
    include_obfuscation: Annotated[bool | None, only(False)] = None


class Function(Body):
    """A function that the model may call. Its arguments are always valid, whatever ``strict`` says."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, HINT] = None


class FunctionName(Body):
    """The name of a function."""

    name: str


TopLogprobs = Annotated[int, Field(ge=0, le=20)]


# The engine's errors call tools so, and tools are a constraint to it.
FIELDS_OF_TOOLS = {"tools": "tools", "tool": "tools", "this": "tools", "constraint": "tools"}
# What decides whether and how long a model thinks has the same names everywhere.
FIELDS_OF_THINKING = {name: name for name in ("reasoning_effort", "thinking_budget", "chat_template_kwargs")} | {
    "thinking": "reasoning_effort"
}


def thought_for_template(thought: str | None) -> dict[str, str]:
    """Return a thought of an earlier turn as chat templates take it, by either name; they decide what is shown."""
    return {"reasoning_content": thought, "reasoning": thought} if thought else {}


def kind_of_tool(tool: Any) -> str:
    """Return "function", or "other" for a tool of a kind that this server does not run."""
    found = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return "other" if isinstance(found, str) and found != "function" else "function"


def kind_of_choice(choice: Any) -> str:
    """Return what form a ``tool_choice`` has: "mode", "function", "allowed_tools", or "other"."""
    found = choice.get("type") if isinstance(choice, Mapping) else getattr(choice, "type", None)
    if found is None:
        return "function" if isinstance(choice, Mapping) else "mode"
    return str(found) if found in ("function", "allowed_tools") else "other"


@dataclass(frozen=True)
class Choice:
    """The way in which tools are to be used."""

    mode: Literal["auto", "none", "required"]
    names: Sequence[str] | None = None
    """The tools that may be called; None for all."""
    one: bool = False
    """There is exactly one call."""


def mode_of(choice: str | None) -> Choice:
    """Read a ``tool_choice`` that is a word; "any" is Mistral's for "required"."""
    if choice is None or choice == "auto":
        return Choice("auto")
    return Choice("none") if choice == "none" else Choice("required")


def not_run(choice: OtherTool) -> Exception:
    """Refuse a ``tool_choice`` of a kind of tools that this server does not run."""
    return bad_request(f"tool_choice: tools of the type {choice.type!r} are not run by this server", "tool_choice")


def tools_of(here: Serving, functions: Sequence[Function], choice: Choice, parallel: bool | None) -> ToolUse | None:
    """Read the functions that a client gave, and what is to be done with them; None where there are none.

    Raises ApiError for what cannot be.
    """
    if not functions:
        if choice.mode == "required":
            raise bad_request("tool_choice needs tools that this server can have called: functions", "tool_choice")
        return None
    tools, shown = [], []
    for function in functions:
        schema = {"type": "object", "properties": {}} if function.parameters is None else function.parameters
        tools.append(tool(here, function.name, schema))
        described = function.model_dump(exclude_none=True)
        # Also where there are no parameters: templates need not look whether there are.
        shown.append({"type": "function", "function": {**described, "parameters": schema}})
    if len({one.name for one in tools}) < len(tools):
        raise bad_request("tools: two of them have the same name", "tools")
    names = {one.name for one in tools}
    for name in choice.names or ():
        if name not in names:
            raise bad_request(f"tool_choice: there is no tool {name!r}", "tool_choice")
    chosen = [one for one in tools if choice.names is None or one.name in choice.names]
    min_calls, max_calls = int(choice.mode == "required"), 1 if parallel is False or choice.one else None
    return ToolUse(chosen, shown, min_calls, 0 if choice.mode == "none" else max_calls)


def json_constraint(here: Serving, schema: Mapping[str, Any] | bool | None, param: str) -> Constraint:
    """Constrain to JSON under a schema that the field ``param`` holds; without one to any JSON object."""
    if schema is None:
        return JSON_OBJECT
    here.limits.check_schema(schema, param)
    return JSONSchema(schema)


def call_for_template(id: str, name: str, arguments: str | Mapping[str, Any], param: str) -> dict[str, Any]:
    """Return a call of an earlier turn as chat templates take it.

    ``arguments``: an object, or its JSON text, from the field ``param``.
    """
    try:
        given = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, Mapping):
        raise bad_request(f"{param}: the arguments of the call {id} are not a JSON object", param)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": given}}


def frame(content: Any) -> str:
    """Write one server-sent event."""
    return f"data: {to_json(content)}\n\n"


def usage(results: Sequence[Result], thoughts: int = 0, prompts: int = 1) -> dict[str, Any]:
    """Return OpenAI's usage, and what a diffusion model's answer cost besides."""
    cost = usage_of(results, prompts)
    return {
        "prompt_tokens": cost["prompt_tokens"],
        "completion_tokens": cost["completion_tokens"],
        "total_tokens": cost["prompt_tokens"] + cost["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": cost["cached"]},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
        "canvases": cost["canvases"],
        "denoising_steps": cost["denoising_steps"],
        "forwards": cost["forwards"],
        "accepted_drafts": cost["accepted_drafts"],
    }


def running(prompt: int, written: int) -> dict[str, Any]:
    """Return the usage of answers that are not finished, of so many tokens so far."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def thought_tokens(prepared: Prepared, results: Sequence[Result]) -> int:
    """Count the tokens of the answers that are a thought, its markers included."""
    markers = thought_markers(prepared.runtime, prepared.request)
    if markers is None:
        return 0
    return sum(text.thought_tokens(result.token_ids, markers) for result in results)


def token_logprob(prepared: Prepared, one: TokenLogprob) -> dict[str, Any]:
    """Return one entry of chat's ``logprobs.content``."""
    return {
        **_entry(prepared, one.token, one.logprob),
        "top_logprobs": [_entry(prepared, token, logprob) for token, logprob in one.top],
    }


def _entry(prepared: Prepared, token: int, logprob: float) -> dict[str, Any]:
    text, spelled = token_text(prepared, token)
    return {"token": text, "logprob": logprob, "bytes": list(spelled)}


def token_text(prepared: Prepared, token: int) -> tuple[str, bytes]:
    """Return a token's text, and its bytes, which need not be whole characters; a special token's name for its text."""
    vocabulary = prepared.vocabulary
    spelled = vocabulary.spell([token]) if vocabulary is not None and vocabulary.has_text[token] else b""
    text = spelled.decode(errors="replace") if spelled else prepared.runtime.tokenizer.piece(token)
    return text, spelled


def fields_of(fields: Mapping[str, str]) -> dict[str, str]:
    """Map parameters of the engine to the fields they came from, which have the same name unless ``fields`` tells."""
    same = ("temperature", "seed", "stop", "max_tokens", *SAMPLING)
    return {**{name: name for name in same}, **fields}
