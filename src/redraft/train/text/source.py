"""Sources of records: endless sequences, each a pure function of a seed and a number, so that a run can resume."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from redraft.errors import DataError
from redraft.train.text.records import Question, Record, SchemaValue, parse

# Records that are looked at to see how often a generator asks for each task.
COUNTED = 512


class RecordSource(Protocol):
    """An endless sequence of records."""

    def draw(self, index: int) -> Record:
        """Return record ``index``, from 0 on: the same one whenever it is asked for."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Records of a file, all of them once in every epoch, each epoch in an order of its own."""

    records: Sequence[Record]
    seed: int

    def draw(self, index: int) -> Record:
        epoch, place = divmod(index, len(self.records))
        return self.records[_order(self.seed, epoch, len(self.records))[place]]


@dataclass(frozen=True)
class GeneratedSource:
    """Records that a function (seed, index) -> record makes; what it returns is checked as lines of a file are."""

    generate: Callable[[int, int], Mapping[str, Any]]
    seed: int
    name: str

    def draw(self, index: int) -> Record:
        return parse(self.generate(self.seed, index), f"record {index} of {self.name}, seed {self.seed}")


@dataclass(frozen=True)
class MixedSource:
    """A source whose questions are thinned until the tasks stand in the proportion that is wanted.

    A record of which no question is left has none.
    """

    source: RecordSource
    kept: Mapping[str, float]
    """The probability with which a question of each task is kept."""
    seed: int

    def draw(self, index: int) -> Record:
        record = self.source.draw(index)
        chances = np.random.default_rng([self.seed, index]).random(len(record.questions))
        chosen = [
            question
            for question, chance in zip(record.questions, chances, strict=True)
            if chance < self.kept.get(question.task, 0.0)
        ]
        return replace(record, questions=tuple(chosen))


def mixed(source: RecordSource, records: Sequence[Record], weights: Mapping[str, float], seed: int) -> MixedSource:
    """Thin ``source`` so that its tasks are asked in the proportion of ``weights``; tasks that are not named never are.

    ``records``: what shows how often each task is asked without that. Raises DataError for a task that none asks for.
    """
    counts = Counter(question.task for record in records for question in record.questions)
    for task in weights:
        if task not in counts:
            raise DataError(f"no question is of task {task!r}; the data has {', '.join(sorted(counts))}")
    rates = {task: weight / counts[task] for task, weight in weights.items()}
    return MixedSource(source, {task: rate / max(rates.values()) for task, rate in rates.items()}, seed)


def trains_slots(source: RecordSource) -> bool:
    """Tell whether values under schemas are among what a source asks for, or among the first records that it makes."""
    inner = source.source if isinstance(source, MixedSource) else source
    count = len(inner.records) if isinstance(inner, FileSource) else COUNTED
    return any(isinstance(question.answer, SchemaValue) for index in range(count) for question in _asked(source, index))


def _asked(source: RecordSource, index: int) -> Sequence[Question]:
    try:
        return source.draw(index).questions
    except DataError:
        # A record that cannot be read is left out of a run.
        return ()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def digest(path: Path) -> str:
    """Return what tells a file from others that may come to have its name; DataError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
