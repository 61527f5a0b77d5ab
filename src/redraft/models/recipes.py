"""How a model's packed matrices are made of its weights: said by a family, and done piece by piece."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from redraft.formats.tensors import TensorReader
from redraft.kernels.packed import (
    Activation,
    Format,
    MatrixShape,
    PackedMatrix,
    Piece,
    assemble,
    packed_bias,
    pieces,
)

Shape = tuple[int, ...]
Shapes = Callable[[str], Shape]
"""Gives the shape of a weight by its name in the plain model."""
Importance = Mapping[str, Tensor]
"""For weights, by name, how much an error of each input's column counts: [inputs] or, of several, [count, inputs]."""


def sensitive(format: Format) -> Format:
    """Return the format of what costs little at twice the bits, and much at half of them: attention, which writes what
    every later layer reads, self-conditioning, which goes from step to step, and the head. In int4 they are int8."""
    return "int8" if format == "int4" else format


@dataclass(frozen=True)
class MatrixRecipe:
    """One packed matrix, or several of one shape: which weights it is made of, and into what."""

    name: str
    """The family's name of the packed matrix."""
    weights: tuple[str, ...]
    """Names in the plain model of what is stacked along the outputs, each [outputs, inputs] or [count, outputs,
    inputs]; of a gated matrix all gates come first."""
    format: Format
    activation: Activation | None = None
    """The function of a gated matrix's gate."""
    biases: tuple[str, ...] = ()
    """Names of biases, one for each of the weights."""
    column_scale: str | None = None
    """The name of a vector [inputs] that the columns are multiplied by, and by ``column_factor``."""
    column_factor: float = 1.0
    fixed: bool = False
    """True where no other format would do, however the weights are stored."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all tensors that it is made of."""
        return (*self.weights, *self.biases, *([self.column_scale] if self.column_scale is not None else []))

    def shape(self, shapes: Shapes) -> MatrixShape:
        """Return what it will be, from its weights' shapes alone."""
        own = [shapes(name) for name in self.weights]
        rows = sum(shape[-2] for shape in own)
        count = own[0][0] if len(own[0]) == 3 else 1
        outputs = rows if self.activation is None else rows // 2
        return MatrixShape(self.format, outputs, own[0][-1], count, self.activation)

    def pieces(self, read: TensorReader, importance: Importance | None = None) -> Iterator[Piece]:
        """Make it piece by piece; ``read`` gives weights by their names in the plain model."""
        weights = [read(name) for name in self.weights]
        scale = None if self.column_scale is None else read(self.column_scale).float() * self.column_factor
        shape = self.shape(lambda name: tuple(weights[self.weights.index(name)].shape))
        known = None if importance is None else importance.get(self.weights[0])
        return pieces(partial(_rows, weights, scale), shape, None if known is None else partial(_of_number, known))

    def bias(self, read: TensorReader, shape: MatrixShape) -> Tensor | None:
        """Return the bias as the matrix has it, None of one without."""
        if not self.biases:
            return None
        return packed_bias(torch.cat([read(name) for name in self.biases], dim=-1).view(shape.count, -1), shape)

    def made(self, read: TensorReader) -> PackedMatrix:
        """Make it in memory."""
        loaded = {name: read(name) for name in self.sources}
        shape = self.shape(lambda name: tuple(loaded[name].shape))
        packed = assemble(shape, self.pieces(loaded.__getitem__))
        bias = self.bias(loaded.__getitem__, shape)
        return packed if bias is None else replace(packed, bias=bias)


def made(recipes: Iterable[MatrixRecipe], read: TensorReader) -> Iterator[tuple[str, PackedMatrix]]:
    """Make matrices in memory, one at a time, by name."""
    for recipe in recipes:
        yield recipe.name, recipe.made(read)


def _rows(weights: list[Tensor], scale: Tensor | None, number: int, rows: Tensor) -> Tensor:
    """Return some rows of stacked weights, float32 [n, inputs]."""
    found = torch.empty(len(rows), weights[0].shape[-1])
    start = 0
    for weight in weights:
        own = weight[number] if weight.ndim == 3 else weight
        here = (rows >= start) & (rows < start + len(own))
        found[here] = own[rows[here] - start].float()
        start += len(own)
    return found if scale is None else found * scale


def _of_number(importance: Tensor, number: int) -> Tensor:
    return importance[number] if importance.ndim == 2 else importance
