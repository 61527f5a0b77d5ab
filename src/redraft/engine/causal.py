"""Denoised canvases as the causal mode sees them: each token's log probability given what stands before it.

A canvas is encoded causally anyway when it is committed, along with the next one's first step; what the causal rows say
of it is read off the same forward. The row of the last token before a canvas says what stands first on it, and is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.engine.memory import PooledCache
from redraft.engine.runtime import Runtime
from redraft.engine.task import EncodedReading, EncodedRows, Forward, Task, read
from redraft.models.base import Span


@dataclass(frozen=True, eq=False)
class _Pending:
    """Tokens that are to be encoded with the next canvas's first step."""

    tokens: Tensor
    told: int = 0
    """The number of its first tokens of which the log probability is wanted."""


class CausalRows:
    """The causal rows of a context, and of the canvases that become part of it."""

    def __init__(self, runtime: Runtime, cache: PooledCache, prompt: Tensor) -> None:
        """``prompt`` [T]: what is left to encode of it, its last token at least."""
        self._runtime, self._device, self._cache = runtime, runtime.model.device, cache
        self._row: Tensor | None = None
        """[1, H]: that of the last token that is encoded; None before the prompt is."""
        self._behind: Tensor | None = None
        """[1, H]: that of the last token of the canvas that was read last."""
        self._pending: _Pending | None = _Pending(prompt)
        self.logprobs: list[float] = []
        """The natural log probabilities of the tokens that were committed, those that were asked for."""
        self.forwards = 0
        """Forwards that were for this alone."""

    @property
    def commit(self) -> Span | None:
        """The span that the next canvas's first step is to encode in front of it; None for nothing."""
        pending = self._pending
        if pending is None:
            return None
        wanted = len(pending.tokens) if pending.told else 1
        return Span(pending.tokens, self._cache, "encode", wanted=wanted)

    @property
    def asked(self) -> EncodedRows:
        """The readout that is wanted of ``commit``."""
        told = self._pending is not None and self._pending.told
        return EncodedRows(self._spec, self._row) if told else EncodedRows()

    def take(self, reading: EncodedReading) -> None:
        """Take in what was wanted of ``commit``, which is encoded now."""
        pending = self._pending
        assert pending is not None, "something was committed"
        if reading.readout is not None:
            self.logprobs += self._said(reading.readout, pending.tokens)[: pending.told]
        self._row, self._pending = reading.hidden[-1:], None

    def follow(self, canvas: Tensor, told: int) -> None:
        """Have a canvas [C] encoded with the next one's first step; of its first ``told`` tokens the log probability is
        wanted."""
        self._pending = _Pending(canvas.to(self._device), told)

    def read(self, canvas: Tensor) -> Task[tuple[float, ...]]:
        """Encode a canvas [C] in a forward of its own -> the natural log probability [C] of each of its tokens."""
        tokens = canvas.to(self._device)
        span = Span(tokens, self._cache, "encode", wanted=len(tokens))
        reading = yield from read(Forward((span,), self._spec, self._row))
        self.forwards += 1
        self._behind = reading.hidden[-1:]
        return tuple(self._said(reading.readout, tokens))

    def stay(self) -> None:
        """Let the canvas that was read last be part of the context."""
        self._row = self._behind

    def end(self, canvas: Tensor, told: int) -> Task[None]:
        """Find the log probability of the first ``told`` tokens of the last canvas [C], which nothing follows."""
        tokens = canvas[:told].to(self._device)
        if not told:
            return
        # The row of the last one says only what would follow it.
        spans = (Span(tokens[:-1], self._cache, "encode", wanted=told - 1),) if told > 1 else ()
        reading = yield from read(Forward(spans, self._spec, self._row))
        self.forwards += bool(spans)
        self.logprobs += self._runtime.of_text(reading.readout, None).logprob(tokens).tolist()

    @property
    def _spec(self) -> ReadoutSpec:
        return ReadoutSpec(1.0, classes=self._runtime.mask_classes)

    def _said(self, readout: Readout, tokens: Tensor) -> list[float]:
        """Return what rows say of the tokens [C] behind each of them; the last row [C + 1] says what follows all."""
        padded = torch.cat([tokens, tokens[:1]])
        said: list[float] = self._runtime.of_text(readout, None).logprob(padded)[:-1].tolist()
        return said
