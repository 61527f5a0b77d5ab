"""Products with packed weights, in Triton's interpreter, are those of the weights that were packed.

Where weights and rows are numbers that the format and bfloat16 have, and sums are short, results are compared bit for
bit: nothing may be rounded, and a number that was read from another place shows. The reference never looks at the
packed layout. The interpreter cuts off what does not fit bfloat16, where a card rounds: up to one part in 128.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.kernels.norm import Norm
from redraft.kernels.packed import FORMATS, Activation, Format, PackedMatrix, pack, pack_gated
from tests.kernels.triton.conftest import INTERPRETED

pytestmark = [pytest.mark.gpu, INTERPRETED]

CUT = 2.0**-7
EXPERTS, TOP_K, HIDDEN, INNER = 4, 2, 70, 24


def exact_weights(format: Format, *shape: int) -> Tensor:
    """Weights [..., outputs, inputs] that ``format`` and bfloat16 have as they are."""
    torch.manual_seed(sum(shape))
    if format == "int4":
        whole = torch.randint(-8, 8, shape).float()
        # A range that rounding finds again begins at its end.
        whole[..., ::32] = -8.0
        whole[..., 1::32] = 7.0
        return whole * 0.25
    if format == "int8":
        whole = torch.randint(-127, 128, shape).float()
        whole[..., 0] = 127.0
        return whole * 0.5
    return torch.randint(-128, 128, shape).float() / 16


def small_rows(*shape: int) -> Tensor:
    """Rows of a few small whole numbers, whose products with ``exact_weights`` have exact sums."""
    return torch.randint(-3, 4, shape).float()


def packed_exactly(weights: Tensor, format: Format, activation: Activation | None = None) -> PackedMatrix:
    packed = pack(weights, format) if activation is None else pack_gated(weights, format, activation)
    assert torch.equal(packed.unpacked(), weights.view(packed.count, *weights.shape[-2:]))
    return packed


@pytest.mark.parametrize("format", FORMATS)
def test_a_product_of_numbers_that_are_exact_is_exact(format: Format) -> None:
    from redraft.kernels.triton.products import product

    # No whole number of tiles in any direction: 17 rows, 150 outputs, 70 inputs.
    weights, rows = exact_weights(format, 150, HIDDEN), small_rows(17, HIDDEN)
    found = product(packed_exactly(weights, format), rows, None)
    assert torch.equal(found, (rows.double() @ weights.double().T).float())


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize("format", ["int4", "int8"])
def test_rows_are_normed_and_gates_activated(format: Format, activation: Activation) -> None:
    from redraft.kernels.triton.products import product

    weights = exact_weights(format, 2 * INNER, HIDDEN) / 64
    # Tiles of few rows, and of many.
    rows = small_rows(3 if activation == "silu" else 40, HIDDEN)
    norm = Norm(torch.tensor([1.0, 2.0]).repeat(HIDDEN // 2), 1e-6)
    bias = torch.randint(-4, 4, (2 * INNER,)) / 8
    packed = pack_gated(weights, format, activation, bias)
    found = product(packed, rows, norm)
    normed = rows * rows.square().mean(-1, keepdim=True).add(1e-6).rsqrt() * norm.weight
    gate, up = (normed @ weights.T + bias).chunk(2, dim=-1)
    expected = (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")) * up
    # Rows times their norm's weights fit bfloat16; what is left is the order of sums in float32.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", ["int4", "int8", "bfloat16"])
def test_experts_are_those_of_a_loop(format: Format) -> None:
    from redraft.kernels.triton.ops import experts

    gate_up = exact_weights(format, EXPERTS, 2 * INNER, HIDDEN) / 64
    down = exact_weights(format, EXPERTS, HIDDEN, INNER) / 64
    rows = small_rows(9, HIDDEN)
    # An expert that nobody chose, and one with more rows than a tile has none of: both ends of a load.
    chosen = torch.tensor([[0, 3], [3, 0]]).repeat(5, 1)[:9]
    chosen[4] = torch.tensor([1, 3])
    shares = torch.rand(9, TOP_K)
    packed = pack_gated(gate_up, format), pack(down, format)
    found = experts(*packed, rows, None, shares, chosen)
    expected, bound = torch.zeros(9, HIDDEN), torch.zeros(9, HIDDEN)
    for row, choice in ((row, choice) for row in range(9) for choice in range(TOP_K)):
        expert = int(chosen[row, choice])
        gate, up = (gate_up[expert] @ rows[row]).chunk(2)
        inner = F.gelu(gate, approximate="tanh") * up
        expected[row] += shares[row, choice] * (down[expert] @ inner)
        # Each of the inner numbers is cut to bfloat16, and not more than that.
        bound[row] += shares[row, choice] * CUT * (down[expert].abs() @ inner.abs())
    assert ((found - expected).abs() <= bound + 1e-5).all()
    assert (bound < expected.abs().mean()).any()


def test_no_rows_give_no_rows() -> None:
    from redraft.kernels.triton.ops import experts
    from redraft.kernels.triton.products import product

    packed = pack(exact_weights("int8", 32, 64), "int8")
    assert product(packed, torch.empty(0, 64), None).shape == (0, 32)
    stack = pack_gated(exact_weights("int8", 2, 64, 64), "int8"), pack(exact_weights("int8", 2, 64, 32), "int8")
    none = torch.empty(0, 2, dtype=torch.int64)
    assert experts(*stack, torch.empty(0, 64), None, torch.empty(0, 2), none).shape == (0, 64)
