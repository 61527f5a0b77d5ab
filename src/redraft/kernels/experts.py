"""The experts of a mixture as one grouped kernel: gather, gated product, second product, weighted scatter."""

import ctypes

import torch
from torch import Tensor

from redraft.kernels import bindings, device
from redraft.kernels.linear import as_operand, check_width, norm_for_c, product_with
from redraft.kernels.norm import Norm
from redraft.kernels.packed import PackedMatrix


def experts(
    gate_up: PackedMatrix, down: PackedMatrix, x: Tensor, norm: Norm | None, weights: Tensor, chosen: Tensor
) -> Tensor:
    """Sum over each token's chosen experts of ``weight * down(activation(gate(x)) * up(x))``, x normed first.

    gate_up and down hold one matrix an expert; x [count, inputs] float32; weights float32 and chosen int64
    [count, top_k]. Returns float32 [count, outputs of down]. A token's choices are summed in their order, so that the
    result depends neither on the other tokens nor on threads. Beside the CPU choices are not looked at: the host would
    have to wait for them.
    """
    check_width(gate_up, x)
    if not weights.shape == chosen.shape == (len(x), chosen.shape[-1]):
        raise ValueError(f"weights {[*weights.shape]} and choices {[*chosen.shape]} for {len(x)} rows")
    if x.device.type != "cpu":
        return device.experts(gate_up, down, x, norm, weights, chosen)
    if chosen.numel():
        lowest, highest = (int(expert) for expert in chosen.aminmax())
        if lowest < 0 or highest >= gate_up.count:
            raise ValueError(f"expert {lowest if lowest < 0 else highest} is none of {gate_up.count}")
    if bindings.kernels() is None:
        return experts_reference(gate_up, down, x, norm, weights, chosen)
    x, weights, chosen = bindings.rows(x), weights.float().contiguous(), chosen.long().contiguous()
    out = bindings.floats(len(x), down.outputs)
    bindings.entry("redraft_experts")(
        ctypes.byref(gate_up.for_c), ctypes.byref(down.for_c), gate_up.count,
        x.data_ptr(), len(x), x.stride(0), norm_for_c(norm),
        chosen.data_ptr(), weights.data_ptr(), chosen.shape[1], out.data_ptr(), down.outputs,
    )  # fmt: skip
    return out


def experts_reference(
    gate_up: PackedMatrix, down: PackedMatrix, x: Tensor, norm: Norm | None, weights: Tensor, chosen: Tensor
) -> Tensor:
    """``experts`` in plain torch, one expert after the other."""
    rows = as_operand(x.float() if norm is None else norm(x.float()), gate_up.format)
    out = torch.zeros(len(x), chosen.shape[1], down.outputs)
    for expert in chosen.unique().tolist():
        token, choice = (chosen == expert).nonzero(as_tuple=True)
        inner = product_with(gate_up, expert, rows[token])
        out[token, choice] = product_with(down, expert, as_operand(inner, down.format))
    return (out * weights[..., None]).sum(dim=1)
