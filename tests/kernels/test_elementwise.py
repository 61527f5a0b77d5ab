"""What stands between the products, spelled out in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.kernels.elementwise import add_normed, split_heads
from redraft.kernels.norm import Norm
from tests.kernels.quantised import assert_within, normed, random

EPSILON = 1e-6
PLAIN = Norm(None, EPSILON)
# Rows, heads, head size.
HEADS = [(1, 1, 2), (3, 2, 6), (17, 4, 8), (33, 3, 24), (5, 2, 130), (16, 1, 256), (2, 1, 512)]


def angles(count: int, head_dim: int) -> tuple[Tensor, Tensor]:
    angle = random(count, head_dim // 2, seed=3, scale=3.0)
    return angle.cos(), angle.sin()


def split(projected: Tensor, head_dim: int, norm: Norm | None, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """A pair of numbers is a complex number, and a rotation its product with another."""
    heads = normed(projected.unflatten(-1, (-1, head_dim)).transpose(0, 1), norm)
    if rope is not None:
        first, second = heads.chunk(2, dim=-1)
        turned = torch.complex(first, second) * torch.complex(rope[0].double(), rope[1].double())
        heads = torch.cat((turned.real, turned.imag), dim=-1)
    return heads[None]


@pytest.mark.parametrize("scale", [1.0, 0.3], ids=["as it is", "scaled"])
@pytest.mark.parametrize("turned", [False, True], ids=["in place", "turned"])
@pytest.mark.parametrize("norm", ["none", "plain", "weighted"])
@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.usefixtures("tier_or_reference")
def test_heads_are_normed_turned_scaled_and_laid_one_after_the_other(shape, norm: str, turned: bool, scale: float):
    count, heads, head_dim = shape
    projected = random(count, heads * head_dim)
    weight = random(head_dim, seed=2) + 1 if norm == "weighted" else None
    applied = None if norm == "none" else Norm(weight, EPSILON)
    rope = angles(count, head_dim) if turned else None
    result = split_heads(projected, head_dim, applied, rope, torch.float32, scale=scale)
    assert result.dtype == torch.float32
    assert_within(result, scale * split(projected, head_dim, applied, rope), 5e-6)


@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.usefixtures("tier_or_reference")
def test_bfloat16_heads_are_the_float32_ones_rounded(shape):
    count, heads, head_dim = shape
    projected, weight, rope = random(count, heads * head_dim), random(head_dim), angles(count, head_dim)
    exact, rounded = (
        split_heads(projected, head_dim, Norm(weight, EPSILON), rope, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded, exact.bfloat16())


@pytest.mark.usefixtures("tier_or_reference")
def test_heads_may_be_columns_of_a_wider_product():
    wide, rope = random(9, 100), angles(9, 8)
    part = wide[:, 24:56]
    assert torch.equal(
        split_heads(part, 8, PLAIN, rope, torch.float32),
        split_heads(part.contiguous(), 8, PLAIN, rope, torch.float32),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("tier_or_reference")
def test_nan_stays_in_its_head_and_zeros_stay_zeros(dtype: torch.dtype):
    projected, rope = random(5, 32), angles(5, 8)
    projected[2, 8:16] = 0
    expected = split_heads(projected, 8, PLAIN, rope, dtype)
    projected[3, 17] = math.nan
    result = split_heads(projected, 8, PLAIN, rope, dtype)
    assert result[0, 2, 3].isnan().all()
    assert torch.equal(result[0, 1, 2], torch.zeros(8, dtype=dtype))
    result[0, 2, 3] = expected[0, 2, 3]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("tier")
def test_heads_are_the_same_bits_on_any_number_of_threads_and_alone(dtype: torch.dtype, with_threads):
    projected, weight, rope = random(80, 512), random(64), angles(80, 64)
    with_threads(1)
    expected = split_heads(projected, 64, Norm(weight, EPSILON), rope, dtype)
    for threads in (2, 3, 5):
        with_threads(threads)
        assert torch.equal(split_heads(projected, 64, Norm(weight, EPSILON), rope, dtype), expected)
    cosines, sines = rope
    alone = split_heads(projected[7:8], 64, Norm(weight, EPSILON), (cosines[7:8], sines[7:8]), dtype)
    assert torch.equal(alone, expected[:, :, 7:8])


def branches(count: int, width: int) -> dict[str, Any]:
    names = ("residual", "branch", "norm", "other", "branch_norm", "other_norm")
    return {
        name: Norm(random(width, seed=seed) + 1, EPSILON) if "norm" in name else random(count, width, seed=seed)
        for seed, name in enumerate(names)
    }


@pytest.mark.parametrize("left_out", [(), ("norm",), ("branch_norm",), ("norm", "branch_norm", "other_norm")], ids=str)
@pytest.mark.parametrize("two", [False, True], ids=["one branch", "two branches"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 31), (16, 64), (33, 130)], ids=str)
@pytest.mark.usefixtures("tier_or_reference")
def test_a_normed_branch_is_added_in_place_and_scaled(shape, two: bool, left_out: tuple[str, ...]):
    parts = branches(*shape) | dict.fromkeys(left_out)
    branch = parts["branch"].double()
    if two:
        branch = normed(branch, parts["branch_norm"]) + normed(parts["other"], parts["other_norm"])
    else:
        for name in ("other", "branch_norm", "other_norm"):
            del parts[name]
    expected = (parts["residual"].double() + normed(branch, parts["norm"])) * 0.7
    add_normed(**parts, scalar=0.7)
    assert_within(parts["residual"], expected, 1e-5)


@pytest.mark.usefixtures("tier_or_reference")
def test_some_rows_of_a_residual_may_be_added_to_and_the_others_stay():
    parts = branches(20, 31)
    before = parts["residual"].clone()
    whole = before.clone()
    add_normed(whole, parts["branch"], parts["norm"])
    add_normed(parts["residual"][4:9], parts["branch"][4:9], parts["norm"])
    assert torch.equal(parts["residual"][4:9], whole[4:9])
    assert torch.equal(parts["residual"][:4], before[:4])
    assert torch.equal(parts["residual"][9:], before[9:])


@pytest.mark.usefixtures("tier_or_reference")
def test_nan_in_a_branch_stays_in_its_row():
    parts = branches(5, 31)
    parts["branch"][3, 30] = math.nan
    add_normed(**parts)
    assert parts["residual"].isnan().any(-1).tolist() == [False, False, False, True, False]


@pytest.mark.usefixtures("tier")
def test_sums_are_the_same_bits_on_any_number_of_threads(with_threads):
    parts, results = branches(200, 500), []
    for threads in (1, 2, 3, 5):
        with_threads(threads)
        residual = parts["residual"].clone()
        add_normed(**{**parts, "residual": residual})
        results.append(residual)
    assert all(torch.equal(result, results[0]) for result in results)
