"""The work of a batch, cut into chunks: what a worker, here or on another machine, needs to do one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.batching import rows
from redraft.batching.job import Job, Worker
from redraft.batching.rows import RowFile


@dataclass(frozen=True)
class Done:
    """A chunk that was written."""

    rows: int
    failed: int
    digest: str
    """The digest that tells the weights that answered from others."""


@dataclass(frozen=True)
class Work:
    """All that a worker needs. Its folders are the same wherever there is one."""

    data: Path
    parts: Path
    job: Job
    model: str
    loading: Mapping[str, Any]
    chunk: int

    def part(self, number: int) -> Path:
        """Return the file of a chunk's answers."""
        return self.parts / f"{number:06}.jsonl"

    def do(self, number: int, worker: Worker, data: RowFile) -> Done:
        """Answer a chunk, and write it."""
        first = number * self.chunk
        answers = worker.answers(data.read(first, first + self.chunk), first)
        rows.write_lines(self.part(number), answers)
        failed = sum(answer[self.job.error_column] is not None for answer in answers)
        return Done(len(answers), failed, worker.digest)
