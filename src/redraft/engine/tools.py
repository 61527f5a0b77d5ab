"""Tools that an answer may call: from what a caller gives to a constraint, and from an answer's tokens to calls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redraft.constrain.constraint import Constraint
from redraft.engine.generation import Generate
from redraft.engine.request import Request, answer_text
from redraft.engine.result import Chunk, OnStep, Result
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.task import StepRecorder, Task, with_chunks
from redraft.errors import RequestError
from redraft.models.tools import Tool, ToolCall, ToolSyntax

ToolChoice = str | Mapping[str, Any]
"""Either "auto", "none" or "required", or ``{"type": "function", "function": {"name": ...}}``."""


@dataclass(frozen=True)
class ToolUse:
    """Tools, and what is to be done with them."""

    tools: Sequence[Tool]
    shown: Sequence[Mapping[str, Any]]
    """The same as the chat template takes them."""
    min_calls: int
    """1 if there must be a call."""
    max_calls: int | None
    """None for any number of calls, 0 for none."""

    @property
    def certain(self) -> str | None:
        """The name of the first call, where the model has no choice."""
        return self.tools[0].name if self.min_calls and len(self.tools) == 1 else None


def tool_use(tools: Sequence[Mapping[str, Any]], choice: ToolChoice = "auto") -> ToolUse:
    """Check functions as OpenAI's clients write them; RequestError for what is none, or is not among them."""
    found = [_tool(index, given) for index, given in enumerate(tools)]
    names = [tool.name for tool in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"tools: two are called {twice!r}; a call could not say which")
    if choice in ("auto", "none"):
        return ToolUse(found, list(tools), 0, None if choice == "auto" else 0)
    if not found:
        raise RequestError(f"tool_choice {choice!r} needs tools; give at least one")
    if choice == "required":
        return ToolUse(found, list(tools), 1, None)
    wanted = choice.get("function", {}).get("name") if isinstance(choice, Mapping) else None
    if wanted not in names:
        raise RequestError(
            f"tool_choice {choice!r} must be 'auto', 'none', 'required', or "
            f"{{'type': 'function', 'function': {{'name': one of {', '.join(names)}}}}}"
        )
    return ToolUse([tool for tool in found if tool.name == wanted], list(tools), 1, None)


def syntax_of(runtime: Runtime) -> ToolSyntax:
    """Return how the model writes calls; RequestError where it cannot make any."""
    syntax = runtime.model.config.tool_syntax
    if syntax is None:
        raise RequestError("this family of models makes no tool calls; leave tools out")
    if not runtime.tool_markers:
        markers = ", ".join(syntax.markers)
        raise RequestError(f"tools need special tokens that this checkpoint's tokenizer does not have: {markers}")
    return syntax


def tokens_with_tools(
    runtime: Runtime,
    prompt: Prompt,
    use: ToolUse,
    thinking: bool,
    template_variables: Mapping[str, Any] | None = None,
) -> Sequence[int]:
    """Return the token ids of a chat that shows the tools; RequestError for a prompt that is no chat."""
    if isinstance(prompt, str) or not len(prompt) or not isinstance(prompt[0], Mapping):
        raise RequestError("tools need chat messages, through which the template shows them to the model")
    return runtime.tokenize(prompt, thinking, use.shown, template_variables=template_variables)


def calling(runtime: Runtime, use: ToolUse, content: Constraint | None) -> Constraint:
    """Return what holds an answer to valid calls; ``content`` is the constraint of a text in their place."""
    return syntax_of(runtime).constraint(use.tools, min_calls=use.min_calls, max_calls=use.max_calls, content=content)


class Calls:
    """An answer's chunks taken apart into what is said and what is called."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        tokenizer = runtime.tokenizer
        self._reader = syntax_of(runtime).reader(runtime.tool_markers, tokenizer.decode, tokenizer.settled)
        self._text = answer_text(runtime, request)
        self._names: dict[int, str] = {}
        self._arguments: dict[int, str] = {}
        self.complete: list[ToolCall] = []
        """The calls that are whole, in their order."""

    def said(self, chunk: Chunk) -> Chunk:
        """Return the chunk with the text alone that is no part of a call."""
        tokens, parts = self._reader.add(chunk.token_ids)
        for part in parts:
            self._names[part.call] = part.name or self._names.get(part.call, "")
            self._arguments[part.call] = self._arguments.get(part.call, "") + part.arguments
            if part.last:
                self.complete.append(ToolCall(self._names[part.call], self._arguments[part.call]))
        # After a call nothing is said.
        thought, text = self._text.add(tokens, last=bool(parts))
        return replace(chunk, text=text, thought=thought)

    def in_result(self, result: Result) -> Result:
        """Return the whole answer with its calls, and the text beside them."""
        self._text.add((), last=True)
        return replace(result, text=self._text.text, thought=self._text.thought, tool_calls=tuple(self.complete))


@dataclass(frozen=True, eq=False)
class GenerateWithTools:
    """An answer that may call tools (a ``task.Runnable``): its chunks say what is said beside the calls."""

    answer: Generate

    @property
    def runtime(self) -> Runtime:
        return self.answer.runtime

    def task(self, on_step: OnStep | None = None, recorder: StepRecorder | None = None) -> Task[Result]:
        """Begin to answer; see ``Generate.task``."""
        calls = Calls(self.answer.runtime, self.answer.request)
        return calls.in_result((yield from with_chunks(self.answer.task(on_step, recorder), calls.said)))


def _tool(index: int, given: Mapping[str, Any]) -> Tool:
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(
            f"tools: number {index} must be {{'type': 'function', 'function': {{'name': ..., 'parameters': ...}}}}"
        )
    schema = function.get("parameters")
    return Tool(function["name"], json.dumps({"type": "object", "properties": {}} if schema is None else schema))
