"""When a canvas is finished before its step limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StoppingView:
    """A rule's view of a denoising step; all tensors are [..., C], a canvas in the last dimension."""

    argmax: Tensor
    """int64: the likeliest tokens."""
    entropy: Tensor
    """float32, nats."""
    canvas: Tensor
    """int64: what the model saw."""
    open: Tensor
    """bool: positions that count; pinned ones are certain, which says nothing of the others."""
    earlier: Sequence[Tensor]
    """The likeliest tokens of the steps before, newest last."""
    all_open: bool = False
    """True where it is known, without reading ``open``, that every position is."""

    @property
    def mean_entropy(self) -> Tensor:
        """Float32 [...], nats, over the open positions; 0 where there is none."""
        if self.all_open:
            return self.entropy.sum(-1) / self.entropy.shape[-1]
        return torch.where(self.open, self.entropy, 0.0).sum(-1) / self.open.sum(-1).clamp(min=1)

    def repeats(self, tokens: Tensor) -> Tensor:
        """Return whether the likeliest tokens are ``tokens`` [..., C] at every open position, bool [...]."""
        same = self.argmax == tokens
        return (same if self.all_open else same | ~self.open).all(-1)


class StoppingRule(Protocol):
    """Judges whether a canvas is finished. ``memory`` is how many earlier canvases the rule looks at."""

    @property
    def memory(self) -> int: ...

    def finished(self, view: StoppingView) -> Tensor:
        """Return bool [...], on the device of the view: nothing is read on the host."""
        ...


def _check_confidence(confidence_threshold: float) -> None:
    if not confidence_threshold > 0:
        raise ValueError(f"confidence_threshold {confidence_threshold} must be above 0 nats, or nothing ever stops")


@dataclass(frozen=True)
class StableAndConfident:
    """The reference's rule: the argmax canvas equals that of each of the last ``stability_threshold`` steps, and the
    mean entropy is below ``confidence_threshold`` nats."""

    stability_threshold: int = 1
    confidence_threshold: float = 0.005

    def __post_init__(self) -> None:
        if self.stability_threshold < 0:
            raise ValueError(f"stability_threshold {self.stability_threshold} must be 0 steps or more")
        _check_confidence(self.confidence_threshold)

    @property
    def memory(self) -> int:
        return self.stability_threshold

    def finished(self, view: StoppingView) -> Tensor:
        confident = view.mean_entropy < self.confidence_threshold
        if len(view.earlier) < self.stability_threshold:
            return torch.zeros_like(confident)
        for previous in view.earlier[len(view.earlier) - self.stability_threshold :]:
            confident = confident & view.repeats(previous)
        return confident


@dataclass(frozen=True)
class ReproducesCanvas:
    """The rule of Google's own sampler: the argmax canvas equals the canvas the model saw, and the mean entropy is
    below ``confidence_threshold`` nats."""

    confidence_threshold: float = 0.005

    def __post_init__(self) -> None:
        _check_confidence(self.confidence_threshold)

    @property
    def memory(self) -> int:
        return 0

    def finished(self, view: StoppingView) -> Tensor:
        return (view.mean_entropy < self.confidence_threshold) & view.repeats(view.canvas)
