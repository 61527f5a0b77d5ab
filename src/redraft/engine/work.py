"""Work on a model that stops after every forward, so that many requests can take turns."""

from collections.abc import Generator
from enum import Enum
from typing import TypeVar

from redraft.engine.result import Chunk


class Waiting(Enum):
    """What work yields when it could not do a forward."""

    FOR_MEMORY = "for memory"


T = TypeVar("T")
Work = Generator[Chunk | Waiting | None, None, T]
"""Yields after every forward: the chunk of a canvas that is finished, or None. Returns what was wanted."""


def finish(work: Work[T]) -> T:
    """Do all of the work, and return what it comes to."""
    try:
        while True:
            if next(work) is Waiting.FOR_MEMORY:
                raise RuntimeError("work waits for memory that nothing else holds")
    except StopIteration as done:
        value: T = done.value
        return value
