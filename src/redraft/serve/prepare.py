"""From what a wire format asks to checked requests of the engine, and from the engine's answers to text and calls."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redraft.constrain.constraint import Constraint
from redraft.engine.request import Request
from redraft.engine.result import Chunk, Result
from redraft.engine.task import Work
from redraft.errors import RequestError
from redraft.models.tools import CallPart, CallReader, Tool, ToolCall
from redraft.serve.errors import bad_request
from redraft.serve.state import Answers, Post, Serving, Steps, new_seed

_SEEDS = 1 << 64


@dataclass(frozen=True)
class ToolUse:
    """Tools, and what is to be done with them."""

    tools: Sequence[Tool]
    shown: Sequence[Mapping[str, Any]]
    """The same as the chat template takes them."""
    least: int
    """1 if there must be a call."""
    most: int | None
    """None for any number of calls, 0 for none."""

    @property
    def certain(self) -> str | None:
        """The name of the first call, where the model has no choice."""
        return self.tools[0].name if self.least and len(self.tools) == 1 else None


def tool(serving: Serving, name: str, schema: Mapping[str, Any]) -> Tool:
    """A tool as the field "tools" gives it; ApiError for a name or a schema that cannot be one's."""
    serving.limits.check_schema(schema, "tools")
    try:
        return Tool(name, json.dumps(schema))
    except RequestError as error:
        raise bad_request(f"tools: {error}", "tools") from error


@dataclass(frozen=True)
class Ask:
    """One prompt and how to answer it, in the engine's words."""

    prompt: str | Sequence[int] | Sequence[Mapping[str, Any]]
    parameters: dict[str, Any]
    """Of ``Engine.request``."""
    names: Mapping[str, str]
    """By parameters of the engine, the fields that they came from; "prompt" is one of them."""
    constrained_by: str | None = None
    """The field that the constraint came from."""
    tools: ToolUse | None = None
    answers: int = 1
    """So many, the n-th with n - 1 added to the seed."""
    steps: bool = False
    """Denoising steps are wanted as events."""


@dataclass(frozen=True)
class Asked:
    """A request that the engine has checked."""

    request: Request
    ask: Ask
    spell: Callable[[int], bytes] | None = None
    """The bytes of a token, where log probabilities were asked for."""

    @property
    def seeds(self) -> list[int]:
        return [(self.request.seed + index) % _SEEDS for index in range(self.ask.answers)]


async def check(serving: Serving, ask: Ask) -> Asked:
    """Tokenize, compile, check; ApiError for what cannot be honoured."""

    def checked() -> Asked:
        engine, parameters = serving.engine, dict(ask.parameters)
        if parameters.get("seed") is None:
            parameters["seed"] = new_seed()
        if parameters.get("max_tokens") is None and serving.settings.max_tokens is not None:
            parameters["max_tokens"] = serving.settings.max_tokens
        tokens = _tokens(serving, ask)
        serving.limits.check_prompt(len(tokens), ask.names.get("prompt"))
        if ask.tools is not None:
            parameters["constraint"] = _calling(serving, ask.tools, parameters.get("constraint"))
        request = engine.request(tokens, **parameters)
        return Asked(request, ask, None if request.top_logprobs is None else _speller(serving))

    return await serving.prepare(checked, ask.names, ask.constrained_by)


def _speller(serving: Serving) -> Callable[[int], bytes]:
    vocabulary = serving.engine.constraints.vocabulary
    return lambda token: vocabulary.spell([token]) if vocabulary.has_text[token] else b""


def _tokens(serving: Serving, ask: Ask) -> Sequence[int]:
    shown = None if ask.tools is None else ask.tools.shown
    check = serving.limits.before_tokenizing(ask.names.get("prompt"))
    return serving.engine.tokenize(ask.prompt, bool(ask.parameters.get("thinking")), shown, check)


def _calling(serving: Serving, use: ToolUse, content: Constraint | None) -> Constraint:
    engine = serving.engine
    if not engine.tool_markers:
        markers = ", ".join(engine.model.config.tool_syntax.markers)
        raise RequestError(f"tools need special tokens that this checkpoint's tokenizer does not have: {markers}")
    syntax = engine.model.config.tool_syntax
    return syntax.constraint(use.tools, least=use.least, most=use.most, content=content)


def start(serving: Serving, http: Any, asked: Asked, client: str) -> Answers[Result]:
    """Queue the answers."""
    return start_all(serving, http, [asked], client)


def start_all(serving: Serving, http: Any, asked: Sequence[Asked], client: str) -> Answers[Result]:
    """Queue the answers to several prompts: all of the first one, then all of the next."""

    def answer(one: Asked, seed: int) -> Callable[[Post], Callable[[], Work[Result]]]:
        def with_post(post: Post) -> Callable[[], Work[Result]]:
            on_step = Steps(post) if one.ask.steps else None

            def make() -> Work[Result]:
                return serving.generation(replace(one.request, seed=seed), on_step).work

            return make

        return with_post

    return Answers(http, [answer(one, seed) for one in asked for seed in one.seeds], client)


@dataclass(frozen=True)
class Piece:
    """What a canvas adds to an answer."""

    text: str = ""
    thought: str = ""
    calls: Sequence[ToolCall] = ()
    """Those that are complete now."""
    parts: Sequence[CallPart] = ()
    """The same as they come in, for streams: what a canvas adds to calls, complete or not."""
    tokens: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.thought or self.calls or self.parts)


class Pieces:
    """Turns the chunks of one answer into what its client gets; begins with what is certain before any work."""

    def __init__(self, serving: Serving, asked: Asked) -> None:
        request, engine, use = asked.request, serving.engine, asked.ask.tools
        self._reader: CallReader | None = None
        self._certain: CallPart | None = None
        self._calls: dict[int, ToolCall] = {}
        if use is not None:
            tokenizer, syntax = engine.tokenizer, engine.model.config.tool_syntax
            self._reader = syntax.reader(engine.tool_markers, tokenizer.decode, tokenizer.settled)
            self._text = engine.answer_text(request)
            # A thought would come before it.
            if use.certain is not None and request.thought is None:
                self._certain = CallPart(0, use.certain, "")
        compiled = request.constraint
        self._given = "" if compiled is None or self._reader is not None else compiled.beginning

    @property
    def beginning(self) -> str:
        """Text that the constraint makes certain."""
        return self._given

    @property
    def certain_call(self) -> Piece:
        """The beginning of a call that must be made, if there is one: its name, which ``add`` does not tell again."""
        return Piece() if self._certain is None else Piece(parts=[self._certain])

    def add(self, chunk: Chunk) -> Piece:
        """What a chunk adds."""
        if self._reader is None:
            return Piece(self._new(chunk.text), chunk.thought, tokens=chunk.token_ids)
        said, parts = self._reader.add(chunk.token_ids)
        # After a call nothing is said.
        thought, text = self._text.add(said, bool(parts))
        calls = [call for part in parts if (call := self._taken(part)) is not None]
        return Piece(text, thought, calls, [self._untold(part) for part in parts], chunk.token_ids)

    def last(self) -> Piece:
        """What was held back until the end."""
        if self._reader is None:
            return Piece()
        thought, text = self._text.add((), True)
        return Piece(text, thought)

    def _taken(self, part: CallPart) -> ToolCall | None:
        """The call of a part, if that completes it."""
        before = self._calls.get(part.call, ToolCall(part.name or "", ""))
        call = self._calls[part.call] = ToolCall(before.name, before.arguments + part.arguments)
        return call if part.last else None

    def _untold(self, part: CallPart) -> CallPart:
        """A part without the name that was certain."""
        return replace(part, name=None) if self._certain is not None and part.call == 0 else part

    def _new(self, text: str) -> str:
        """``text`` without what has been handed out before any work."""
        held = min(len(self._given), len(text))
        self._given = self._given[held:]
        return text[held:]


def whole(serving: Serving, asked: Asked, result: Result) -> Piece:
    """A finished answer in one piece."""
    if asked.ask.tools is None:
        return Piece(result.text, result.thought or "", tokens=result.token_ids)
    pieces = Pieces(serving, asked)
    first = pieces.add(Chunk(0, "", result.token_ids, 0, True))
    rest = pieces.last()
    return Piece(first.text + rest.text, first.thought + rest.thought, first.calls, tokens=result.token_ids)


def stop_string(serving: Serving, asked: Asked, result: Result) -> str | None:
    """The stop string at which an answer ended, if it did: its tokens reach up to the one that completed it."""
    if not asked.request.stop or asked.request.constraint is not None:
        return None
    answer = serving.engine.answer_text(asked.request)
    answer.add(result.token_ids, True)
    found = [(answer.text.find(stop) + len(stop), stop) for stop in asked.request.stop if stop in answer.text]
    return min(found)[1] if found else None


def whole_text(serving: Serving, asked: Asked, before: Sequence[int], argmax: Sequence[int]) -> str:
    """What an answer would say if its canvas stayed as it is."""
    request = asked.request
    ends = (index for index, token in enumerate(argmax) if token in request.end_token_ids)
    canvas = argmax[: next(ends, len(argmax))][: request.max_tokens - len(before)]
    text = serving.engine.answer_text(request, request.stop)
    text.add([*before, *canvas], True)
    return text.text


def usage_of(results: Sequence[Result], prompts: int = 1) -> dict[str, int]:
    """The cost of answers together, to so many ``prompts`` one after the other; each prompt counts once."""
    usages = [result.usage for result in results]
    first = usages[:: len(usages) // prompts]
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in first),
        "cached": sum(usage.cached_prompt_tokens for usage in first),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
        "canvases": sum(usage.canvases for usage in usages),
        "denoising_steps": sum(usage.denoising_steps for usage in usages),
    }
