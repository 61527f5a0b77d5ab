"""Whole numbers that others rounded are moved over as they are, and products with them are those of their values."""

import pytest
import torch
from torch import Tensor

from redraft.kernels.int4 import GROUP
from redraft.kernels.linear import linear
from redraft.kernels.packed import Format, MatrixShape, PackedMatrix, assemble, pieces
from redraft.kernels.whole_numbers import WholeNumbers, as_int4, as_int8
from tests.kernels.quantised import assert_within, operand, random

OUTPUTS, INPUTS = 40, 96


def whole(low: int, high: int, dtype: torch.dtype, outputs: int = OUTPUTS, inputs: int = INPUTS) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(low, high + 1, (outputs, inputs), generator=generator)
    # Both ends are there, whatever is drawn.
    found[:, 0], found[:, 1] = low, high
    return found.to(dtype)


def scales(groups: int, dtype: torch.dtype = torch.bfloat16, outputs: int = OUTPUTS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(outputs, groups, generator=generator) * 0.01 + 1e-4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_symmetric_bytes_with_a_scale_a_row_are_int8(dtype: torch.dtype):
    numbers = WholeNumbers(whole(-128, 127, torch.int8), scales(1, dtype), None, 8)
    found = as_int8(numbers)
    assert found is not None
    assert torch.equal(found.whole.int() - 128, numbers.whole.int())
    assert torch.equal((found.whole.float() - 128) * found.scales[:, None], numbers.values())


@pytest.mark.parametrize("group", [32, 64, 96])
@pytest.mark.parametrize("kind", ["symmetric", "with minimums"])
def test_groups_of_whole_ones_of_int4_are_int4(group: int, kind: str):
    """With numbers of three bits as with four; a row that shares one scale is a group."""
    for bits in (3, 4):
        ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind == "symmetric" else (0, (1 << bits) - 1)
        own = scales(INPUTS // group)
        lowest = None if kind == "symmetric" else -3 * own
        numbers = WholeNumbers(whole(*ends, torch.int8 if lowest is None else torch.uint8), own, lowest, bits)
        found = as_int4(numbers)
        assert found is not None
        assert found.scales.shape == found.minimums.shape == (OUTPUTS, INPUTS // GROUP)
        wide = [each.float().repeat_interleave(GROUP, 1) for each in (found.scales, found.minimums)]
        assert torch.equal(found.whole * wide[0] + wide[1], numbers.values())


def test_a_row_that_is_no_whole_group_is_padded():
    numbers = WholeNumbers(whole(-8, 7, torch.int8, inputs=40), scales(1), None, 4)
    found = as_int4(numbers)
    assert found is not None
    assert found.whole.shape == (OUTPUTS, 64)
    assert torch.equal((found.whole[:, :40].float() - 8) * numbers.scales.float(), numbers.values())


@pytest.mark.parametrize(
    ("numbers", "int8", "int4"),
    [
        (WholeNumbers(whole(-8, 7, torch.int8), scales(1), None, 4), True, True),
        (WholeNumbers(whole(-128, 127, torch.int8), scales(3), None, 8), False, False),
        (WholeNumbers(whole(0, 255, torch.uint8), scales(1), -scales(1), 8), False, False),
        (WholeNumbers(whole(-8, 7, torch.int8), scales(6), None, 4), False, False),
        (WholeNumbers(whole(0, 15, torch.uint8), scales(3), -scales(3), 4), False, True),
        # Float16 ends at 65504, and eight such scales are beyond it.
        (WholeNumbers(whole(-8, 7, torch.int8), scales(3, torch.float32) + 9000, None, 4), False, False),
    ],
    ids=["both", "groups of bytes", "minimums of bytes", "groups of 16", "minimums", "too large"],
)
def test_what_a_format_has_no_place_for_is_not_moved(numbers: WholeNumbers, int8: bool, int4: bool):
    assert (as_int8(numbers) is not None, as_int4(numbers) is not None) == (int8, int4)


def test_values_are_those_of_each_group_by_hand():
    numbers = WholeNumbers(
        torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8), torch.tensor([[0.5, 2.0]]), torch.tensor([[-1.0, 10.0]]), 4
    )
    assert numbers.values().tolist() == [[-1.0, -0.5, 14.0, 16.0]]
    stack = WholeNumbers(numbers.whole[None], numbers.scales[None], None, 4)
    assert stack[0].values().tolist() == [[0.0, 0.5, 4.0, 6.0]]
    assert stack.values().shape == stack.shape == (1, 1, 4)


def packed_of(numbers: WholeNumbers, format: Format) -> PackedMatrix:
    shape = MatrixShape(format, *numbers.shape)
    return assemble(shape, pieces(lambda _, rows: [(torch.arange(len(rows)), numbers[rows])], shape))


@pytest.mark.parametrize("count", [1, 7])
def test_products_with_int8_have_the_bits_of_sums_of_whole_numbers(count: int, tier: str):
    """Both ends of a byte among the weights: -128, which no weights of our own have, is no opposite of anything."""
    numbers = WholeNumbers(whole(-128, 127, torch.int8), scales(1), None, 8)
    x = random(count, INPUTS)
    largest = x.abs().amax(-1, keepdim=True)
    rows = (x * (127 / largest)).round()
    sums = (rows.double() @ numbers.whole.double().T).float()
    expected = sums * numbers.scales.float().T * (largest / 127)
    assert torch.equal(linear(packed_of(numbers, "int8"), x), expected)


@pytest.mark.usefixtures("tier_or_reference")
@pytest.mark.parametrize("kind", ["int8", "int4", "int4 with minimums"])
def test_products_are_those_of_the_dequantised_weights(kind: str):
    """In float64, of the rows that the format takes."""
    own = scales(1 if kind == "int8" else 3)
    numbers = {
        "int8": WholeNumbers(whole(-128, 127, torch.int8), own, None, 8),
        "int4": WholeNumbers(whole(-8, 7, torch.int8), own, None, 4),
        "int4 with minimums": WholeNumbers(whole(0, 15, torch.uint8), own, -5 * own, 4),
    }[kind]
    format: Format = "int8" if kind == "int8" else "int4"
    x, weight = random(9, INPUTS), numbers.values().double()
    taken = operand(x, format)
    rounding = 1e-5 * (taken.abs() @ weight.abs().T)
    assert_within(linear(packed_of(numbers, format), x), taken @ weight.T, rounding)
