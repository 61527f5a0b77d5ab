"""Which positions of a denoising step keep their sample; the others are renoised."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class AcceptanceRule(Protocol):
    """Chooses positions by how sure the model is of them."""

    def accepted(self, entropy: Tensor, confidence: Tensor) -> Tensor:
        """Entropies (nats) and probabilities of the likeliest token, both [..., C] -> bool [..., C]."""
        ...


@dataclass(frozen=True)
class EntropyBound:
    """The surest positions whose entropies, less the largest one, add up to at most ``bound`` nats for the canvas.

    The sum without its largest term bounds the mutual information between the accepted positions, so that sampling
    them independently is nearly sampling them jointly (Ben-Hamu et al. 2025, arXiv 2505.24857). The surest position
    is always accepted.
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise ValueError(f"entropy_bound {self.bound} must be a finite number of nats, 0 or more")

    def accepted(self, entropy: Tensor, confidence: Tensor) -> Tensor:
        ascending, order = entropy.sort(dim=-1, stable=True)
        kept = ascending.cumsum(-1) - ascending <= self.bound
        return torch.zeros_like(kept).scatter(-1, order, kept)


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Every position whose likeliest token has at least this probability, and always the surest one.

    The parallel decoding rule of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618, section 3.3).
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"confidence threshold {self.threshold} must be a probability above 0 and at most 1")

    def accepted(self, entropy: Tensor, confidence: Tensor) -> Tensor:
        surest = torch.zeros_like(confidence, dtype=torch.bool)
        surest.scatter_(-1, confidence.argmax(-1, keepdim=True), True)
        return surest | (confidence >= self.threshold)
