"""Encodes prompts in aligned chunks, and keeps the last prompt's cache for the next one that starts the same."""

from collections.abc import Iterator, Sequence

import torch

from redraft.engine.kv_cache import KVCache
from redraft.models.base import BlockDiffusionModel


class PrefixCache:
    """Hands out a cache that holds a prompt.

    A prompt is always encoded in chunks of ``chunk`` positions from its start, and only whole chunks of an earlier
    prompt are used again: the tensors a request sees are bit for bit those of encoding it alone.
    """

    def __init__(self, model: BlockDiffusionModel, chunk: int) -> None:
        self._model, self._chunk = model, chunk
        self._cache: KVCache | None = None
        self._prompt: tuple[int, ...] = ()

    def begin(self, prompt: tuple[int, ...]) -> tuple[KVCache, int]:
        """A cache of the beginning of ``prompt`` that is known already, and how many tokens that is."""
        cache, self._cache = self._cache, None
        if cache is not None:
            shared = shared_length(prompt, self._prompt) // self._chunk * self._chunk
            if shared and cache.cut(shared):
                return cache, shared
        return KVCache(self._model.cache_layout()), 0

    def chunks(self, prompt: tuple[int, ...], cache: KVCache) -> Iterator[None]:
        """Encode what ``cache`` lacks of ``prompt``, a chunk between two yields."""
        tokens = torch.tensor(prompt, device=self._model.device)[None]
        for start in range(cache.length, len(prompt), self._chunk):
            with torch.inference_mode():
                self._model.encode(tokens[:, start : start + self._chunk], cache)
            yield

    def encode(self, prompt: tuple[int, ...]) -> tuple[KVCache, int]:
        """A cache of exactly ``prompt``, and how many of its tokens were there already."""
        cache, reused = self.begin(prompt)
        for _ in self.chunks(prompt, cache):
            pass
        return cache, reused

    def keep(self, cache: KVCache, prompt: tuple[int, ...]) -> None:
        """Take back a cache that starts with ``prompt``, for later prompts."""
        self._cache, self._prompt = cache, prompt

    def forget(self) -> None:
        """Drop the kept cache and its memory."""
        self._cache, self._prompt = None, ()


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """How long the beginning is that both have."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
