"""Products with packed weights on a device other than the CPU: by Triton's kernels, or dequantised by torch.

Rows are rounded to bfloat16 before a product, and weights that are decoded, too (W4A16, W8A16); float32 stays float32.
Nothing is read on the host.
"""

import torch.nn.functional as F
from torch import Tensor

from redraft.kernels.norm import Norm
from redraft.kernels.packed import PackedMatrix
from redraft.kernels.triton.status import attempt
from redraft.layers.grouped import routed


def linear(packed: PackedMatrix, x: Tensor, norm: Norm | None = None) -> Tensor:
    """``kernels.linear.linear`` of rows on a device."""

    def by_kernel() -> Tensor:
        from redraft.kernels.triton import ops

        return ops.linear(packed, _rows(x), norm)

    return attempt("products", x.device, by_kernel, lambda: linear_by_torch(packed, x, norm))


def experts(
    gate_up: PackedMatrix, down: PackedMatrix, x: Tensor, norm: Norm | None, weights: Tensor, chosen: Tensor
) -> Tensor:
    """``kernels.experts.experts`` of rows on a device."""

    def by_kernel() -> Tensor:
        from redraft.kernels.triton import ops

        return ops.experts(gate_up, down, _rows(x), norm, weights, chosen)

    return attempt("experts", x.device, by_kernel, lambda: experts_by_torch(gate_up, down, x, norm, weights, chosen))


def route(logits: Tensor, top_k: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """``kernels.layer.route`` of logits on a device."""

    def by_kernel() -> tuple[Tensor, Tensor]:
        from redraft.kernels.triton import ops

        return ops.route(logits, top_k, scale)

    def by_torch() -> tuple[Tensor, Tensor]:
        chosen = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
        return logits.gather(1, chosen).softmax(-1) * scale[chosen], chosen

    return attempt("routing", logits.device, by_kernel, by_torch)


def linear_by_torch(packed: PackedMatrix, x: Tensor, norm: Norm | None) -> Tensor:
    """``linear`` with a copy of the weights, which is made for this product alone."""
    rows, weight = _operand(packed, x, norm), _dequantised(packed)[0]
    product = F.linear(rows, weight).float()
    if packed.plain_bias is not None:
        product = product + packed.plain_bias[0]
    if packed.activation is None:
        return product
    gate, up = product.chunk(2, dim=-1)
    return (F.silu(gate) if packed.activation == "silu" else F.gelu(gate, approximate="tanh")) * up


def experts_by_torch(
    gate_up: PackedMatrix, down: PackedMatrix, x: Tensor, norm: Norm | None, weights: Tensor, chosen: Tensor
) -> Tensor:
    """``experts`` with copies of all experts' weights, which are made for this layer alone.

    Raises ValueError for experts with biases or with another activation than Gemma's, which no family has.
    """
    if gate_up.activation != "gelu_tanh" or gate_up.bias is not None or down.bias is not None:
        raise ValueError(f"experts with activation {gate_up.activation} or biases have no products on a device")
    rows = _operand(gate_up, x, norm)
    return routed(rows, weights, chosen, _dequantised(gate_up), _dequantised(down))


def _operand(packed: PackedMatrix, x: Tensor, norm: Norm | None) -> Tensor:
    rows = x.float() if norm is None else norm(x.float())
    return rows if packed.format == "float32" else rows.bfloat16()


def _dequantised(packed: PackedMatrix) -> Tensor:
    weights = packed.unpacked()
    return weights if packed.format == "float32" else weights.bfloat16()


def _rows(x: Tensor) -> Tensor:
    """``x`` with the numbers of each row one after the other."""
    return x if x.stride(-1) == 1 else x.contiguous()
