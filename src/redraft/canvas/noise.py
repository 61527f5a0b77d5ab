"""The noise that takes the place of a position which is not accepted."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Turns uniforms in [0, 1) into noise tokens."""

    def tokens(self, uniforms: Tensor) -> Tensor:
        """Float64 [C] in [0, 1) -> token ids [C], int64."""
        ...


@dataclass(frozen=True)
class UniformNoise:
    """Any token of the vocabulary, each equally likely (uniform-state diffusion, Austin et al. 2021)."""

    vocab_size: int

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size {self.vocab_size} leaves nothing to choose from; it must be at least 2")

    def tokens(self, uniforms: Tensor) -> Tensor:
        return (uniforms * self.vocab_size).to(torch.int64)
