"""Training data as a recipe hands it to the trainer: prompts with the canvases that answer them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """B training examples of one length: what is encoded, what the canvas should become, and how much each counts."""

    prompts: Tensor
    """[B, P] int64 token ids."""
    targets: Tensor
    """[B, C] int64 token ids."""
    weights: Tensor
    """[B, C] float32: the weight of each position's loss."""


class ExampleSource(Protocol):
    """An endless stream of examples, a pure function of the generator's state."""

    def draw(self, count: int, rng: np.random.Generator) -> Examples: ...
