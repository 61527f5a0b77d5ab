"""The norm that rows go through before a product."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """An RMSNorm applied to the rows before a product; ``weight`` [inputs] float32, None for ones."""

    weight: Tensor | None
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """The norm in the dtype of ``x``."""
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return normed if self.weight is None else normed * self.weight
