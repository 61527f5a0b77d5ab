"""Matrices as copies store them, plain or quantised: checked by their headers, decoded row by row."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.quantised.codes import ByteCodes, Codes, WordCodes, scale_values
from redraft.formats.safetensors import DTYPES
from redraft.formats.tensors import Grid, Part, RawReader, Rows, matrix_rows
from redraft.kernels.whole_numbers import WholeNumbers

# Values that are decoded at a time: beside a whole tensor, what that takes does not count.
_AT_A_TIME = 1 << 22


class Matrix(Protocol):
    """A tensor [outputs, inputs], or several [count, outputs, inputs], in parts of a file."""

    @property
    def parts(self) -> Iterator[Part]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype:
        """The dtype that values are handed out in."""
        ...

    @property
    def label(self) -> str | None:
        """The name of what it is stored as, for people; None where it is not quantised."""
        ...

    @property
    def grid(self) -> Grid | None: ...
    def values(self, raw: RawReader) -> Tensor: ...
    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor | WholeNumbers: ...


@dataclass(frozen=True)
class Plain:
    """A tensor that is stored as it is, under a name that need not be the published one."""

    part: Part

    @property
    def parts(self) -> Iterator[Part]:
        yield self.part

    @property
    def shape(self) -> tuple[int, ...]:
        return self.part.shape

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.part.dtype]

    @property
    def label(self) -> None:
        return None

    @property
    def grid(self) -> None:
        return None

    def values(self, raw: RawReader) -> Tensor:
        return raw(self.part.file, self.part.name)

    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor:
        return matrix_rows(self.values(raw), number, rows)


@dataclass(frozen=True)
class Scales:
    """The factors of codes: a scale for so many outputs and so many inputs, and one over all."""

    part: Part
    """[..., outputs / block, inputs / group], or fewer dimensions where they are one."""
    block: int | None = 1
    """Outputs that share a scale; None for all."""
    group: int | None = None
    """Inputs that share a scale; None for all."""
    overall: Part | None = None
    """One number for the whole matrix, which scales are in units of."""
    divides: bool = False
    """True where ``overall`` is the inverse of that unit, and they are divided by it."""

    @property
    def parts(self) -> Iterator[Part]:
        yield self.part
        if self.overall is not None:
            yield self.overall

    def expected(self, outputs: int, inputs: int) -> tuple[int, int]:
        """Return the numbers of scales along outputs and inputs of a matrix."""
        down = 1 if self.block is None else -(-outputs // self.block)
        return down, 1 if self.group is None else -(-inputs // self.group)

    def read(self, raw: RawReader, number: int, rows: Rows, size: tuple[int, int]) -> Tensor:
        """Return the scales of some rows of the matrix ``number`` of ``size``, float32 [n, groups].

        Raises CheckpointError for scales that are no finite numbers.
        """
        down, across = self.expected(*size)
        own = raw(self.part.file, self.part.name).reshape(-1, down, across)[number]
        chosen = torch.arange(size[0])[rows]
        own = own[torch.zeros_like(chosen) if self.block is None else chosen // self.block]
        found = self._in_units(scale_values(own), raw, number)
        if not found.isfinite().all():
            raise CheckpointError(f"{self.part} has scales that are no finite numbers; the file is damaged")
        return found

    def _in_units(self, scales: Tensor, raw: RawReader, number: int) -> Tensor:
        if self.overall is None:
            return scales
        unit = raw(self.overall.file, self.overall.name).reshape(-1)[number].float()
        if not (unit.isfinite() and unit > 0):
            raise CheckpointError(f"{self.overall} is {float(unit)}, and must be a finite number above 0")
        return scales / unit if self.divides else scales * unit


@dataclass(frozen=True)
class Minimums:
    """The value that 0 stands for in each group, stored as it is, or as the whole number that stands for 0."""

    part: Part
    zero_points: WordCodes | ByteCodes | None = None
    """The codes of whole numbers [outputs, groups], in words along outputs; None where minimums themselves are stored.
    """

    def read(self, raw: RawReader, number: int, rows: Rows, scales: Tensor, outputs: int) -> Tensor:
        """Return the minimums of some rows, as ``scales`` [n, groups] of these rows."""
        own, groups = raw(self.part.file, self.part.name), scales.shape[-1]
        if self.zero_points is None:
            found = own.reshape(-1, outputs, groups)[number][rows]
            if not found.isfinite().all():
                raise CheckpointError(f"{self.part} has numbers that are not finite; the file is damaged")
            return found
        if isinstance(self.zero_points, WordCodes):
            zeros = self.zero_points.numbers(own.T, outputs).T
        else:
            zeros = self.zero_points.numbers(own.reshape(outputs, groups), groups)
        return -zeros[rows].float() * scales


@dataclass(frozen=True)
class Quantised:
    """One matrix in codes, or several in one tensor."""

    label: str
    weight: Part
    codes: Codes
    shape: tuple[int, ...]
    """[outputs, inputs], or [count, outputs, inputs]."""
    scales: Scales
    minimums: Minimums | None = None
    told_shape: Part | None = None
    """Outputs and inputs, as the file says them once more."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def parts(self) -> Iterator[Part]:
        yield self.weight
        yield from self.scales.parts
        if self.minimums is not None:
            yield self.minimums.part
        if self.told_shape is not None:
            yield self.told_shape

    @property
    def grid(self) -> Grid | None:
        group = self.scales.group
        if not self.codes.whole or (group is not None and self.shape[-1] % group):
            return None
        given = self.minimums is None or self.minimums.zero_points is None
        told = [self.scales.part] if self.minimums is None else [self.scales.part, self.minimums.part]
        exact = given and all(part.dtype in ("F16", "BF16") for part in told)
        return Grid(self.codes.bits, group, self.minimums is None, exact)

    def values(self, raw: RawReader) -> Tensor:
        found = torch.empty(self.shape)
        step = max(1, _AT_A_TIME // self.shape[-1])
        for number, own in enumerate(found.view(-1, *self.shape[-2:])):
            for start in range(0, len(own), step):
                rows = slice(start, start + step)
                one = self.rows(raw, number, rows)
                own[rows] = one.values() if isinstance(one, WholeNumbers) else one
        return found

    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor | WholeNumbers:
        outputs, inputs = self.shape[-2:]
        self._check_told(raw)
        stored = matrix_rows(raw(self.weight.file, self.weight.name), number, rows)
        numbers = self.codes.numbers(stored, inputs)
        scales = self.scales.read(raw, number, rows, (outputs, inputs))
        if self.grid is not None:
            lowest = None if self.minimums is None else self.minimums.read(raw, number, rows, scales, outputs)
            return WholeNumbers(numbers, scales, lowest, self.codes.bits)
        group = inputs if self.scales.group is None else self.scales.group
        if inputs % group == 0:
            return (numbers.unflatten(-1, (-1, group)) * scales[..., None]).flatten(-2)
        return numbers * scales.repeat_interleave(group, dim=-1)[:, :inputs]

    def _check_told(self, raw: RawReader) -> None:
        if self.told_shape is not None:
            check_told_shape(self.told_shape, raw(self.told_shape.file, self.told_shape.name), self.shape)


def check_told_shape(part: Part, told: Tensor, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError where a file's own word on a shape is another one than its tensors have."""
    if told.tolist() != list(shape):
        raise CheckpointError(
            f"{part} says {told.tolist()}, and the tensors beside it are of a matrix {list(shape)}; one of the two "
            "belongs to another copy"
        )
