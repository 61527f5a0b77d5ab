"""Readouts made by hand, and the tensors of one, for tests that compare one with another."""

from dataclasses import fields

import torch
from torch import Tensor

from redraft.canvas.readout import LogProb, Readout


def tensors_of(readout: Readout) -> list[Tensor]:
    """All that were asked for, those by token class included; their first dimension is the position."""
    parts = (readout,) if readout.classes is None else (readout, readout.classes)
    values = (getattr(part, field.name) for part in parts for field in fields(part))
    return [value for value in values if isinstance(value, Tensor)]


def readout_of(
    entropy: Tensor,
    confidence: Tensor,
    *,
    argmax: Tensor | None = None,
    sample: Tensor | None = None,
    likely: LogProb | None = None,
    self_conditioning: Tensor | None = None,
) -> Readout:
    """What a model says of positions [..., C]; every token is 0 and as likely as the likeliest unless it is given."""
    nothing = torch.zeros_like(entropy, dtype=torch.int64)
    return Readout(
        argmax=nothing if argmax is None else argmax,
        sample=nothing if sample is None else sample,
        entropy=entropy,
        confidence=confidence,
        logprob=(lambda tokens: confidence.log()) if likely is None else (lambda tokens: likely(tokens).log()),
        self_conditioning=self_conditioning,
    )
