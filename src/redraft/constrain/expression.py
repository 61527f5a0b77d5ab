"""Regular expressions over text as a tree; patterns, schemas, options and templates all become one.

Parts are immutable and may be shared; one that is shared is one thing only to the reader, not to the automaton.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

# Code points that stand for no character; UTF-8 has no bytes for them.
_SURROGATES = (0xD800, 0xDFFF)
LAST_CODE_POINT = 0x10FFFF


@dataclass(frozen=True)
class Characters:
    """Exactly one character out of ``ranges``: code points, ends included, sorted, disjoint, without surrogates."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> "Characters":
        """Bring any ranges into the form that ``ranges`` has."""
        low, high = _SURROGATES
        given = list(ranges)
        cut = [(a, min(b, low - 1)) for a, b in given if a < low]
        cut += [(max(a, high + 1), b) for a, b in given if b > high]
        merged: list[tuple[int, int]] = []
        for first, last in sorted((a, b) for a, b in cut if a <= b):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return cls(tuple(merged))

    @staticmethod
    @lru_cache(4096)
    def among(characters: str) -> "Characters":
        """Any one character of a string."""
        return Characters.of([(ord(c), ord(c)) for c in characters])

    def complement(self) -> "Characters":
        """Every other character."""
        return _complement(self)


@lru_cache(4096)
def _complement(characters: Characters) -> Characters:
    ends = [-1, *(b for _, b in characters.ranges)]
    starts = [*(a for a, _ in characters.ranges), LAST_CODE_POINT + 1]
    return Characters.of([(b + 1, a - 1) for b, a in zip(ends, starts, strict=True)])


@dataclass(frozen=True)
class Literal:
    """Exactly this text."""

    text: str


@dataclass(frozen=True)
class Sequence:
    """The parts one after the other; without parts, the empty text."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class AnyOf:
    """Any one option; without options, nothing matches."""

    options: "tuple[Expression, ...]"


@dataclass(frozen=True)
class AllOf:
    """A text that every one of the parts matches (at least one part)."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Without:
    """A text that matches ``part`` and does not match ``excluded``."""

    part: "Expression"
    excluded: "Expression"


@dataclass(frozen=True)
class Network:
    """The texts along the ways from place 0 to place 1; what many ways share stands there once."""

    places: int
    """The number of places, 2 or more."""
    edges: "tuple[tuple[int, Expression, int], ...]"
    """The text that leads from one place to another."""


@dataclass(frozen=True)
class Repeat:
    """``part`` from ``min_count`` to ``max_count`` times; None is any number of times."""

    part: "Expression"
    min_count: int
    max_count: int | None


# UTF-8 has no use for the bytes from 0xF8 on: each of them stands for a special token, which has no text of its own.
FIRST_MARKER = 0xF8
MAX_MARKERS = 0x100 - FIRST_MARKER


@dataclass(frozen=True)
class Marker:
    """Exactly one special token: the ``number``-th of the vocabulary's markers. No text matches it."""

    number: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < MAX_MARKERS:
            raise ValueError(f"marker {self.number} must be from 0 to {MAX_MARKERS - 1}")

    @property
    def byte(self) -> int:
        """The byte that stands for it in an automaton over bytes."""
        return FIRST_MARKER + self.number


Expression = Characters | Literal | Sequence | AnyOf | AllOf | Without | Network | Repeat | Marker

EMPTY = Sequence(())
NOTHING = AnyOf(())


def optional(part: Expression) -> Repeat:
    """``part``, or the empty text."""
    return Repeat(part, 0, 1)


def joined(*parts: Expression | str) -> Sequence:
    """The parts one after the other; a string is a literal."""
    return Sequence(tuple(Literal(part) if isinstance(part, str) else part for part in parts))


def any_of(*options: Expression | str) -> AnyOf:
    """Any one option; a string is a literal."""
    return AnyOf(tuple(Literal(option) if isinstance(option, str) else option for option in options))
