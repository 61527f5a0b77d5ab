"""Products with packed weights against float64 of the same quantised operands."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft.kernels.linear import linear
from redraft.kernels.norm import Norm
from redraft.kernels.packed import ACTIVATIONS, FORMATS, Activation, Format, PackedMatrix, pack, pack_gated
from tests.kernels.quantised import assert_within, gated, normed, one_step, operand, random
from tests.thorough import some

# Rows, outputs, inputs.
SHAPES = [(1, 1, 1), (1, 40, 7), (3, 1, 130), (5, 33, 1), (16, 64, 128), (33, 31, 257), (70, 129, 100), (31, 96, 300)]
NORMS = {"no norm": False, "plain norm": None, "weighted norm": True}


def norm_of(kind: str, inputs: int) -> Norm | None:
    if kind == "no norm":
        return None
    return Norm(random(inputs, seed=9) + 1.5 if kind == "weighted norm" else None, 1e-6)


def check(packed: PackedMatrix, x: Tensor, norm: Norm | None, result: Tensor) -> None:
    """``result`` is the float64 product of what the format makes of weights and rows, but for float32's additions."""
    rows, weight = normed(x, norm), packed.unpacked()[0].double()
    taken = operand(rows, packed.format)
    bias = torch.zeros(1) if packed.plain_bias is None else packed.plain_bias[0]
    product = taken @ weight.T + bias.double()
    # A normed row differs from float64's in its last bits, by which one of its numbers may round the other way.
    flip = one_step(rows, packed.format) * weight.abs().amax() if norm is not None and rows.numel() else 0.0
    rounding = 1e-5 * (taken.abs() @ weight.abs().T) + 1e-7 * bias.abs() + flip + 1e-30
    if packed.gated:
        gate, up = product.chunk(2, dim=-1)
        gate_error, up_error = rounding.chunk(2, dim=-1)
        # No slope of GELU or of SiLU is above 1.13.
        rounding = 1.13 * gate_error * up.abs() + (gate.abs() + 2 * gate_error) * up_error + 1e-30
        product = gated(product, packed.activation)
    assert result.dtype == torch.float32
    assert_within(result, product, rounding)


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_is_the_product_of_the_quantised_operands(format: Format, norm: str, gate: bool):
    for count, outputs, inputs in SHAPES:
        weight = random(2 * outputs if gate else outputs, inputs)
        packed = (pack_gated if gate else pack)(weight, format)
        x, applied = random(count, inputs, seed=1), norm_of(norm, inputs)
        check(packed, x, applied, linear(packed, x, applied))


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_a_bias_is_added_before_the_gate(format: Format, activation: Activation | None):
    for count, outputs, inputs in SHAPES:
        rows = outputs if activation is None else 2 * outputs
        weight, bias = random(rows, inputs), random(rows, seed=4)
        packed = pack(weight, format, bias) if activation is None else pack_gated(weight, format, activation, bias)
        assert packed.plain_bias is not None
        assert torch.equal(packed.plain_bias[0], bias)
        x = random(count, inputs, seed=1)
        whole = linear(packed, x)
        check(packed, x, None, whole)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_row_with_a_bias_is_the_same_bits_whatever_else_is_computed(format: Format, activation: Activation | None):
    weight, bias, x = random(140, 200), random(140, seed=4), random(150, 200)
    packed = pack(weight, format, bias) if activation is None else pack_gated(weight, format, activation, bias)
    whole = linear(packed, x)
    for first, last in ((0, 1), (149, 150), (3, 20)):
        assert torch.equal(linear(packed, x[first:last]), whole[first:last])


def test_a_bias_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a bias \[3\] for a weight \[4, 9\]"):
        pack(random(4, 9), "float32", random(3))
    with pytest.raises(ValueError, match=r"a bias \[2\] for a weight \[4, 9\]"):
        pack_gated(random(4, 9), "float32", bias=random(2))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
@settings(max_examples=some(20, 10), deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 70), st.integers(1, 100), st.integers(1, 300)),
    norm=st.sampled_from(list(NORMS)),
    gate=st.booleans(),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_is_the_product_for_any_shape(format: Format, shape: tuple[int, int, int], norm: str, gate: bool, size: float):
    count, outputs, inputs = shape
    packed = (pack_gated if gate else pack)(random(2 * outputs if gate else outputs, inputs) / inputs**0.5, format)
    x, applied = random(count, inputs, seed=1, scale=size), norm_of(norm, inputs)
    check(packed, x, applied, linear(packed, x, applied))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_no_rows_give_no_rows(format: Format):
    assert linear(pack(random(40, 9), format), torch.empty(0, 9)).shape == (0, 40)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_rows_may_be_columns_of_a_wider_tensor_and_of_any_dtype(format: Format):
    packed, wide = pack(random(40, 50), format), random(9, 200)
    for part in (wide[:, 30:80], wide[::2, 30:80], wide.T[30:39, :9].T.repeat(1, 6)[:, :50], wide[:, 0:100:2]):
        assert torch.equal(linear(packed, part), linear(packed, part.contiguous()))
    half = wide[:, :50].bfloat16()
    assert torch.equal(linear(packed, half), linear(packed, half.float()))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_rows_of_zeros_give_zeros_and_nearly_zeros_stay_finite(format: Format):
    packed, x = pack(random(40, 50), format), random(4, 50)
    x[1], x[2] = 0.0, x[2] * 1e-39
    result = linear(packed, x)
    assert torch.equal(result[1], torch.zeros(40))
    assert (result[2].abs() < 1e-36).all()


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("norm", ["no norm", "weighted norm"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_row_that_is_not_finite_says_so_and_touches_no_other(format: Format, norm: str, gate: bool):
    packed, applied = (pack_gated if gate else pack)(random(80, 150), format), norm_of(norm, 150)
    x = random(19, 150)
    expected = linear(packed, x, applied)
    for row, column, value in ((0, 149, math.nan), (7, 3, math.inf), (18, 128, -math.inf)):
        x[row, column] = value
    result = linear(packed, x, applied)
    damaged = torch.zeros(19, dtype=torch.bool)
    damaged[[0, 7, 18]] = True
    assert not result[damaged].isfinite().any()
    assert torch.equal(result[~damaged], expected[~damaged])


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_row_is_the_same_bits_whatever_else_is_computed(format: Format, gate: bool):
    packed, norm = (pack_gated if gate else pack)(random(140, 200), format), norm_of("weighted norm", 200)
    x = random(150, 200)
    whole = linear(packed, x, norm)
    for first, last in ((0, 1), (7, 8), (149, 150), (3, 20), (1, 33), (0, 16), (60, 141)):
        assert torch.equal(linear(packed, x[first:last], norm), whole[first:last])
    backwards = torch.arange(149, -1, -1)
    assert torch.equal(linear(packed, x[backwards], norm), whole[backwards])


@pytest.mark.parametrize("shape", [(150, 256, 256), (40, 2100, 128)], ids=["cut by rows", "many blocks"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_the_same_bits_run_to_run_and_on_any_number_of_threads(format: Format, shape, with_threads):
    count, outputs, inputs = shape
    packed, x, norm = pack(random(outputs, inputs), format), random(count, inputs), norm_of("weighted norm", inputs)
    with_threads(1)
    expected = linear(packed, x, norm)
    check(packed, x, norm, expected)
    for threads in (1, 2, 3, 5):
        with_threads(threads)
        for _ in range(3):
            assert torch.equal(linear(packed, x, norm), expected)


@pytest.mark.usefixtures("tier_or_reference")
def test_rows_of_another_width_than_the_weights_are_refused():
    with pytest.raises(ValueError, match="rows of 8 numbers for a matrix of 9 inputs"):
        linear(pack(random(4, 9), "float32"), random(3, 8))
