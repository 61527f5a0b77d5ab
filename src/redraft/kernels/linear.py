"""A product with a packed weight, its rows normed and cast on the way in, gated on the way out."""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.kernels import bindings, device, interface
from redraft.kernels.norm import Norm
from redraft.kernels.packed import BLOCK, Format, PackedMatrix

# Weights that torch computes with at a time: 4 MB in float32, which stay in a core's cache beside the rows.
_AT_A_TIME = 1 << 20


def linear(packed: PackedMatrix, x: Tensor, norm: Norm | None = None) -> Tensor:
    """``norm(x) @ weight.T + bias`` for x [count, inputs] float32; of a gated matrix ``activation(gate) * up``.

    Returns float32 [count, outputs]. bfloat16 rounds the normed rows to bfloat16; int8 and int4 round them to int8
    with one scale a row. Sums are taken in float32 or int32. A row's result depends on no other row. Beside the CPU
    rows of all three are rounded to bfloat16, as ``device`` says.
    """
    check_width(packed, x)
    if x.device.type != "cpu":
        return device.linear(packed, x, norm)
    if bindings.kernels() is None:
        return linear_reference(packed, x, norm)
    x = bindings.rows(x)
    out = bindings.floats(len(x), packed.outputs)
    bindings.entry("redraft_linear")(
        ctypes.byref(packed.for_c), x.data_ptr(), len(x), x.stride(0), norm_for_c(norm),
        out.data_ptr(), packed.outputs,
    )  # fmt: skip
    return out


def check_width(packed: PackedMatrix, x: Tensor) -> None:
    """Raise ValueError for rows that a kernel would read past the end of."""
    if x.shape[-1] != packed.inputs:
        raise ValueError(f"rows of {x.shape[-1]} numbers for a matrix of {packed.inputs} inputs")


def norm_for_c(norm: Norm | None) -> interface.CNorm | None:
    """``norm`` as the C entries take it."""
    return None if norm is None else interface.CNorm(bindings.pointer(norm.weight), norm.epsilon)


def linear_reference(packed: PackedMatrix, x: Tensor, norm: Norm | None = None) -> Tensor:
    """``linear`` in plain torch: what it means, and what it is where there is no compiled library."""
    rows = x.float() if norm is None else norm(x.float())
    return product_with(packed, 0, as_operand(rows, packed.format))


def product_with(packed: PackedMatrix, number: int, operand: Tensor) -> Tensor:
    """The product of ``operand`` [count, inputs] with one of the matrices, its bias added, gated where they are.

    Weights are made float32 some blocks at a time, and are not kept: in memory is what is packed.
    """
    columns = torch.empty(len(operand), packed.padded_outputs)
    step = max(1, _AT_A_TIME // (BLOCK * packed.inputs))
    for first in range(0, packed.padded_outputs // BLOCK, step):
        own = packed.panels(number, slice(first, first + step))
        torch.mm(operand, own.T, out=columns[:, first * BLOCK : first * BLOCK + len(own)])
    if packed.bias is not None:
        columns += packed.bias[number]
    product = packed.in_order(columns)
    if packed.activation is None:
        return product
    gate, up = product.chunk(2, dim=-1)
    return (F.silu(gate) if packed.activation == "silu" else F.gelu(gate, approximate="tanh")) * up


def as_operand(rows: Tensor, format: Format) -> Tensor:
    """The values, float32, that a product in ``format`` takes for ``rows``."""
    if format == "float32":
        return rows
    if format == "bfloat16":
        return rows.bfloat16().float()
    largest = rows.abs().amax(-1, keepdim=True)
    # Numbers so small that the inverse is infinite are zeros.
    whole = (rows * torch.where(largest < 1e-36, 0.0, 127 / largest)).round()
    return whole * (largest / 127)
