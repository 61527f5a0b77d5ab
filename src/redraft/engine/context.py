"""Encodes what comes before a canvas, in chunks, into a cache of the pool."""

from collections.abc import Sequence

import torch
from torch import Tensor

from redraft.engine.memory import PooledCache
from redraft.engine.runtime import Runtime
from redraft.engine.task import Task, Waiting, encode
from redraft.models.base import Span


def open_context(runtime: Runtime, tokens: Sequence[int], undone: int = 0) -> Task[tuple[PooledCache, int]]:
    """Open a cache with room for ``tokens``, and tell how many of them it holds already; waits until there is room.
    ``undone``: positions up to which it may be cut back at a time."""
    while True:
        cache, known = runtime.pool.open(tokens, undone)
        if cache.reserve(len(tokens)):
            return cache, known
        # Whoever waits holds nothing, so that those who wait cannot stop each other.
        cache.close()
        yield Waiting.FOR_MEMORY


def prefill(runtime: Runtime, tokens: Sequence[int], cache: PooledCache) -> Task[Tensor | None]:
    """Encode what ``cache`` lacks of ``tokens``, a chunk a forward, but for the last chunk [T].

    That one is returned, to share a forward with the first step of the canvas that follows; None where all is there.
    Where the model's rounding depends on where a forward begins and ends, chunks are aligned to the context's start,
    and all of them are encoded alone: only whole ones are used again.
    """
    row, chunk, model = torch.tensor(tokens), runtime.prefill_chunk, runtime.model
    alone = not model.batch_independent
    while len(tokens) - cache.length > (0 if alone else chunk):
        yield from encode(Span(row[cache.length : cache.length + chunk].to(model.device), cache, "encode"))
    return None if cache.length == len(tokens) else row[cache.length :].to(model.device)


def follow(runtime: Runtime, cache: PooledCache, canvas: Sequence[int]) -> None:
    """Say which canvas is encoded next into a cache that holds, or was told of, all before it."""
    # In torch a canvas gives other bits than the chunks of a prompt with its tokens would.
    if runtime.model.batch_independent:
        cache.follow(canvas)
