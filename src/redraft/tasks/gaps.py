"""Gaps in a text, each a slot of fixed width with end tokens behind what is written into it.

Where a canvas is free behind its beginning, a model has to find a text that ends where the suffix begins. A checkpoint
that was trained on slots sees the suffix in its place from the start, and says by end tokens how long the middle is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from redraft.canvas.step import Pinned
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton.slots import SlotAutomaton, Turn
from redraft.constrain.constraint import Template
from redraft.constrain.expression import Expression, joined
from redraft.constrain.language.template import Hole
from redraft.engine.context import open_context, prefill
from redraft.engine.denoise import CanvasPlan, Denoising, FinishedCanvas
from redraft.engine.generation import Recorders, to_record
from redraft.engine.request import Request, generate
from redraft.engine.result import Chunk, OnStep, Result, Usage
from redraft.engine.runtime import Runtime
from redraft.engine.slotted import SlotsConstraint
from redraft.engine.task import Task, TimedListener, Waiting, recorded
from redraft.errors import ConstraintError, RequestError, counted
from redraft.tasks import slots
from redraft.tasks.layout import WIDTH, widths_alone
from redraft.tasks.slots import Canvas, Filled, Piece

CompiledGaps = tuple[SlotAutomaton, TokenClasses]

SHOWN = 16
"""Tokens of the text behind the last gap that stand on the canvas: about as many as training shows."""
# What an answer that is written has and slots have not, with the value that asks for nothing.
_OF_TEXT: Mapping[str, Any] = {
    "verifier": None, "best_of": 1, "verify": None, "causal_logprobs": False, "min_tokens": 0,
    "ignore_eos": False, "stop_token_ids": None,
}  # fmt: skip


@dataclass(frozen=True)
class Gaps:
    """A description of the gaps on one canvas."""

    between: tuple[str, ...]
    """The text in front of each gap, and behind the last. A space at its end stands in the slot, as tokens have it; in
    front of the first gap no more than that."""
    holes: tuple[Hole, ...]
    """The description of what may stand in each gap."""
    widths: tuple[int, ...]
    """Tokens of each slot, an end token among them."""


@dataclass(frozen=True, repr=False)
class GapsResult(Result):
    """``text`` goes from the first gap to the end of the last one."""

    written: tuple[str, ...] = ()
    """The text of each gap."""
    full: bool = False
    """True where a text takes all of its slot, and may be longer."""

    @property
    def chunk(self) -> Chunk:
        """All of it as one part of an answer."""
        return Chunk(0, self.text, self.token_ids, self.usage.denoising_steps, not self.unconverged_canvases)


@dataclass(frozen=True, eq=False)
class WriteGaps:
    """Gaps that are checked and laid out (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    gaps: Gaps
    canvas: Canvas
    constraint: SlotsConstraint
    record: Recorders | None = None

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        request: Request,
        gaps: Gaps,
        record: Recorders | None = None,
        compiled: "CompiledGaps | None" = None,
    ) -> "WriteGaps":
        """Lay the gaps out; ``compiled`` is what ``compiled_gaps`` made of them, if it is there.

        Raises RequestError where they do not fit on a canvas, where nothing stands between two of them, and for a hole
        whose shortest text its slot does not hold.
        """
        if not request.end_token_ids:
            raise RequestError("the checkpoint names no end token, with which a slot has to end")
        if not all(_fixed(text) for text in gaps.between[1:-1]):
            raise RequestError("no text stands between two gaps, as between slots")
        pieces: list[Piece] = []
        for text, width in zip(gaps.between, gaps.widths, strict=False):
            pieces += [slots.Pinned(_fixed(text))] if _fixed(text) else []
            pieces.append(Filled("", width))
        pieces += [slots.Pinned(gaps.between[-1])] if gaps.between[-1] else []
        canvas = Canvas.of(pieces, runtime.tokenizer, request.end_token_ids[0])
        length = min(request.canvas_length, request.context_length - len(request.prompt))
        if len(canvas.tokens) > length:
            raise RequestError(
                f"the gaps take {counted(len(canvas.tokens), 'position')} in slots, and the canvas has {length}"
            )
        automaton, classes = compiled or compiled_gaps(runtime, gaps, request.end_token_ids)
        for needed, width in zip(automaton.min_tokens, gaps.widths, strict=True):
            if needed >= width:
                raise RequestError(f"the hole's shortest text takes {needed} tokens, and its slot holds {width - 1}")
        free = torch.tensor(canvas.free)
        slotted = ~free[: int(free.nonzero()[-1]) + 1]
        constraint = SlotsConstraint(automaton, classes, slotted, runtime.corruption.reads_ahead)
        return cls(runtime, request, gaps, canvas, constraint, record)

    def task(self, on_step: OnStep | None = None) -> Task[GapsResult]:
        """Begin to write; no chunks are handed out, since what is written may have to be written again as a text."""
        asked, recorder = self, None
        if self.record is not None:
            asked = replace(self, request=to_record(self.request))
            recorder = self.record.recorder(asked.request, self.runtime, self.gaps)
        return recorded(asked._begin, recorder, on_step)

    def _begin(self, on_step: OnStep | None) -> Task[GapsResult]:
        began, request = perf_counter(), self.request
        listener = None if on_step is None else TimedListener(on_step)
        cache, cached = yield from open_context(self.runtime, request.prompt)
        try:
            commit = yield from prefill(self.runtime, request.prompt, cache, request.deadline)
            if request.deadline is not None:
                request.deadline.check_begun("the first denoising step")
            while not cache.reserve(len(request.prompt)):
                yield Waiting.FOR_MEMORY
            tokens = torch.tensor(self.canvas.tokens)
            plan = CanvasPlan(
                0,
                len(tokens),
                request.prompt,
                constraint=self.constraint,
                pinned=Pinned(~torch.tensor(self.canvas.free), tokens),
            )
            canvas = yield from Denoising(self.runtime, request, plan, cache).finish(commit, listener)
        finally:
            cache.close()
        told = 0.0 if listener is None else listener.seconds
        return self._read(canvas, cached, perf_counter() - began - told)

    def _read(self, canvas: FinishedCanvas, cached: int, seconds: float) -> GapsResult:
        request, end = self.request, self.request.end_token_ids[0]
        written, tokens, text, full, place = list[str](), list[int](), "", False, 0
        for number, (before, width) in enumerate(zip(self.gaps.between, self.gaps.widths, strict=False)):
            place = self.canvas.free.index(True, place)
            own = canvas.tokens[place : place + width].tolist()
            own = own[: own.index(end)]
            place += width
            said = self.runtime.tokenizer.decode(own)[len(before) - len(_fixed(before)) :]
            text += (before if number else "") + said
            written.append(said)
            tokens += own
            full |= len(own) == width - 1
        return GapsResult(
            text=text,
            token_ids=tuple(tokens),
            finish_reason="stop",
            seed=request.seed,
            unconverged_canvases=() if canvas.converged else (0,),
            log_valid=() if canvas.log_valid is None else (canvas.log_valid,),
            deadline_reached=canvas.cut,
            usage=Usage(
                prompt_tokens=len(request.prompt),
                cached_prompt_tokens=cached,
                completion_tokens=len(tokens),
                canvases=1,
                denoising_steps=canvas.denoising_steps,
                forwards=canvas.denoising_steps,
                time_to_first_token=seconds,
                seconds=seconds,
            ),
            written=tuple(written),
            full=full,
        )


def compiled_gaps(runtime: Runtime, gaps: Gaps, end_token_ids: Sequence[int]) -> CompiledGaps:
    """Compile what may stand in the gaps; ConstraintError as of ``Compiler.slots``."""
    texts = [_texts(text, hole) for text, hole in zip(gaps.between, gaps.holes, strict=False)]
    turns = [(Turn(0, number, 0),) for number in range(len(texts))]
    return runtime.constraints.slots(texts, turns, end_token_ids[:1])


def wanted_in_slots(runtime: Runtime, parameters: Mapping[str, Any]) -> bool:
    """Return whether gaps are to be slots: the checkpoint was trained on them, and nothing is asked for that only an
    answer that is written has."""
    return runtime.model.defaults.extract_layout == "slots" and all(
        parameters.get(name, nothing) == nothing for name, nothing in _OF_TEXT.items()
    )


def write_gaps(
    runtime: Runtime,
    context: Sequence[int],
    gaps: Gaps,
    parameters: Mapping[str, Any],
    request: Request,
    record: Recorders | None = None,
    compiled: CompiledGaps | None = None,
) -> WriteGaps | None:
    """Return the request to write gaps behind a context, None where they have no place in slots. ``parameters`` are
    those of ``request.generate`` that ``request`` was made of, which writes the same as a text: seed and deadline are
    its own."""
    given = {name: value for name, value in parameters.items() if name not in ("max_tokens", "verify_rounds")}
    given |= {"seed": request.seed, "deadline_ms": request.deadline}
    try:
        return WriteGaps.of(runtime, generate(runtime, context, mode="diffusion", **given), gaps, record, compiled)
    except (RequestError, ConstraintError):
        return None


def at_a_token(before: str) -> tuple[str, str]:
    """Return a text up to where the first token of a gap begins, and the space that the token has, or nothing."""
    return _fixed(before), before[len(_fixed(before)) :]


def width_of(runtime: Runtime, text: str = "", max_tokens: int | None = None) -> int:
    """Return the width of a slot for a text that stands in the place of ``text``, or has ``max_tokens`` at most."""
    if max_tokens is not None:
        return max_tokens + 1
    return max(WIDTH, widths_alone(len(runtime.tokenizer.encode_text(text, literal=True)))[0])


def _fixed(text: str) -> str:
    """Return a text without the space at its end, which belongs to the first token behind it."""
    return text.removesuffix(" ")


def _texts(before: str, hole: Hole) -> Expression:
    own = Template("{gap}", {"gap": hole}).expression
    return own if before == _fixed(before) else joined(" ", own)
