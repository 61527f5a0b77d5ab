"""Products with packed weights, of rows that all take the same matrix or each that of its expert.

A tile is ``weights [N, K] @ rows^T [K, M]``: weights come first, so that what is decoded stays in registers, where
matrix instructions of every card take their first operand, and so that the few rows of an expert are the narrow side.
Rows are normed on the way: each sums its squares beside its products, and is scaled when they are complete.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from redraft.kernels.norm import Norm
from redraft.kernels.packed import PANEL, PackedMatrix
from redraft.kernels.triton.decoding import decoded
from redraft.kernels.triton.routing import Routing

STAGES = 3


@triton.jit
def product_kernel(
    x, data, scales, bias, norm, out, order, tiles, tile_count,
    rows, inputs, outputs, padded, panels, data_stride, scales_stride, x_stride, top_k, epsilon,
    FORMAT: tl.constexpr, ACTIVATION: tl.constexpr, ROUTED: tl.constexpr, GATHERS: tl.constexpr,
    NORMED: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr, EXACT: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """M rows of x [., inputs] times N outputs of a matrix [outputs, inputs] -> ``out`` [., outputs].

    ROUTED: the rows are choices of experts, in the ``order`` of those, and a tile has one expert. GATHERS: x has a row
    for each token, and out one for each choice in that order; else x has the latter, and out is in the choices' own.
    """
    tile = tl.program_id(0)
    number = 0
    first, end = tile * M, rows
    if ROUTED:
        number = tl.load(tiles + tile)
        if number < 0:
            return
        first, end = tl.load(tiles + tile_count + tile), tl.load(tiles + 2 * tile_count + tile)
        data += number.to(tl.int64) * data_stride
        scales += number.to(tl.int64) * scales_stride
    row = first + tl.arange(0, M)
    live = row < end
    source = row
    target = row
    if ROUTED:
        choice = tl.load(order + row, mask=live, other=0)
        if GATHERS:
            source = choice // top_k
        else:
            target = choice
    column = tl.program_id(1) * N + tl.arange(0, N)
    lane = column % 16
    # Of a gated matrix every other panel is a gate, and the next what it gates.
    panel = column // 16 * (2 if ACTIVATION != "none" else 1)
    there = panel < panels
    product = tl.zeros((N, M), tl.float32)
    gated = tl.zeros((N, M), tl.float32)
    squares = tl.zeros((M,), tl.float32)
    begin = x + source.to(tl.int64) * x_stride
    for start in range(0, inputs, K):
        place = start + tl.arange(0, K)
        own = live[None, :] & (place < inputs)[:, None]
        values = tl.load(begin[None, :] + place[:, None], mask=own, other=0.0).to(tl.float32)
        if NORMED:
            squares += tl.sum(values * values, axis=0)
            if WEIGHTED:
                values *= tl.load(norm + place, mask=place < inputs, other=0.0)[:, None]
        weights = decoded(data, scales, panel, lane, there, start, padded, FORMAT, N, K)
        product = _added(product, weights, values, FORMAT, EXACT)
        if ACTIVATION != "none":
            others = decoded(data, scales, panel + 1, lane, there, start, padded, FORMAT, N, K)
            gated = _added(gated, others, values, FORMAT, EXACT)
    if NORMED:
        scale = tl.rsqrt(squares / inputs + epsilon)[None, :]
        product *= scale
        gated *= scale
    bias += number * panels * 16
    product = _finished(product, scales, bias, panel * 16 + lane, there, FORMAT, BIASED)
    if ACTIVATION != "none":
        gated = _finished(gated, scales, bias, panel * 16 + 16 + lane, there, FORMAT, BIASED)
        product = _activated(product, ACTIVATION) * gated
    into = out + target.to(tl.int64)[None, :] * outputs + column[:, None]
    tl.store(into, product.to(out.dtype.element_ty), mask=live[None, :] & (column < outputs)[:, None])


@triton.jit
def _added(product, weights, values, FORMAT: tl.constexpr, EXACT: tl.constexpr):
    """``product`` [N, M] + weights [N, K] @ values [K, M], of bfloat16 operands, in float32 of float32 ones."""
    if FORMAT == "float32":
        return tl.dot(weights, values, product, input_precision="ieee")
    weights, values = weights.to(tl.bfloat16), values.to(tl.bfloat16)
    if EXACT:
        return tl.dot(weights.to(tl.float32), values.to(tl.float32), product, input_precision="ieee")
    return tl.dot(weights, values, product)


@triton.jit
def _finished(product, scales, bias, column, there, FORMAT: tl.constexpr, BIASED: tl.constexpr):
    if FORMAT == "int8":
        product *= tl.load(scales + column, mask=there, other=0.0)[:, None]
    if BIASED:
        product += tl.load(bias + column, mask=there, other=0.0)[:, None]
    return product


@triton.jit
def _activated(gate, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return gate * tl.sigmoid(gate)
    # x (1 + tanh(u)) / 2 is x sigmoid(2 u).
    return gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))


def product(
    packed: PackedMatrix, x: Tensor, norm: Norm | None, routing: Routing | None = None, *, gathers: bool = False
) -> Tensor:
    """Launch ``product_kernel`` for rows x [count, inputs] of any floating dtype, contiguous in a row.

    Returns float32 [count, outputs]; with a ``routing`` a row for each choice: bfloat16 in the order of experts where
    it ``gathers``, else float32 in the choices' own.
    """
    rows = len(x) if routing is None else len(routing.order)
    dtype = torch.bfloat16 if gathers else torch.float32
    out = torch.empty(rows, packed.outputs, dtype=dtype, device=x.device)
    if not rows:
        return out
    block = block_rows(rows) if routing is None else routing.block
    columns = 128 if packed.activation is None else 64
    data = packed.data.view(-1).view(torch.int32)
    weight = None if norm is None else norm.weight
    # What a kernel does not read may be anything.
    order, tiles = (data, data) if routing is None else (routing.order, routing.tiles)
    count = triton.cdiv(rows, block) if routing is None else tiles.shape[1]
    product_kernel[count, triton.cdiv(packed.outputs, columns)](
        x, data, packed.scales, data if packed.bias is None else packed.bias, data if weight is None else weight, out,
        order, tiles, count, rows, packed.inputs, packed.outputs, packed.padded_inputs, packed.padded_outputs // PANEL,
        len(data) // packed.count, packed.scales.numel() // packed.count, x.stride(0),
        1 if routing is None else routing.top_k, 0.0 if norm is None else norm.epsilon,
        FORMAT=packed.format, ACTIVATION=packed.activation or "none", ROUTED=routing is not None, GATHERS=gathers,
        NORMED=norm is not None, WEIGHTED=weight is not None, BIASED=packed.bias is not None,
        EXACT=triton.knobs.runtime.interpret, M=block, N=columns, K=depth(packed, block),
        num_warps=warps(block), num_stages=STAGES,
    )  # fmt: skip
    return out


def block_rows(rows: int) -> int:
    """Return how many rows a tile of a dense product has."""
    return 16 if rows <= 16 else 32 if rows <= 32 else 64


def depth(packed: PackedMatrix, block: int) -> int:
    """Return how many inputs a tile takes at a time: fewer where registers would not hold more."""
    return 32 if packed.format == "float32" or (packed.gated and block > 32) else 64


def warps(block: int) -> int:
    """Return the warps of a tile of so many rows: the sums of 64 rows take more registers than four of them have."""
    return 8 if block > 32 else 4
