"""The sequence of a run's batches: each takes up where the one before it ended, and is a function of that place."""

from dataclasses import dataclass, field
from typing import NamedTuple

from redraft.errors import DataError
from redraft.train.text.batch import Batch, pack
from redraft.train.text.encoding import Encoder
from redraft.train.text.objective import Example, MaskObjective
from redraft.train.text.source import RecordSource

# So many records in a row without a question end the search for the next one.
PATIENCE = 10_000
# A run ends when a larger share of its records than this cannot be trained, beside the first few.
MOST_SKIPPED, SOME = 0.01, 100


class Place(NamedTuple):
    """The place that a run has come to in its data."""

    record: int = 0
    tree: int = 0
    """Trees of that record that were trained already."""


@dataclass
class Batches:
    """Batches of at most ``tokens`` tokens."""

    source: RecordSource
    encoder: Encoder
    objective: MaskObjective
    tokens: int
    skipped: int = field(default=0, init=False)
    """Records that could not be laid out: generators may make one that does not fit."""
    _last: tuple[int, float, list[Example]] = field(default=(-1, 0.0, []), init=False)

    def draw(self, place: Place, progress: float) -> tuple[Batch, Place]:
        """Return the batch that begins at ``place``, and where the next one does."""
        chosen: list[Example] = []
        count, empty = 0, 0
        while empty < PATIENCE:
            trees = self._examples(place.record, progress)
            empty = 0 if trees else empty + 1
            if place.tree >= len(trees):
                place = Place(place.record + 1)
                continue
            own = len(trees[place.tree].tree)
            if chosen and count + own > self.tokens:
                return pack(chosen), place
            chosen.append(trees[place.tree])
            count += own
            place = Place(place.record, place.tree + 1)
        raise DataError(f"{PATIENCE} records in a row have no question that is trained; look at the mix of tasks")

    def _examples(self, record: int, progress: float) -> list[Example]:
        if self._last[:2] != (record, progress):
            self._last = record, progress, self._lay_out(record, progress)
        return self._last[2]

    def _lay_out(self, record: int, progress: float) -> list[Example]:
        try:
            return self.objective.examples(self.encoder.encode(self.source.draw(record)), record, progress)
        except DataError:
            self.skipped += 1
            if self.skipped > MOST_SKIPPED * (record + SOME):
                raise
            return []
