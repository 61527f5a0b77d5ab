"""Text from which canvases start in the place of noise."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draft:
    """Tokens that stand on the first canvases as far as they survive the noise (Meng et al. 2021, SDEdit)."""

    tokens: Tensor
    """[T] int64, from the first canvas's first position on."""
    survival: Tensor
    """[T] float64: the probability that a token stays."""

    def survivors(self, start: int, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return (stays bool [C], tokens int64 [C]) of the canvas from position ``start`` on, by ``uniforms`` [C]."""
        own = slice(start, start + len(uniforms))
        count = len(self.tokens[own])
        stays = torch.zeros(len(uniforms), dtype=torch.bool)
        stays[:count] = uniforms[:count] < self.survival[own]
        tokens = torch.zeros(len(uniforms), dtype=torch.int64)
        tokens[:count] = self.tokens[own]
        return stays, tokens
