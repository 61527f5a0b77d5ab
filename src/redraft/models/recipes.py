"""Recipes of a model's packed matrices, how they are made of its weights: said by a family, and done piece by piece."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from redraft.formats.tensors import Rows, TensorReader, matrix_rows
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
from redraft.kernels.whole_numbers import WholeNumbers

Shape = tuple[int, ...]
Shapes = Callable[[str], Shape]
"""Gives the shape of a weight by its name in the plain model."""
Importance = Mapping[str, Tensor]
"""For weights, by name, how much an error of each input's column counts: [inputs] or, of several, [count, inputs]."""


def sensitive(format: Format) -> Format:
    """Return the format of what costs little at twice the bits, and much at half of them: attention, which writes what
    every later layer reads, self-conditioning, which goes from step to step, the head, and beside experts the dense
    branch, which every token goes through. In int4 they are int8."""
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

    def pieces(self, read: TensorReader, shapes: Shapes, importance: Importance | None = None) -> Iterator[Piece]:
        """Make it piece by piece; ``read`` gives weights by their names in the plain model."""
        scale = None if self.column_scale is None else read(self.column_scale).float() * self.column_factor
        known = None if importance is None else importance.get(self.weights[0])
        lengths = [shapes(name)[-2] for name in self.weights]
        return pieces(
            partial(_rows, read, list(zip(self.weights, lengths, strict=True)), scale),
            self.shape(shapes),
            None if known is None else partial(_of_number, known),
        )

    def bias(self, read: TensorReader, shape: MatrixShape) -> Tensor | None:
        """Return the bias as the matrix has it, None of one without."""
        if not self.biases:
            return None
        return packed_bias(torch.cat([read(name) for name in self.biases], dim=-1).view(shape.count, -1), shape)

    def made(self, read: TensorReader, shapes: Shapes) -> PackedMatrix:
        """Make it in memory."""
        shape = self.shape(shapes)
        packed, bias = assemble(shape, self.pieces(read, shapes)), self.bias(read, shape)
        return packed if bias is None else replace(packed, bias=bias)


def projections(prefix: str, *names: str) -> tuple[str, ...]:
    """Return the names of projections' weights, such as "q" of ``layers.0.self_attn``."""
    return tuple(f"{prefix}.{name}_proj.weight" for name in names)


def router(layer: str, hidden_size: int) -> MatrixRecipe:
    """Return the recipe of a layer's router, in float32.

    Its scale belongs to the rows, after their norm; multiplied into the columns it costs nothing.
    """
    return MatrixRecipe(
        f"{layer}.router",
        (f"{layer}.router.proj.weight",),
        "float32",
        column_scale=f"{layer}.router.scale",
        column_factor=hidden_size**-0.5,
        fixed=True,
    )


class InMemory:
    """A ``TensorReader`` of weights that are in memory, such as a model's ``state_dict``."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def __call__(self, name: str, /) -> Tensor:
        return self._weights[name]

    def rows(self, name: str, number: int, rows: Rows, /) -> Tensor:
        return matrix_rows(self._weights[name], number, rows)

    def shape(self, name: str) -> Shape:
        """Return the shape of a weight."""
        return tuple(self._weights[name].shape)


def made(recipes: Iterable[MatrixRecipe], read: TensorReader, shapes: Shapes) -> Iterator[tuple[str, PackedMatrix]]:
    """Make matrices in memory, one at a time, by name."""
    for recipe in recipes:
        yield recipe.name, recipe.made(read, shapes)


def made_of(recipes: Iterable[MatrixRecipe], weights: Mapping[str, Tensor]) -> dict[str, PackedMatrix]:
    """Make matrices of weights that are in memory."""
    read = InMemory(weights)
    return dict(made(recipes, read, read.shape))


def _rows(
    read: TensorReader, weights: list[tuple[str, int]], scale: Tensor | None, number: int, rows: Tensor
) -> Iterator[tuple[Tensor, Tensor | WholeNumbers]]:
    """Read some rows of stacked weights, given with how many rows each has."""
    start = 0
    for name, length in weights:
        (here,) = ((rows >= start) & (rows < start + length)).nonzero(as_tuple=True)
        if len(here):
            own = rows[here] - start
            # A slice of what is mapped takes no memory.
            in_order = bool((own.diff() == 1).all())
            found = read.rows(name, number, slice(int(own[0]), int(own[-1]) + 1) if in_order else own)
            if scale is not None:
                found = (found.values() if isinstance(found, WholeNumbers) else found.float()) * scale
            yield here, found
        start += length


def _of_number(importance: Tensor, number: int) -> Tensor:
    return importance[number] if importance.ndim == 2 else importance
