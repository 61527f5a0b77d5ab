"""Encodes what comes before a canvas, in chunks, into a cache of the pool."""

from collections.abc import Generator, Iterator, Sequence

import torch

from redraft.engine.memory import KVPool, PooledCache
from redraft.engine.task import Waiting
from redraft.models.base import BlockDiffusionModel


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
            yield Waiting.FOR_MEMORY

    def chunks(self, tokens: Sequence[int], cache: PooledCache) -> Iterator[None]:
        """Encode what ``cache`` lacks of ``tokens``, a chunk between two yields."""
        row = torch.tensor(tokens, device=self._model.device)[None]
        while cache.length < len(tokens):
            with torch.inference_mode():
                self._model.encode(row[:, cache.length : cache.length + self._chunk], cache)
            yield

    def commits(self, cache: PooledCache, canvas: Sequence[int]) -> None:
        """Say which canvas will be encoded next into a cache that holds, or was told of, all before it."""
        # In torch a canvas gives other bits than the chunks of a prompt with its tokens would.
        if self._model.chunk_independent:
            cache.follow(canvas)
