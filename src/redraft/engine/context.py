"""Encodes what comes before a canvas, in chunks, into a cache of the pool."""

from collections.abc import Generator, Iterator, Sequence
from typing import Final

import torch

from redraft.engine.kv_pool import KVPool, PooledCache
from redraft.errors import GenerationError
from redraft.models.base import BlockDiffusionModel


class Waiting:
    """What ``Generation.advance`` returns where it did no forward: it needs memory that others hold."""

    def __repr__(self) -> str:
        return "WAITING"


WAITING: Final = Waiting()


class Contexts:
    """Caches of one model that hold encoded tokens, in forwards of ``chunk`` positions at most.

    Where the model's rounding depends on where a forward begins and ends, chunks are aligned to the context's start
    and only whole ones are used again: the tensors a request sees are bit for bit those of encoding it alone.
    """

    def __init__(self, model: BlockDiffusionModel, pool: KVPool, chunk: int) -> None:
        self._model, self._pool, self._chunk = model, pool, chunk

    def open(self, tokens: Sequence[int]) -> Generator[Waiting, None, tuple[PooledCache, int]]:
        """A cache with room for ``tokens``, and how many of them it holds already; waits until there is room."""
        while True:
            cache, known = self._pool.open(tokens)
            if cache.reserve(len(tokens)):
                return cache, known
            # Whoever waits holds nothing, so that those who wait cannot stop each other.
            cache.close()
            yield WAITING

    def chunks(self, tokens: Sequence[int], cache: PooledCache) -> Iterator[None]:
        """Encode what ``cache`` lacks of ``tokens``, a chunk between two yields."""
        row = torch.tensor(tokens, device=self._model.device)[None]
        while cache.length < len(tokens):
            with torch.inference_mode():
                self._model.encode(row[:, cache.length : cache.length + self._chunk], cache)
            yield

    def encoded(self, tokens: Sequence[int]) -> tuple[PooledCache, int]:
        """A cache of exactly ``tokens``, and how many of them were there already; a GenerationError without room."""
        opening = self.open(tokens)
        try:
            next(opening)
        except StopIteration as opened:
            cache, known = opened.value
        else:
            raise GenerationError(no_room(self._pool))
        try:
            for _ in self.chunks(tokens, cache):
                pass
        except BaseException:
            cache.close()
            raise
        return cache, known

    def commits(self, cache: PooledCache, canvas: Sequence[int]) -> None:
        """Say which canvas will be encoded next into a cache that holds, or was told of, all before it."""
        # In torch a canvas gives other bits than the chunks of a prompt with its tokens would.
        if self._model.chunk_independent:
            cache.follow(canvas)


def no_room(pool: KVPool) -> str:
    """Why an answer that nothing else takes turns with cannot go on."""
    return (
        f"of the {pool.budget:,} bytes that kv_bytes allows, other answers under way hold {pool.promised:,}; "
        "finish or close them, or take turns with Generation.advance"
    )
