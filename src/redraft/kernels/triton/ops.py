"""The kernels as operators of torch, so that whoever counts operations, or has no numbers, sees each as one.

Matrices are taken apart into tensors and numbers, which is all that an operator takes. Importing this module defines
them: ``torch.ops.redraft``.
"""

from typing import cast

import torch
from torch import Tensor

from redraft.kernels.norm import Norm
from redraft.kernels.packed import Activation, Format, PackedMatrix
from redraft.kernels.triton import products, readout, routing
from redraft.kernels.triton.readout import Chunk, Merged
from redraft.kernels.triton.routing import Routing

_MATRIX = (
    "Tensor data, Tensor scales, Tensor? bias, str format, str? activation, int outputs, int inputs, int count, "
    "Tensor? norm, float? epsilon"
)
_SCHEMAS = (
    f"linear(Tensor x, {_MATRIX}) -> Tensor",
    f"routed_linear(Tensor x, {_MATRIX}, Tensor order, Tensor tiles, int top_k, int block, bool gathers) -> Tensor",
    "route(Tensor logits, int top_k, Tensor scale) -> (Tensor, Tensor)",
    "sort_by_expert(Tensor chosen, int experts, int block) -> (Tensor, Tensor)",
    "combine(Tensor products, Tensor weights) -> Tensor",
    "read_chunk(Tensor hidden, Tensor table, Tensor gain, bool capped) -> (Tensor, Tensor, Tensor, Tensor)",
    "merge(Tensor sums, Tensor best, Tensor state, Tensor argmax, int first) -> (Tensor, Tensor, Tensor, Tensor)",
)
_LIBRARY = torch.library.Library("redraft", "DEF")
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)

_Matrix = tuple[Tensor, Tensor, Tensor | None, str, str | None, int, int, int, Tensor | None, float | None]


def linear(packed: PackedMatrix, x: Tensor, norm: Norm | None) -> Tensor:
    """``kernels.linear.linear`` with operands in bfloat16, or float32 where the matrix is."""
    found: Tensor = torch.ops.redraft.linear(x, *_apart(packed, norm))
    return found


def experts(
    gate_up: PackedMatrix, down: PackedMatrix, x: Tensor, norm: Norm | None, weights: Tensor, chosen: Tensor
) -> Tensor:
    """``kernels.experts.experts`` with operands in bfloat16, or float32 where the matrices are."""
    count, top_k = chosen.shape
    block = routing.block_choices(count * top_k, gate_up.count)
    order, tiles = torch.ops.redraft.sort_by_expert(chosen, gate_up.count, block)
    inner = torch.ops.redraft.routed_linear(x, *_apart(gate_up, norm), order, tiles, top_k, block, True)
    outer = torch.ops.redraft.routed_linear(inner, *_apart(down, None), order, tiles, top_k, block, False)
    found: Tensor = torch.ops.redraft.combine(outer, weights)
    return found


def route(logits: Tensor, top_k: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """``kernels.layer.route``."""
    return cast(tuple[Tensor, Tensor], torch.ops.redraft.route(logits, top_k, scale))


def read_chunk(hidden: Tensor, table: Tensor, gain: Tensor, capped: bool) -> Chunk:
    """``readout.read_chunk``."""
    return Chunk(*torch.ops.redraft.read_chunk(hidden, table, gain, capped))


def merge(sums: Tensor, best: Tensor, state: Tensor, argmax: Tensor, first: int) -> Merged:
    """``readout.merge``."""
    return Merged(*torch.ops.redraft.merge(sums, best, state, argmax, first))


def _apart(packed: PackedMatrix, norm: Norm | None) -> _Matrix:
    return (
        packed.data, packed.scales, packed.bias, packed.format, packed.activation, packed.outputs, packed.inputs,
        packed.count, None if norm is None else norm.weight, None if norm is None else norm.epsilon,
    )  # fmt: skip


def _together(
    data: Tensor, scales: Tensor, bias: Tensor | None, format: str, activation: str | None, outputs: int, inputs: int,
    count: int, norm: Tensor | None, epsilon: float | None,
) -> tuple[PackedMatrix, Norm | None]:  # fmt: skip
    packed = PackedMatrix(
        cast(Format, format), outputs, inputs, count, cast(Activation | None, activation), data, scales, bias
    )
    return packed, None if epsilon is None else Norm(norm, epsilon)


_PARTS = len(_Matrix.__args__)  # type: ignore[attr-defined]


def _linear(x: Tensor, *matrix: object) -> Tensor:
    packed, norm = _together(*matrix)  # type: ignore[arg-type]
    return products.product(packed, x, norm)


def _routed_linear(x: Tensor, *given: object) -> Tensor:
    packed, norm = _together(*given[:_PARTS])  # type: ignore[arg-type]
    order, tiles, top_k, block, gathers = given[_PARTS:]
    route = Routing(order, tiles, top_k, block)  # type: ignore[arg-type]
    return products.product(packed, x, norm, route, gathers=bool(gathers))


def _sort_by_expert(chosen: Tensor, experts: int, block: int) -> tuple[Tensor, Tensor]:
    found = routing.sort_by_expert(chosen, experts, block)
    return found.order, found.tiles


def _linear_shape(x: Tensor, *matrix: object) -> Tensor:
    packed, _ = _together(*matrix)  # type: ignore[arg-type]
    return x.new_empty(len(x), packed.outputs, dtype=torch.float32)


def _routed_shape(x: Tensor, *given: object) -> Tensor:
    packed, _ = _together(*given[:_PARTS])  # type: ignore[arg-type]
    order, gathers = cast(Tensor, given[_PARTS]), given[-1]
    return x.new_empty(len(order), packed.outputs, dtype=torch.bfloat16 if gathers else torch.float32)


def _route_shape(logits: Tensor, top_k: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    shape = len(logits), top_k
    return logits.new_empty(shape), logits.new_empty(shape, dtype=torch.int64)


def _sort_shape(chosen: Tensor, experts: int, block: int) -> tuple[Tensor, Tensor]:
    count = chosen.numel()
    tiles = chosen.new_empty(3, count // block + experts, dtype=torch.int32)
    return chosen.new_empty(count, dtype=torch.int32), tiles


def _combined_shape(products: Tensor, weights: Tensor) -> Tensor:
    return products.new_empty(len(weights), products.shape[-1])


def _chunk_shape(hidden: Tensor, table: Tensor, gain: Tensor, capped: bool) -> tuple[Tensor, ...]:
    return tuple(readout.empty_chunk(hidden, table))


def _merged_shape(sums: Tensor, best: Tensor, state: Tensor, argmax: Tensor, first: int) -> tuple[Tensor, ...]:
    return tuple(readout.empty_merged(sums, state, argmax))


def _read_chunk(hidden: Tensor, table: Tensor, gain: Tensor, capped: bool) -> tuple[Tensor, ...]:
    return tuple(readout.read_chunk(hidden, table, gain, capped))


def _merge(sums: Tensor, best: Tensor, state: Tensor, argmax: Tensor, first: int) -> tuple[Tensor, ...]:
    return tuple(readout.merge(sums, best, state, argmax, first))


for _name, _computes, _shapes in (
    ("linear", _linear, _linear_shape),
    ("routed_linear", _routed_linear, _routed_shape),
    ("route", routing.route, _route_shape),
    ("sort_by_expert", _sort_by_expert, _sort_shape),
    ("combine", routing.combine, _combined_shape),
    ("read_chunk", _read_chunk, _chunk_shape),
    ("merge", _merge, _merged_shape),
):
    _LIBRARY.impl(_name, _computes, "CPU")
    _LIBRARY.impl(_name, _computes, "CUDA")
    _LIBRARY.impl(_name, _shapes, "Meta")
