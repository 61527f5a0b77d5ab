"""The noise that denoising undoes: how a canvas is noised, what becomes of a position, and what is committed.

Uniform-state and absorbing-state diffusion (Austin et al. 2021, arXiv 2107.03006).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from redraft.canvas.noise import Noise, UniformNoise


class Corruption(Protocol):
    """The kind of noise that a model was trained to undo; tensors are [..., C]."""

    @property
    def noise(self) -> Noise: ...

    @property
    def mask(self) -> int | None:
        """The token that stands for an unknown one and is never text; None where any token is noise."""
        ...

    @property
    def monotone(self) -> bool:
        """True if what is settled stays: then a canvas is finished when nothing is open."""
        ...

    @property
    def reads_ahead(self) -> bool:
        """True if what is read of a position counts before those in front of it are settled."""
        ...

    def admitted(self, open: Tensor, accepted: Tensor, sample: Tensor) -> Tensor:
        """Return which samples a step accepts where a rule accepts these, bool; of no matter where not ``open``."""
        ...

    def settles(self, sample: Tensor) -> Tensor:
        """Return where ``sample`` is a token that can stand in a text, bool."""
        ...

    def following(self, tokens: Tensor, accepted: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        """Return the canvas that the next step sees, int64."""
        ...

    def open(self, open: Tensor, accepted: Tensor) -> Tensor:
        """Return which positions the next step may still settle, bool."""
        ...

    def committed(self, argmax: Tensor, following: Tensor) -> Tensor:
        """Return the canvas that is committed if this step was the last, int64."""
        ...


@dataclass(frozen=True)
class UniformCorruption:
    """Any token may stand anywhere: whatever is not accepted is renoised, and the likeliest canvas is committed."""

    noise: UniformNoise

    @property
    def mask(self) -> None:
        return None

    @property
    def monotone(self) -> bool:
        return False

    @property
    def reads_ahead(self) -> bool:
        return True

    def admitted(self, open: Tensor, accepted: Tensor, sample: Tensor) -> Tensor:
        return accepted

    def settles(self, sample: Tensor) -> Tensor:
        return torch.ones_like(sample, dtype=torch.bool)

    def following(self, tokens: Tensor, accepted: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        return torch.where(accepted, sample, noise)

    def open(self, open: Tensor, accepted: Tensor) -> Tensor:
        return open

    def committed(self, argmax: Tensor, following: Tensor) -> Tensor:
        return argmax


@dataclass(frozen=True)
class MaskNoise:
    """One token, the mask, in the place of every other (a ``canvas.noise.Noise``)."""

    mask_token: int

    def tokens(self, uniforms: Tensor) -> Tensor:
        return torch.full_like(uniforms, self.mask_token, dtype=torch.int64)


MaskOrder = Literal["any", "left-to-right"]
"""The places of masks on a half-denoised canvas: anywhere, or from some position of each gap to its end."""


@dataclass(frozen=True)
class AbsorbingCorruption:
    """A mask stands for what is unknown: a revealed token stays, and the canvas itself is committed.

    In the order "left-to-right" every stretch of masks is revealed from its beginning on, at least one token a step,
    all stretches at once: how long a text gets is then not decided before the text is.
    """

    noise: MaskNoise
    order: MaskOrder = "any"

    @property
    def mask(self) -> int:
        return self.noise.mask_token

    @property
    def monotone(self) -> bool:
        return True

    @property
    def reads_ahead(self) -> bool:
        return self.order == "any"

    def admitted(self, open: Tensor, accepted: Tensor, sample: Tensor) -> Tensor:
        if self.order == "any":
            return accepted
        first = open.clone()
        first[..., 1:] &= ~open[..., :-1]
        left = open & ~((accepted | first) & self.settles(sample))
        # How many are left open up to here, against those before this stretch.
        count = left.cumsum(-1)
        return open & (count == torch.where(first, count - left.long(), 0).cummax(-1).values)

    def settles(self, sample: Tensor) -> Tensor:
        return sample != self.noise.mask_token

    def following(self, tokens: Tensor, accepted: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        return torch.where(accepted, sample, tokens)

    def open(self, open: Tensor, accepted: Tensor) -> Tensor:
        return open & ~accepted

    def committed(self, argmax: Tensor, following: Tensor) -> Tensor:
        return following
