"""Denoised canvases as the causal mode sees them: each token's log probability given what stands before it."""

import torch
from torch import Tensor

from redraft.canvas.readout import ReadoutSpec
from redraft.engine.memory import PooledCache
from redraft.engine.runtime import Runtime
from redraft.engine.task import Forward, Task, read
from redraft.models.base import Span


class CausalRows:
    """The causal rows of a context, to which canvases are committed as they are read."""

    def __init__(self, runtime: Runtime, cache: PooledCache) -> None:
        self._runtime, self._device, self._cache = runtime, runtime.model.device, cache
        self._row: Tensor | None = None
        """[1, H]: that of the last token of the context, which says what stands first on the canvas behind it."""
        self._behind: Tensor | None = None
        """[1, H]: that of the last token of the canvas that was read last."""
        self.forwards = 0

    def begin(self, rest: Tensor | None, last: int) -> Task[None]:
        """Encode what is left of a prompt, its ``rest`` [T] and its ``last`` token."""
        spans = () if rest is None else (Span(rest, self._cache, "encode"),)
        token = torch.tensor([last], device=self._device)
        wanted = Span(token, self._cache, "encode", wanted=1)
        self._row = (yield from read(Forward((*spans, wanted), ReadoutSpec(1.0)))).hidden

    def read(self, canvas: Tensor) -> Task[tuple[float, ...]]:
        """Encode a canvas [C] -> the natural log probability [C] of each of its tokens, by the model alone."""
        tokens = canvas.to(self._device)
        span = Span(tokens, self._cache, "encode", wanted=len(tokens))
        reading = yield from read(Forward((span,), ReadoutSpec(1.0, classes=self._runtime.mask_classes), self._row))
        self.forwards += 1
        self._behind = reading.hidden[-1:]
        # What the last row says stands behind the canvas.
        said = torch.cat([tokens, tokens[:1]])
        return tuple(self._runtime.of_text(reading.readout, None).logprob(said)[:-1].tolist())

    def commit(self) -> None:
        """Let the canvas that was read last be part of the context."""
        self._row = self._behind
