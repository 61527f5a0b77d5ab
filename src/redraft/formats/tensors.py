"""Tensors in files, described and read by name, whatever the format: safetensors in a folder, or one GGUF file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from redraft.kernels.int4 import GROUP
from redraft.kernels.packed import Format
from redraft.kernels.whole_numbers import WholeNumbers

Rows = slice | Tensor
"""Rows of a matrix: a slice, or their numbers, int64 [n]."""


@dataclass(frozen=True)
class Part:
    """A tensor as the header of a safetensors file has it: one of those that a published tensor is made of."""

    file: Path
    name: str
    dtype: str
    """The format's own name: "BF16", "F8_E4M3", "I32" and so on."""
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.file}: tensor {self.name}"


RawReader = Callable[[Path, str], Tensor]
"""Reads a tensor of a file as it is stored, mapped from the file."""


@dataclass(frozen=True)
class Grid:
    """The whole numbers that a matrix is stored in, and what of them one of the kernels' formats can hold."""

    bits: int
    group: int | None
    """Inputs that share a scale; None for a whole row."""
    symmetric: bool
    """True where 0 stands for a weight of 0, and whole numbers have signs."""
    in_float16: bool
    """True where float16 has all scales and minimums."""

    @property
    def kept_as(self) -> Literal["int8", "int4"] | None:
        """The format that takes the whole numbers over; None where they have to be rounded anew."""
        return "int4" if self.held_by("int4") else "int8" if self.held_by("int8") else None

    def held_by(self, format: Format) -> bool:
        """Tell whether a format of whole numbers takes these over: int4 has a scale and a minimum for every group of
        its own, int8 a scale for every row."""
        if format == "int4":
            return self.bits <= 4 and (self.group is None or self.group % GROUP == 0)
        return format == "int8" and self.symmetric and self.group is None

    def exact_in(self, format: Format) -> bool:
        """Tell whether a format that holds these keeps their values: int4 has its scales in float16."""
        return self.held_by(format) and (format == "int8" or self.in_float16)


class Encoding(Protocol):
    """The way in which parts make a published tensor that is no plain one: quantised, or stacked of several."""

    @property
    def parts(self) -> Iterable[Part]:
        """All that it is made of."""
        ...

    def values(self, raw: RawReader) -> Tensor:
        """Return the whole tensor, in floating point."""
        ...

    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor | WholeNumbers:
        """Return some rows of one matrix [n, inputs]: whole numbers where there is a ``Grid``."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, as the header describes it."""

    file: Path
    """The file that it, or the first of its parts, lies in."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    """The dtype that it is read in."""
    quantised: str | None = None
    """The format of a tensor that is stored quantised, such as "Q4_K" or "NVFP4", for people; None for others."""
    grid: Grid | None = None
    """The whole numbers of a tensor that has them; None for others."""
    encoding: Encoding | None = None
    """None for a plain tensor, and for one whose format reads it by itself."""

    @property
    def files(self) -> frozenset[Path]:
        """All files that it has a part in."""
        own = () if self.encoding is None else (part.file for part in self.encoding.parts)
        return frozenset((self.file, *own))


class TensorReader(Protocol):
    """Reads tensors by name from files that are open."""

    def __call__(self, name: str, /) -> Tensor:
        """Return one tensor, in floating point; one that is neither quantised nor stacked is mapped from its file."""
        ...

    def rows(self, name: str, number: int, rows: Rows, /) -> Tensor | WholeNumbers:
        """Return some rows of a matrix, the ``number``-th where there are several in a tensor: [n, inputs], whole
        numbers where it is stored in them. No others are decoded."""
        ...


def matrix_rows(tensor: Tensor, number: int, rows: Rows) -> Tensor:
    """Return some rows of the ``number``-th matrix of a tensor [..., rows, columns]."""
    return tensor.reshape(-1, *tensor.shape[-2:])[number][rows]
