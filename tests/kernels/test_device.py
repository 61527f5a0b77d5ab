"""Products with packed weights by torch on a device without kernels: those of a loop over the weights they stand for,
with rows and weights rounded to bfloat16."""

import pytest
import torch

from redraft.kernels.device import experts_by_torch, linear_by_torch
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Activation, Format, pack, pack_gated

# What rounding a row's and a weight's number to bfloat16 changes of their product, at most.
ROUNDING = 2.0**-7


@pytest.mark.parametrize(("format", "activation"), [("int4", None), ("int8", "silu"), ("int8", "gelu_tanh")])
def test_a_product_is_that_of_the_dequantised_weights(format: Format, activation: Activation | None) -> None:
    torch.manual_seed(0)
    weight, rows, bias = torch.randn(48, 70), torch.randn(5, 70), torch.randn(48)
    norm = Norm(torch.rand(70) + 0.5, 1e-6)
    packed = pack(weight, format, bias) if activation is None else pack_gated(weight, format, activation, bias)
    stands_for, normed = packed.unpacked()[0], norm(rows)
    exact = normed @ stands_for.T + bias
    error = ROUNDING * (normed.abs() @ stands_for.abs().T)
    if activation is not None:
        gate, up = exact.chunk(2, dim=-1)
        act = torch.nn.functional.silu if activation == "silu" else torch.nn.GELU("tanh")
        exact = act(gate) * up
        off_gate, off_up = error.chunk(2, dim=-1)
        # Neither activation is steeper than 1.13.
        error = 1.13 * off_gate * (up.abs() + off_up) + act(gate).abs() * off_up + 1e-4
    found = linear_by_torch(packed, rows, norm)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= error + 1e-4).all()


def test_experts_in_another_form_than_gemmas_are_refused() -> None:
    gate_up, down = pack_gated(torch.randn(2, 64, 32), "int8", "silu"), pack(torch.randn(2, 32, 32), "int8")
    with pytest.raises(ValueError, match="experts with activation silu or biases"):
        experts_by_torch(gate_up, down, torch.randn(1, 32), None, torch.ones(1, 1), torch.zeros(1, 1).long())
