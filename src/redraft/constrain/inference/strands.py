"""A frame with holes as strands of bytes, and the check that no text can be read as two of its fillings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.language import template
from redraft.errors import ConstraintError


@dataclass(frozen=True)
class Strand:
    """Bytes from one border of a hole to the next: of an option with the spaces before it, or of the frame."""

    spelled: bytes
    question: str | None = None
    option: str | None = None


def strands_of(frame: str, questions: Mapping[str, Sequence[str]]) -> list[list[Strand]]:
    """The frame and the holes in turn, as the one or several strands that may stand there; none is empty.

    Options are sorted, so that the order in which they are asked for does not even show in the rounding.
    """
    for name, options in questions.items():
        _check_options(name, options)
    parts: list[list[Strand]] = []
    literal, seen = "", set[str]()
    for text, hole in template.pieces(frame):
        if hole is None:
            literal += text
            continue
        if hole in seen:
            raise ConstraintError(f"question {{{hole}}}: its hole stands there twice; give the second another name")
        if hole not in questions:
            raise ConstraintError(f"question {{{hole}}}: the hole has no options; add them, or write {{{{")
        seen.add(hole)
        before = literal.rstrip(" ")
        spaces, literal = literal[len(before) :], ""
        parts += _literal(before)
        parts.append([Strand(_encoded(spaces + option, hole), hole, option) for option in sorted(questions[hole])])
    if missing := [name for name in questions if name not in seen]:
        raise ConstraintError(f"question {{{missing[0]}}}: the frame has no hole for it; add {{{missing[0]}}} to it")
    if not seen:
        raise ConstraintError("the frame asks no question; add a hole {name} and the options of that name")
    return parts + _literal(literal)


def _literal(text: str) -> list[list[Strand]]:
    return [[Strand(_encoded(text, None))]] if text else []


def _check_options(name: str, options: Sequence[str]) -> None:
    # A string is a sequence of strings too.
    if isinstance(options, str) or not all(isinstance(option, str) for option in options):
        raise ConstraintError(f"question {{{name}}}: the options {options!r} must be several texts, as ('yes', 'no')")
    if len(options) < 2:
        raise ConstraintError(f"question {{{name}}}: there must be two options or more, not {len(options)}")
    if len(set(options)) < len(options):
        twice = next(option for at, option in enumerate(options) if option in options[:at])
        raise ConstraintError(f"question {{{name}}}: the option {twice!r} is there twice")
    if "" in options:
        raise ConstraintError(f"question {{{name}}}: an option is empty; give it a text, such as 'none'")


def _encoded(text: str, question: str | None) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ConstraintError(f"{named(question)}: {text!r} has a lone surrogate, which stands for no text") from None


def named(question: str | None) -> str:
    """A question as errors call it; None is the frame."""
    return "the frame" if question is None else f"question {{{question}}}"


class StrandLayout:
    """All strands laid out one after the other: a slot before each byte of a strand, and one after its last.

    The slots at the ends of strands are the borders, each a state that the strands which meet there share; every other
    slot is a state of its own.
    """

    def __init__(self, parts: Sequence[Sequence[Strand]]) -> None:
        self.parts = parts
        self.strands = [strand for part in parts for strand in part]
        lengths = np.array([len(strand.spelled) for strand in self.strands])
        self.last = np.cumsum(lengths + 1) - 1
        """[strands]: the slot after a strand's last byte."""
        self.first = self.last - lengths
        """[strands]: the slot before its first byte."""
        self.slots = int(self.last[-1]) + 1
        self.byte = np.frombuffer(b"\0".join([s.spelled for s in self.strands]) + b"\0", dtype=np.uint8)
        """[slots]: the byte after each slot; at the end of a strand it means nothing."""
        self.left = np.repeat(self.last, lengths + 1) - np.arange(self.slots)
        """[slots]: bytes up to the end of the strand."""
        self.state = self._states()
        """[slots]: states ascend from border to border."""
        self.states = int(self.state[-1]) + 1

    def _states(self) -> NDArray[np.int64]:
        state = np.empty(self.slots, dtype=np.int64)
        border, strand = 0, 0
        for part in self.parts:
            first, last = self.first[strand : strand + len(part)], self.last[strand : strand + len(part)]
            inner = np.ones(last[-1] + 1 - first[0], dtype=bool)
            inner[first - first[0]] = inner[last - first[0]] = False
            slots = state[first[0] : last[-1] + 1]
            slots[inner] = border + 1 + np.arange(inner.sum())
            state[first] = border
            border += int(inner.sum()) + 1
            state[last] = border
            strand += len(part)
        return state

    @cached_property
    def steps(self) -> list[list[tuple[int, int]]]:
        """[states]: the bytes that lead from a state, each with the state it leads to."""
        steps: list[list[tuple[int, int]]] = [[] for _ in range(self.states)]
        (inside,) = self.left.nonzero()
        after = zip(self.byte[inside].tolist(), self.state[inside + 1].tolist(), strict=True)
        for state, step in zip(self.state[inside].tolist(), after, strict=True):
            steps[state].append(step)
        return steps


def check_unambiguous(layout: StrandLayout) -> None:
    """Refuse a frame in which two fillings make the same text, of which nobody could say what it answers.

    Such fillings part where one option ends and another, longer one goes on.
    """
    seen = set[tuple[int, int]]()
    for shorter, longer in _prefix_pairs(layout.parts):
        ended, inside = layout.last[shorter], layout.first[longer] + len(layout.strands[shorter].spelled)
        if _meet(layout.steps, (int(layout.state[ended]), int(layout.state[inside])), seen):
            short, long = layout.strands[shorter], layout.strands[longer]
            raise ConstraintError(
                f"question {{{short.question}}}: some text can be read with {short.option!r} and with {long.option!r} "
                "as its answer; end the hole with a text, such as a new line, that tells where an answer ends"
            )


def _prefix_pairs(parts: Sequence[Sequence[Strand]]) -> Iterator[tuple[int, int]]:
    """The numbers of strands that stand in the same place, where the second begins with the whole first."""
    number = 0
    for part in parts:
        for at, shorter in enumerate(part):
            # Sorted texts that begin alike stand together.
            for further, longer in enumerate(part[at + 1 :], at + 1):
                if not longer.spelled.startswith(shorter.spelled):
                    break
                yield number + at, number + further
        number += len(part)


def _meet(steps: Sequence[Sequence[tuple[int, int]]], pair: tuple[int, int], seen: set[tuple[int, int]]) -> bool:
    """True if some bytes lead from both states of a pair to the same one; pairs already seen do not."""
    pending = [pair]
    while pending:
        pair = pending.pop()
        if pair[0] == pair[1]:
            return True
        if pair not in seen:
            seen.add(pair)
            ways = ((one, other) for one in steps[pair[0]] for other in steps[pair[1]])
            pending += [(one, other) for (byte, one), (same, other) in ways if byte == same]
    return False
