"""A tree of token segments, computed in one forward: what several canvases read alike stands there once.

context -+- question -+- canvas (noisy) -- its first row is the last token of the question, run again
         |            +- clean copy -- next canvas (noisy)
         +- question --- canvas (noisy)

A segment sees its ancestors and itself: causally, or, a canvas, bidirectionally. A canvas does not see the token that
it runs again where that stands in its context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """Rows ``start`` to ``end`` of a tree."""

    start: int
    end: int
    parent: int | None
    canvas: bool


@dataclass
class Tree:
    """Segments under construction: tokens and positions of all rows, and what each one sees."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, tokens: Sequence[int], parent: int | None) -> int:
        """Append a causal segment that follows segment ``parent``; returns its number."""
        return self._append(tokens, parent, 0 if parent is None else self.next_position(parent), canvas=False)

    def add_canvas(self, tokens: Sequence[int], parent: int) -> int:
        """Append a canvas behind segment ``parent``, whose last token is its first row; returns its number."""
        last = self.tokens[self.segments[parent].end - 1]
        return self._append([last, *tokens], parent, self.next_position(parent) - 1, canvas=True)

    def last_row(self, segment: int) -> int:
        """Return the row of a segment's last token."""
        return self.segments[segment].end - 1

    def next_position(self, segment: int) -> int:
        """Return the position of what follows a segment."""
        return self.positions[self.last_row(segment)] + 1

    def visible(self) -> NDArray[np.bool_]:
        """Return which rows each row sees, [L, L]."""
        count, rows = len(self.segments), np.arange(len(self))
        ancestors = np.eye(count, dtype=bool)
        for number, segment in enumerate(self.segments):
            if segment.parent is not None:
                ancestors[number] |= ancestors[segment.parent]
        of = np.repeat(np.arange(count), [segment.end - segment.start for segment in self.segments])
        canvas = np.array([segment.canvas for segment in self.segments], dtype=bool)
        seen = ancestors[of[:, None], of[None]]
        seen &= (of[:, None] != of[None]) | canvas[of][:, None] | (rows[None] <= rows[:, None])
        for segment in self.segments:
            if segment.canvas and segment.parent is not None:
                seen[segment.start : segment.end, self.last_row(segment.parent)] = False
        return seen

    def _append(self, tokens: Sequence[int], parent: int | None, position: int, canvas: bool) -> int:
        if not tokens:
            raise ValueError("a segment has one token or more")
        start = len(self.tokens)
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.segments.append(Segment(start, len(self.tokens), parent, canvas))
        return len(self.segments) - 1
