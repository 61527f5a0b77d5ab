"""Weights that somebody else rounded: whole numbers in groups of inputs, moved over to int8 and int4 as they are."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.kernels.int4 import GROUP, Int4

_SIGNED = 128


@dataclass(frozen=True)
class WholeNumbers:
    """A weight ``scale * q + minimum`` [..., outputs, inputs]: whole numbers q, and a scale for a group of inputs."""

    whole: Tensor
    """int8 or uint8 [..., outputs, inputs]."""
    scales: Tensor
    """Floating point [..., outputs, groups]; groups are equally wide, and lie one after the other."""
    minimums: Tensor | None
    """The weights that 0 stands for, as ``scales``; None where that is 0, and whole numbers have signs."""
    bits: int
    """Bits of a whole number."""

    @property
    def shape(self) -> torch.Size:
        return self.whole.shape

    @property
    def ndim(self) -> int:
        return self.whole.ndim

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.whole.shape[-1] // self.scales.shape[-1]

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int | slice | Tensor) -> "WholeNumbers":
        """Return one matrix of a stack, or some rows of a matrix."""
        minimums = None if self.minimums is None else self.minimums[index]
        return WholeNumbers(self.whole[index], self.scales[index], minimums, self.bits)

    def values(self) -> Tensor:
        """Return the weight, float32."""
        found = self.whole.unflatten(-1, (self.scales.shape[-1], self.group)) * self.scales.float()[..., None]
        if self.minimums is not None:
            found += self.minimums.float()[..., None]
        return found.flatten(-2)


class Int8(NamedTuple):
    """Weights [outputs, inputs] in eight bits, with a scale an output."""

    whole: Tensor
    """uint8 [outputs, inputs]: q + 128."""
    scales: Tensor
    """float32 [outputs]."""


def as_int8(numbers: WholeNumbers) -> Int8 | None:
    """Return a matrix's numbers as int8 has them; None where it has no place for them."""
    if numbers.minimums is not None or numbers.scales.shape[-1] != 1 or numbers.whole.dtype != torch.int8:
        return None
    return Int8((numbers.whole.short() + _SIGNED).to(torch.uint8), numbers.scales[..., 0].float())


def as_int4(numbers: WholeNumbers) -> Int4 | None:
    """Return a matrix's numbers as int4 has them, its inputs padded to whole groups; None where it has no place for
    them.

    Scales and minimums that float16 does not have are rounded to it. Groups must be of whole ones of int4, or a row.
    """
    one_a_row = numbers.scales.shape[-1] == 1
    if numbers.bits > 4 or (numbers.group % GROUP and not one_a_row):
        return None
    scales, minimums, whole = numbers.scales.float(), numbers.minimums, numbers.whole
    if minimums is None:
        lowest = 1 << (numbers.bits - 1)
        whole, minimums = whole + lowest, -lowest * scales
    scales, minimums = scales.half(), minimums.half()
    if not (scales.isfinite().all() and minimums.isfinite().all()):
        return None
    times = -(-numbers.shape[-1] // GROUP) if one_a_row else numbers.group // GROUP
    padded = F.pad(whole.to(torch.uint8), (0, -whole.shape[-1] % GROUP))
    return Int4(padded, *(each.repeat_interleave(times, dim=-1) for each in (scales, minimums)))
