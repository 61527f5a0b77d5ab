"""Packing by the stream: what a packed file will hold is known from headers, and is made while it is written.

One tensor of the checkpoint is read at a time, and a few megabytes of it are packed at a time, so that memory is needed
for the largest tensor (nothing where it is mapped from its file) and little else, however large the model is.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.formats import streamed
from redraft.formats.safetensors import Described
from redraft.formats.streamed import Group, Layout
from redraft.formats.tensors import StoredTensor, TensorReader
from redraft.kernels.packed import Format
from redraft.kernels.whole_numbers import WholeNumbers
from redraft.models.checkpoint import Checkpoint
from redraft.models.packed_file import HEADER, LAYOUTS, PREFIX, VERSION
from redraft.models.recipes import Importance, MatrixRecipe

# Weights of a tensor that is not packed, such as an embedding, that are read at a time.
_AT_A_TIME = 1 << 22
# Of a process that packs: the interpreter with torch, and pieces in float32 with what rounding makes of them.
_WORKING = 600 << 20


class Packing:
    """A packed file of a checkpoint before it is written."""

    def __init__(
        self, found: Checkpoint, format: Format, *, origin: str | None = None, importance: Importance | None = None
    ) -> None:
        """origin: what the weight files are, by which a file is known to be of them. importance: see
        ``recipes.MatrixRecipe.pieces``."""
        self._found, self._importance = found, importance
        self.recipes = found.recipes(format)
        self._beside = _beside(found, format, self.recipes)
        described: dict[str, Described] = {}
        self._groups = [self._of_matrix(recipe) for recipe in self.recipes]
        self._groups += [self._of_tensor(name, one) for name, one in self._beside.items()]
        for group in self._groups:
            described |= group.described
        self._metadata = {HEADER: json.dumps(self._header(format, origin))}
        self.layout = Layout(described, self._metadata)

    @property
    def size(self) -> int:
        """The bytes of the file, exactly."""
        return self.layout.size

    def write(self, path: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """Write the file; see ``formats.streamed.write`` for what is resumed, told and raised."""
        streamed.write(path, self._groups, self._metadata, on_bytes)

    def _header(self, format: Format, origin: str | None) -> dict[str, Any]:
        stored = self._found.family.stored_name
        matrices = {}
        for recipe in self.recipes:
            shape = recipe.shape(self._found.shape)
            matrices[recipe.name] = {
                "format": shape.format,
                "outputs": shape.outputs,
                "inputs": shape.inputs,
                "count": shape.count,
                "activation": shape.activation,
                "weights": [stored(name) for name in recipe.weights],
                "biases": [stored(name) for name in recipe.biases],
                "column_scale": None if recipe.column_scale is None else stored(recipe.column_scale),
                "column_factor": recipe.column_factor,
            }
        header = {
            "version": VERSION,
            "layout": LAYOUTS[format],
            "format": format,
            "matrices": matrices,
            "tensors": {
                name: list(tensor.shape) for name, tensor in self._found.tensors.items() if name not in self._beside
            },
        }
        return header if origin is None else {**header, "origin": origin}

    def _of_matrix(self, recipe: MatrixRecipe) -> Group:
        shape = recipe.shape(self._found.shape)
        parts = dict(shape.parts)
        if recipe.biases:
            parts["bias"] = shape.bias, torch.float32
        described = {f"{PREFIX}{recipe.name}.{key}": part for key, part in parts.items()}
        return Group(described, partial(self._pieces_of_matrix, recipe))

    def _pieces_of_matrix(self, recipe: MatrixRecipe) -> Iterator[tuple[str, Tensor]]:
        prefix, shape = f"{PREFIX}{recipe.name}", recipe.shape(self._found.shape)
        # Files are open for one matrix: what was mapped of them is let go with it.
        with self._found.weights(recipe.sources) as weights:
            for piece in recipe.pieces(weights, self._found.shape, self._importance):
                yield f"{prefix}.data", piece.data
                if piece.scales.numel():
                    yield f"{prefix}.scales", piece.scales
            bias = recipe.bias(weights, shape)
            if bias is not None:
                yield f"{prefix}.bias", bias

    def _of_tensor(self, name: str, described: Described) -> Group:
        return Group({name: described}, partial(self._pieces_of_tensor, name, described[1]))

    def _pieces_of_tensor(self, stored: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        with self._found.stored_weights([stored]) as weights:
            for part in blocks(weights, stored, self._found.tensors[stored].shape):
                yield stored, part.to(dtype)


def blocks(read: TensorReader, name: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Read a tensor by blocks of rows, in floating point: what is decoded, or copied, never is in memory whole."""
    if len(shape) < 2:
        yield read(name)
        return
    step = max(1, _AT_A_TIME // max(1, shape[-1]))
    for number in range(prod(shape[:-2])):
        for start in range(0, shape[-2], step):
            own = read.rows(name, number, slice(start, min(start + step, shape[-2])))
            yield own.values() if isinstance(own, WholeNumbers) else own


def packed_bytes(found: Checkpoint, format: Format) -> int:
    """Return the exact size of a checkpoint's packed file, from its headers."""
    return Packing(found, format).size


def packing_peak(found: Checkpoint, format: Format) -> int:
    """Return an upper bound of the memory that packing takes, in bytes, the process itself included.

    Of a tensor its pages in the file count, though the system may take them back at any time; what is decoded of it is
    there by rows.
    """
    largest = 0
    for recipe in found.recipes(format):
        own = (found.tensors[found.family.stored_name(name)] for name in recipe.sources)
        largest = max(largest, sum(prod(tensor.shape) * _stored_item(tensor) for tensor in own))
    return largest + _WORKING


def _stored_item(tensor: StoredTensor) -> int:
    """Return the bytes of a weight in its file, at most."""
    return tensor.dtype.itemsize if tensor.quantised is None else 1


def _beside(found: Checkpoint, format: Format, recipes: list[MatrixRecipe]) -> dict[str, Described]:
    """Describe the tensors that are not packed, by stored name: what the family needs of them, and what packed columns
    were multiplied by."""
    scales = {recipe.column_scale for recipe in recipes}
    kept = {}
    for name in found.names:
        if found.family.beside(name) or name in scales:
            stored = found.family.stored_name(name)
            kept[stored] = found.tensors[stored].shape, found.dtype_beside(stored, format)
    return kept
