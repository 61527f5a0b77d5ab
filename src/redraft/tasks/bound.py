"""The Monte Carlo estimate of an absorbing family's evidence lower bound.

A canvas of which k of its L tokens are masked, k and the places uniform, says of the masked ones what it believes; the
sum of their log-probabilities times L/k is an unbiased sample of the bound (Nie et al. 2025, arXiv 2502.09992).
Canvas follows canvas as in generation (Arriola et al. 2025, arXiv 2503.09573).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ReadoutSpec
from redraft.engine.context import open_context, prefill
from redraft.engine.memory import PooledCache
from redraft.engine.runtime import Runtime
from redraft.engine.task import Forward, Task, read
from redraft.errors import GenerationError
from redraft.models.base import Span

SAMPLES = 128
"""Masked canvases for each canvas of the text unless said otherwise."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of the bound, and what it took."""

    value: float
    """Nats."""
    standard_error: float | None
    """None where a canvas had one sample and more than one token."""
    canvases: int
    forwards: int
    """Masked canvases that were read."""
    cached: int
    """The number of the prompt's tokens that were not encoded again."""


def estimate(runtime: Runtime, prompt: Sequence[int], text: Sequence[int], samples: int, seed: int) -> Task[Estimate]:
    """Estimate the bound of ``text``, which stands on canvases of the model's own length behind ``prompt``.

    Positions of the last canvas behind the text stay masked throughout: the text is scored as the beginning of what
    the canvas may say. A canvas with one token of the text takes one sample, which is exact.
    """
    config = runtime.model.config
    context = list(prompt)
    cache, cached = yield from open_context(runtime, context, room=len(text))
    value, variance, forwards, index = 0.0, 0.0, 0, 0
    known = True
    try:
        commit = yield from prefill(runtime, context, cache)
        for start in range(0, len(text), config.canvas_length):
            own = list(text[start : start + config.canvas_length])
            length = min(config.canvas_length, config.context_length - len(context))
            found = yield from _canvas(runtime, cache, context, own, length, samples, seed, index, commit)
            value += found.mean().item()
            forwards += len(found)
            if len(own) > 1:
                known &= len(found) > 1
                variance += found.var().item() / len(found) if len(found) > 1 else 0.0
            context += own
            # Encoded with the first masked canvas of the next one.
            commit = torch.tensor(own, device=runtime.model.device)
            index += 1
    finally:
        cache.close()
    return Estimate(value, math.sqrt(variance) if known else None, index, forwards, cached)


def _canvas(
    runtime: Runtime,
    cache: PooledCache,
    context: Sequence[int],
    own: Sequence[int],
    length: int,
    samples: int,
    seed: int,
    index: int,
    commit: Tensor | None,
) -> Task[Tensor]:
    """Draw the samples [n] float64 of one canvas's bound; its first ``own`` tokens are the text's."""
    model, count = runtime.model, len(own)
    mask, classes = runtime.mask, runtime.mask_classes
    assert mask is not None, "the noise is a mask"
    tokens = torch.full((length,), mask)
    tokens[:count] = torch.tensor(own)
    right = torch.where(tokens == mask, 0, tokens).to(model.device)
    number = 1 if count == 1 else samples
    # Numbers of masked tokens spread evenly over 1 .. L, from a random one on: each is as likely as any other.
    begin = PositionRandom(seed, index, 0, 1).sample.item()
    found = []
    for sample in range(number):
        masked = 1 + int((begin + sample / number) % 1.0 * count)
        places = PositionRandom(seed, index, sample + 1, count).noise.argsort()[:masked]
        seen = tokens.clone()
        seen[places] = mask
        canvas = runtime.canvas(seen.to(model.device), cache, context)
        spans = (canvas,) if commit is None else (Span(commit, cache, "encode"), canvas)
        commit = None
        reading = yield from read(Forward(spans, ReadoutSpec(1.0, classes=classes)))
        logprobs = runtime.of_text(reading.readout, None).logprob(right).cpu().double()[places]
        if not bool(logprobs.isfinite().all()):
            raise GenerationError(
                f"the model's output is not a number on canvas {index} of the text; the checkpoint's weights are "
                "damaged, or too large for this dtype. Try dtype='float32', or load the checkpoint afresh"
            )
        found.append(logprobs.sum() * count / masked)
    return torch.stack(found)
