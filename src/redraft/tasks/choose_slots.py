"""Questions that are each answered in a slot of its own; what stands between the slots is pinned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from redraft.canvas.readout import Readout
from redraft.canvas.step import Pinned
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton.slots import Turn
from redraft.constrain.expression import any_of, joined
from redraft.constrain.inference.decisions import Decided, Decisions, Normalize
from redraft.constrain.language import template
from redraft.engine.constrained import class_sums
from redraft.engine.denoise import CanvasPlan
from redraft.engine.request import Request
from redraft.engine.runtime import Runtime
from redraft.engine.slotted import SlotsConstraint
from redraft.errors import RequestError, counted
from redraft.tasks import slots
from redraft.tasks.layout import widths_alone
from redraft.tasks.slots import Canvas, Filled, Piece


@dataclass(frozen=True, eq=False)
class SlotChoice:
    """Slots with the options of questions (a ``choose.Choice``)."""

    canvas: Canvas
    places: Mapping[str, slice]
    """The positions of each question's slot."""
    decisions: Mapping[str, Decisions]
    classes: TokenClasses
    constraint: SlotsConstraint | None
    """The constraint that holds while the canvas is denoised; None where it is only read."""

    @classmethod
    def of(cls, runtime: Runtime, request: Request, frame: str, questions: Mapping[str, Sequence[str]]) -> "SlotChoice":
        """Lay the slots of a frame out; RequestError for one that has none, or where they do not fit on a canvas."""
        ends = request.end_token_ids
        decisions, classes = runtime.constraints.slot_decisions(frame, questions, ends)
        gaps, rest = _gaps(frame)
        length = min(request.canvas_length, request.context_length - len(request.prompt))
        pieces = _pieces(runtime, gaps, rest, questions, length)
        canvas = Canvas.of(pieces, runtime.tokenizer, ends[0])
        if len(canvas.tokens) > length:
            raise RequestError(
                f"the answers take {counted(len(canvas.tokens), 'position')} in slots, and the canvas has {length}; "
                "ask fewer questions at a time"
            )
        places, start, names = dict[str, slice](), 0, iter(gaps)
        for piece in pieces:
            width = piece.width if isinstance(piece, Filled) else _taken(runtime, piece.text)
            if isinstance(piece, Filled):
                places[next(names).name] = slice(start, start + width)
            start += width
        found = cls(canvas, places, decisions, classes, None)
        if request.max_denoising_steps == 1:
            return found
        texts = [joined(gap.spaces, any_of(*questions[gap.name])) for gap in gaps]
        levels = [(Turn(0, number, 0),) for number in range(len(gaps))]
        automaton, own = runtime.constraints.slots(texts, levels, ends)
        frame_there = ~torch.tensor(canvas.free[: places[gaps[-1].name].stop])
        ahead = runtime.corruption.reads_ahead
        return replace(found, constraint=SlotsConstraint(automaton, own, frame_there, ahead))

    def plan(self, request: Request, temperature: float) -> CanvasPlan:
        """Return the canvas that is to be read."""
        free, tokens = torch.tensor(self.canvas.free), torch.tensor(self.canvas.tokens)
        return CanvasPlan(
            0,
            len(tokens),
            request.prompt,
            constraint=self.constraint,
            pinned=Pinned(~free, tokens),
            read_classes=self.classes,
            read_temperature=temperature,
        )

    def decide(self, readout: Readout, normalize: Normalize | None) -> Decided:
        """Read the questions, whose slots do not depend on each other, off the last step."""
        sums = class_sums(readout)
        each = [own.decide(sums.rows(self.places[name]), normalize=normalize) for name, own in self.decisions.items()]
        together = {name: options for one in each for name, options in one.log_probabilities.items()}
        return Decided(together, sum(one.log_valid for one in each))


def frame_of(questions: Mapping[str, Sequence[str]]) -> str:
    """Return how answers stand in slots where nobody says it: alone, or each behind its key as values of a schema."""
    if len(questions) == 1:
        return f"{{{next(iter(questions))}}}"
    return "\n".join(f"{name}: {{{name}}}" for name in questions)


@dataclass(frozen=True)
class _Gap:
    """A hole of a frame, and what stands between it and the one before."""

    name: str
    before: str
    spaces: str
    """The spaces right before the hole, with which each of its options begins."""


def _gaps(frame: str) -> tuple[list[_Gap], str]:
    """Return the holes of a frame, and what stands behind the last one; RequestError where nothing stands between
    two."""
    gaps, literal = list[_Gap](), ""
    for text, name in template.pieces(frame):
        if name is None:
            literal += text
            continue
        before = literal.rstrip(" ")
        if gaps and not before:
            raise RequestError(f"no text stands between the holes {{{gaps[-1].name}}} and {{{name}}}, as between slots")
        gaps.append(_Gap(name, before, literal[len(before) :]))
        literal = ""
    return gaps, literal


def _pieces(
    runtime: Runtime, gaps: Sequence[_Gap], rest: str, questions: Mapping[str, Sequence[str]], length: int
) -> list[Piece]:
    """The canvas of a frame: a slot is as wide as its longest option needs, but alone, where there is room for it, it
    does not tell how long that is."""
    pieces: list[Piece] = []
    for gap in gaps:
        longest = max(_taken(runtime, gap.spaces + option) for option in questions[gap.name])
        alone = len(gaps) == 1 and not gap.before and not rest
        pieces += [slots.Pinned(gap.before)] if gap.before else []
        pieces.append(Filled("", max(longest + 1, min(widths_alone(longest)[0], length) if alone else 0)))
    return [*pieces, slots.Pinned(rest)] if rest else pieces


def _taken(runtime: Runtime, text: str) -> int:
    return len(runtime.tokenizer.encode_text(text, literal=True))
