"""Rotary position embedding (Su et al. 2021): whole-head, Gemma 4's proportional partial form, Llama 3's scaling."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor


def inverse_frequencies(head_dim: int, theta: float, partial_rotary_factor: float = 1.0) -> Tensor:
    """Angular velocity of each of the head_dim/2 rotated pairs, radians per position, float32.

    Proportional RoPE rotates only the first ``partial_rotary_factor`` of the pairs, at the frequencies
    they would have in the whole head, and leaves the rest in place (velocity 0).
    """
    rotated = int(partial_rotary_factor * head_dim // 2)
    # On the CPU whatever the default device: a model that is built on "meta" needs real frequencies too.
    velocities = torch.zeros(head_dim // 2, device="cpu")
    velocities[:rotated] = 1.0 / (theta ** (torch.arange(0, 2 * rotated, 2, device="cpu").float() / head_dim))
    return velocities


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's longer contexts: slow rotations are slowed by ``factor``, fast ones stay, between them it is gradual.

    Names are those of ``config.json``. Raises ValueError for what is no number above 0, or an empty band.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{field.name} = {value!r} must be a number above 0")
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(f"low_freq_factor = {self.low_freq_factor} must be below high_freq_factor")

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Llama3Scaling":
        """Read the keys of ``rope_parameters``; raises KeyError for one that is missing."""
        return cls(**{field.name: raw[field.name] for field in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """Return the keys that ``from_json`` reads."""
        return asdict(self)

    def apply(self, velocities: Tensor) -> Tensor:
        """Angular velocities [D/2], radians per position -> the scaled ones."""
        turns = self.original_max_position_embeddings * velocities / (2 * math.pi)
        band = self.high_freq_factor - self.low_freq_factor
        kept = ((turns - self.low_freq_factor) / band).clamp(0, 1)
        return velocities * (kept + (1 - kept) / self.factor)


class RotaryTable:
    """Cosines and sines for consecutive positions, computed once and grown as contexts grow."""

    def __init__(self, frequencies: Tensor) -> None:
        self._frequencies = frequencies
        self._cos = self._sin = frequencies.new_empty(0, len(frequencies))

    def slice(self, start: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine [length, head_dim/2] of positions start .. start+length-1."""
        end = start + length
        if end > len(self._cos) or self._cos.device != device:
            positions = torch.arange(max(end, 2 * len(self._cos)), device=device).float()
            angles = positions[:, None] * self._frequencies.to(device)
            self._cos, self._sin = angles.cos(), angles.sin()
        return self._cos[start:end], self._sin[start:end]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + D/2) of ``x`` [..., T, D] by the angles of ``cos``/``sin`` [T, D/2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
