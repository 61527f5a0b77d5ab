"""Which positions of a denoising step keep their sample."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from redraft.canvas.readout import Readout


@dataclass(frozen=True, eq=False)
class AcceptanceView:
    """A rule's view of a denoising step; all tensors are [..., C], a canvas in the last dimension."""

    readout: Readout
    """Certain where a position is not open."""
    open: Tensor
    """bool: positions whose token is not settled; pinned and revealed ones are not."""
    step: int
    """Counted from 1."""
    steps: int
    """The limit."""

    @property
    def remaining(self) -> int:
        """Steps that the limit leaves after this one; 0 at the limit."""
        return self.steps - self.step

    @property
    def entropy(self) -> Tensor:
        """Float32, nats."""
        return self.readout.entropy

    @property
    def confidence(self) -> Tensor:
        """Float32: the probability of the likeliest token."""
        return self.readout.confidence

    @cached_property
    def sample_probability(self) -> Tensor:
        """Float32: the probability of the token that was drawn."""
        return self.readout.probability(self.readout.sample)


class AcceptanceRule(Protocol):
    """Chooses positions by how sure the model is of them."""

    def accept(self, view: AcceptanceView) -> Tensor:
        """Return bool [..., C]. What a rule says of positions that are not open does not count."""
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

    def accept(self, view: AcceptanceView) -> Tensor:
        ascending, order = view.entropy.sort(dim=-1, stable=True)
        kept = ascending.cumsum(-1) - ascending <= self.bound
        return torch.zeros_like(kept).scatter(-1, order, kept)


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Every position whose likeliest token has at least this probability, and always the surest open one.

    The parallel decoding rule of Fast-dLLM (Wu et al. 2025, arXiv 2505.22618, section 3.3).
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"confidence threshold {self.threshold} must be a probability above 0 and at most 1")

    def accept(self, view: AcceptanceView) -> Tensor:
        surest = torch.zeros_like(view.open)
        among_open = view.confidence.masked_fill(~view.open, -1.0)
        surest.scatter_(-1, among_open.argmax(-1, keepdim=True), True)
        return surest | (view.confidence >= self.threshold)
