"""Turns the chunks of an answer into what its client gets: text, thoughts and calls that need not be taken back."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redraft.engine.request import answer_text
from redraft.engine.result import Chunk, Result
from redraft.engine.text import overlap, stop_at
from redraft.engine.tools import syntax_of
from redraft.models.tools import CallPart, CallReader, ToolCall
from redraft.serve.answers import Answers, Done
from redraft.serve.prepare import Prepared
from redraft.tasks.choose import ChooseResult


@dataclass(frozen=True)
class Piece:
    """A canvas's share of an answer."""

    text: str = ""
    thought: str = ""
    calls: Sequence[ToolCall] = ()
    """Calls that are complete now."""
    parts: Sequence[CallPart] = ()
    """The same as they come in, for streams: what a canvas adds to calls, complete or not."""
    tokens: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.thought or self.calls or self.parts)


class Pieces:
    """Turns the chunks of one answer into pieces; begins with what is certain before any work."""

    def __init__(self, prepared: Prepared) -> None:
        request, runtime, tools = prepared.request, prepared.runtime, prepared.tools
        self._reader: CallReader | None = None
        self._certain: CallPart | None = None
        self._calls: dict[int, ToolCall] = {}
        if tools is not None:
            tokenizer = runtime.tokenizer
            self._reader = syntax_of(runtime).reader(runtime.tool_markers, tokenizer.decode, tokenizer.settled)
            self._text = answer_text(runtime, request, prepared.text_stop)
            # A thought would come before it.
            if tools.certain is not None and request.thought is None:
                self._certain = CallPart(0, tools.certain, "")
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

    @property
    def stopped(self) -> bool:
        """The text beside calls has ended at a stop string; nothing is told after it."""
        return self._reader is not None and self._text.stopped

    def add(self, chunk: Chunk) -> Piece:
        """Take in a chunk and return what it adds."""
        if self._reader is None:
            return Piece(self._new(chunk.text), chunk.thought, tokens=chunk.token_ids)
        if self.stopped:
            return Piece(tokens=chunk.token_ids)
        said, parts = self._reader.add(chunk.token_ids)
        # After a call nothing is said.
        thought, text = self._text.add(said, bool(parts))
        if self.stopped:
            return Piece(text, thought, tokens=chunk.token_ids)
        calls = [call for part in parts if (call := self._taken(part)) is not None]
        return Piece(text, thought, calls, [self._untold(part) for part in parts], chunk.token_ids)

    def last(self) -> Piece:
        """Return what was held back until the end."""
        if self._reader is None or self.stopped:
            return Piece()
        thought, text = self._text.add((), True)
        return Piece(text, thought)

    def _taken(self, part: CallPart) -> ToolCall | None:
        """Keep a part, and return its call if that is complete with it."""
        before = self._calls.get(part.call, ToolCall(part.name or "", ""))
        call = self._calls[part.call] = ToolCall(before.name, before.arguments + part.arguments)
        return call if part.last else None

    def _untold(self, part: CallPart) -> CallPart:
        """Return a part without the name that was certain."""
        return replace(part, name=None) if self._certain is not None and part.call == 0 else part

    def _new(self, text: str) -> str:
        """Return ``text`` without what has been handed out before any work."""
        held = min(len(self._given), len(text))
        self._given = self._given[held:]
        return text[held:]


def whole(prepared: Prepared, result: Result) -> Piece:
    """Return a finished answer in one piece."""
    if prepared.tools is None:
        return Piece(result.text, result.thought or "", tokens=result.token_ids)
    pieces = Pieces(prepared)
    first = pieces.add(Chunk(0, "", result.token_ids, 0, True))
    rest = pieces.last()
    return Piece(first.text + rest.text, first.thought + rest.thought, first.calls, tokens=result.token_ids)


def stop_string(prepared: Prepared, result: Result) -> str | None:
    """Find the stop string at which an answer ended, if it did: its tokens reach up to the one that completed it."""
    request, stops = prepared.request, prepared.text_stop or prepared.request.stop
    if not stops or (request.constraint is not None and prepared.tools is None):
        return None
    answer = answer_text(prepared.runtime, request)
    answer.add(_beside_calls(prepared, result.token_ids), True)
    found = [(answer.text.find(stop) + len(stop), stop) for stop in stops if stop in answer.text]
    return min(found)[1] if found else None


def _beside_calls(prepared: Prepared, tokens: Sequence[int]) -> Sequence[int]:
    """Return the tokens of an answer that are no part of a call."""
    if prepared.tools is None:
        return tokens
    runtime = prepared.runtime
    reader = syntax_of(runtime).reader(runtime.tool_markers, runtime.tokenizer.decode, runtime.tokenizer.settled)
    return reader.add(tokens)[0]


def text_as_it_stands(prepared: Prepared, before: Sequence[int], argmax: Sequence[int]) -> str:
    """Return what an answer would say if its canvas stayed at ``argmax``, after the tokens ``before`` it."""
    request = prepared.request
    ends = (index for index, token in enumerate(argmax) if token in request.ends)
    canvas = argmax[: next(ends, len(argmax))][: request.max_tokens - len(before)]
    text = answer_text(prepared.runtime, request, request.stop)
    text.add([*before, *canvas], True)
    return text.text


def if_late(result: Result | ChooseResult) -> dict[str, bool]:
    """Return the field that says that a deadline ended an answer; nothing where none did."""
    return {"deadline_reached": True} if result.deadline_reached else {}


@dataclass(frozen=True)
class Ending:
    """The result of what was written into a text, and why it ended."""

    result: Result
    reason: str
    """"stop" or "length"."""


@dataclass(frozen=True)
class Passage:
    """The text that a fill or an edit writes, cut at the first stop string."""

    written: Callable[[Any], str]
    """Returns what a result has written, which is what its chunks' texts add up to."""
    stop: Sequence[str] = ()

    def whole(self, result: Result) -> tuple[str, Ending]:
        """Return all that was written."""
        text = self.written(result)
        end = stop_at(text, self.stop)
        return text[:end], Ending(result, result.finish_reason if end is None else "stop")

    async def stream(self, answers: Answers[Any]) -> AsyncIterator[tuple[str, Ending | None]]:
        """Yield new text when there is some, and the ending with the last; raises what the only answer fails with."""
        text, given = "", 0
        async for _, event in answers.events():
            if isinstance(event, Chunk):
                text += event.text
                safe = stop_at(text, self.stop)
                if safe is None:
                    safe = len(text) - max((overlap(text, stop) for stop in self.stop), default=0)
                if safe > given:
                    yield text[given:safe], None
                    given = safe
            elif isinstance(event, Done):
                whole, ending = self.whole(event.result)
                yield whole[given:], ending


def usage_of(results: Sequence[Result], prompts: int = 1) -> dict[str, int]:
    """Add up the cost of answers to so many ``prompts`` one after the other; each prompt counts once."""
    usages = [result.usage for result in results]
    first = usages[:: len(usages) // prompts]
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in first),
        "cached": sum(usage.cached_prompt_tokens for usage in first),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
        "canvases": sum(usage.canvases for usage in usages),
        "denoising_steps": sum(usage.denoising_steps for usage in usages),
        "forwards": sum(usage.forwards for usage in usages),
        "accepted_drafts": sum(usage.accepted_drafts for usage in usages),
    }
