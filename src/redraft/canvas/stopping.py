"""When a canvas is finished before its step limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class StoppingRule(Protocol):
    """``memory`` is how many earlier argmax canvases the rule looks at."""

    @property
    def memory(self) -> int: ...

    def finished(self, argmax: Tensor, entropy: Tensor, canvas: Tensor, earlier: Sequence[Tensor]) -> bool:
        """``argmax`` and ``entropy`` (nats) [C] of this step, the ``canvas`` [C] it saw, and the argmax canvases of
        the steps before, newest last."""
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

    def finished(self, argmax: Tensor, entropy: Tensor, canvas: Tensor, earlier: Sequence[Tensor]) -> bool:
        confident = entropy.mean().item() < self.confidence_threshold
        if not confident or len(earlier) < self.stability_threshold:
            return False
        recent = earlier[len(earlier) - self.stability_threshold :]
        return all(bool((argmax == previous).all()) for previous in recent)


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

    def finished(self, argmax: Tensor, entropy: Tensor, canvas: Tensor, earlier: Sequence[Tensor]) -> bool:
        return entropy.mean().item() < self.confidence_threshold and bool((argmax == canvas).all())
