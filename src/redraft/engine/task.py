"""Work on a model that stops after every forward, so that many requests can take turns."""

from collections.abc import Generator
from enum import Enum
from typing import TypeVar

from redraft.engine.memory import KVPool
from redraft.engine.result import Chunk
from redraft.errors import GenerationError


class Waiting(Enum):
    """What work yields when it could not do a forward."""

    FOR_MEMORY = "for memory"


T = TypeVar("T")
Work = Generator[Chunk | Waiting | None, None, T]
"""Yields after every forward: the chunk of a canvas that is finished, or None. Returns what was wanted."""


def finish(work: Work[T], pool: KVPool) -> T:
    """Do all of the work, and return what it comes to; GenerationError where others hold the ``pool``'s memory."""
    try:
        while True:
            if next(work) is Waiting.FOR_MEMORY:
                # Nobody else does anything until this returns.
                raise GenerationError(no_room(pool))
    except StopIteration as done:
        value: T = done.value
        return value


def no_room(pool: KVPool) -> str:
    """Why an answer that nothing else takes turns with cannot go on."""
    return (
        f"of the {pool.budget:,} bytes that kv_bytes allows, other answers under way hold {pool.promised:,}; "
        "finish or close them, or let them take turns in a Service"
    )
