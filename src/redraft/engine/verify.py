"""Candidates for a canvas, and what a caller's verifier says of them."""

import operator
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import SupportsIndex

from redraft.errors import RequestError


@dataclass(frozen=True)
class Candidate:
    """A canvas that was denoised, before it becomes part of the answer."""

    canvas_index: int
    text: str
    """The whole answer so far, this canvas included."""
    token_ids: tuple[int, ...]
    """The tokens of this canvas, as far as they belong to the answer; positions are counted in these."""
    before: tuple[int, ...] = ()
    """The answer's tokens before this canvas."""
    decode: Callable[[list[int]], str] = field(default=lambda tokens: "", repr=False)

    def positions(self, start: int, end: int) -> list[int]:
        """Positions whose tokens have a share in the characters of ``text`` from ``start`` up to ``end``."""
        return [index for index, (first, last) in enumerate(self._spans) if first < end and last > start]

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """The characters in which each token has a share; of one that several tokens spell, each of them has."""
        tokens = [*self.before, *self.token_ids]
        text, spans, start = self.decode(tokens), [], 0
        for count in range(len(self.before), len(tokens) + 1):
            shown = self.decode(tokens[:count])
            # What decoders put for half a character is not part of the text.
            whole = max(start, _shared_length(shown, text))
            spans.append((start, whole + int(len(shown) > whole)))
            start = whole
        return spans[1:]


Verifier = Callable[[Candidate], Collection[int]]
"""Says which positions of a candidate are wrong; none, if it is good."""


def wrong_positions(verifier: Verifier, candidate: Candidate) -> frozenset[int]:
    """Ask the verifier what it marks; raises RequestError for positions that are not the candidate's."""
    said = verifier(candidate)
    if not isinstance(said, Iterable) or not all(isinstance(position, SupportsIndex) for position in said):
        raise RequestError(f"the verifier returned {said!r}; it must return positions, or an empty list for none")
    marked = frozenset(operator.index(position) for position in said)
    outside = [position for position in marked if not 0 <= position < len(candidate.token_ids)]
    if outside:
        raise RequestError(
            f"the verifier marks position {outside[0]} of a candidate of {len(candidate.token_ids)} tokens; "
            "positions count the candidate's token_ids from 0"
        )
    return marked


def _shared_length(one: str, other: str) -> int:
    """Count the items of the beginning that both have."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
