"""The numbers that a quantised copy stores, and what becomes of them in each format that it can be computed in."""

from collections import Counter
from dataclasses import dataclass
from math import prod

from redraft.formats.tensors import StoredTensor
from redraft.kernels.packed import Format
from redraft.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class Becoming:
    """A part of the weights, what it is stored as, and what becomes of it."""

    stored: str | None
    """The format that they are stored in; None where that is plain floating point."""
    becomes: str
    weights: int
    """The number of them."""


def becomings(found: Checkpoint, format: Format) -> list[Becoming]:
    """Say what becomes of all weights in ``format``, from headers alone: those that are quantised first, the most of
    them first; one entry for what is not."""
    packed = {
        found.family.stored_name(name): recipe.format for recipe in found.recipes(format) for name in recipe.weights
    }
    counted: Counter[tuple[str | None, str]] = Counter()
    for name, tensor in found.tensors.items():
        plain: Format = "float32" if format == "float32" else "bfloat16"
        counted[tensor.quantised, _becomes(tensor, packed.get(name, plain))] += prod(tensor.shape)
    listed = [Becoming(stored, becomes, weights) for (stored, becomes), weights in counted.most_common()]
    return sorted(listed, key=lambda one: one.stored is None)


def _becomes(tensor: StoredTensor, format: Format) -> str:
    if tensor.quantised is None:
        return "not quantised"
    if format in ("float32", "bfloat16"):
        return f"dequantised to {format}"
    if tensor.grid is None or not tensor.grid.held_by(format):
        return f"requantised to {format}"
    if tensor.grid.exact_in(format):
        return f"kept exactly, as {format}"
    return f"whole numbers kept, as {format}, scales rounded to float16"
