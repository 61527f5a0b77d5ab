"""The grouped kernel of a mixture against a loop over tokens and choices in float64."""

import math

import pytest
import torch
from torch import Tensor

from redraft.kernels.experts import experts
from redraft.kernels.norm import Norm
from redraft.kernels.packed import FORMATS, Format, PackedMatrix, pack, pack_gated
from tests.kernels.quantised import assert_within, gated, normed, operand, random

# Tokens, experts, choices, hidden, width of an expert.
SHAPES = [(1, 1, 1, 1, 1), (1, 4, 2, 40, 24), (7, 16, 1, 33, 5), (40, 3, 3, 70, 130), (33, 5, 2, 129, 31)]
# Of the largest result. Beyond float32, what an expert has inside is rounded, now and then the other way.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3, "int8": 1e-2, "int4": 1e-2}


def mixture(count: int, hidden: int, width: int, format: Format) -> tuple[PackedMatrix, PackedMatrix]:
    gate_up = random(count, 2 * width, hidden) / hidden**0.5
    return pack_gated(gate_up, format), pack(random(count, hidden, width) / width**0.5, format)


def routed(tokens: int, count: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Weights, also negative ones, and distinct experts of each token in no order."""
    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.stack([torch.randperm(count, generator=generator)[:top_k] for _ in range(tokens)])
    return torch.randn(tokens, top_k, generator=generator), chosen


def norm_of(hidden: int) -> Norm:
    return Norm(random(hidden, seed=9) + 1.5, 1e-6)


def bias_of(packed: PackedMatrix, expert: int) -> Tensor | float:
    return 0.0 if packed.plain_bias is None else packed.plain_bias[expert].double()


def looped(gate_up: PackedMatrix, down: PackedMatrix, x: Tensor, norm: Norm | None, weights, chosen) -> Tensor:
    rows = operand(normed(x, norm), gate_up.format)
    out = torch.zeros(len(x), down.outputs, dtype=torch.float64)
    first, second = gate_up.unpacked().double(), down.unpacked().double()
    for token in range(len(x)):
        for weight, expert in zip(weights[token].tolist(), chosen[token].tolist(), strict=True):
            product = rows[token] @ first[expert].T + bias_of(gate_up, expert)
            inner = operand(gated(product, gate_up.activation), down.format)
            out[token] += weight * (second[expert] @ inner + bias_of(down, expert))
    return out


def check(
    format: Format, x: Tensor, norm: Norm | None, weights: Tensor, chosen: Tensor, count: int, width: int
) -> None:
    gate_up, down = mixture(count, x.shape[1], width, format)
    expected = looped(gate_up, down, x, norm, weights, chosen)
    result = experts(gate_up, down, x, norm, weights, chosen)
    assert result.dtype == torch.float32
    assert_within(result, expected, TOLERANCE[format] * expected.abs().amax().item() + 1e-7)


@pytest.mark.parametrize("norm", [False, True], ids=["no norm", "norm"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_is_the_weighted_sum_of_each_tokens_experts(format: Format, shape, norm: bool):
    tokens, count, top_k, hidden, width = shape
    weights, chosen = routed(tokens, count, top_k)
    check(format, random(tokens, hidden), norm_of(hidden) if norm else None, weights, chosen, count, width)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_experts_may_have_biases_and_another_activation(format: Format):
    weight, weights, chosen = random(5, 48, 40) / 40**0.5, *routed(33, 5, 2)
    gate_up = pack_gated(weight, format, "silu", random(5, 48, seed=3))
    down, x = pack(random(5, 40, 24) / 24**0.5, format, random(5, 40, seed=4)), random(33, 40)
    expected = looped(gate_up, down, x, None, weights, chosen)
    result = experts(gate_up, down, x, None, weights, chosen)
    assert_within(result, expected, TOLERANCE[format] * expected.abs().max().item())


@pytest.mark.parametrize("tokens", [1, 16, 17, 70])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_all_tokens_may_choose_one_expert_and_none_the_others(format: Format, tokens: int):
    for expert in (0, 2, 4):
        chosen = torch.full((tokens, 1), expert)
        check(format, random(tokens, 40), None, random(tokens, 1), chosen, 5, 24)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_no_tokens_give_no_rows(format: Format):
    gate_up, down = mixture(3, 20, 8, format)
    nothing = torch.empty(0, 2)
    assert experts(gate_up, down, torch.empty(0, 20), None, nothing, nothing.long()).shape == (0, 20)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_the_order_of_choices_is_a_matter_of_rounding_only(format: Format):
    gate_up, down = mixture(6, 40, 24, format)
    x, (weights, chosen) = random(20, 40), routed(20, 6, 4)
    result = experts(gate_up, down, x, None, weights, chosen)
    turned = experts(gate_up, down, x, None, weights.flip(1), chosen.flip(1))
    torch.testing.assert_close(turned, result, rtol=0, atol=1e-6 * result.abs().max().item())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_tokens_result_is_the_same_bits_whatever_other_tokens_there_are(format: Format):
    gate_up, down = mixture(6, 70, 40, format)
    x, norm, (weights, chosen) = random(60, 70), norm_of(70), routed(60, 6, 3)
    whole = experts(gate_up, down, x, norm, weights, chosen)
    for first, last in ((0, 1), (5, 6), (59, 60), (3, 20), (10, 43)):
        own = slice(first, last)
        assert torch.equal(experts(gate_up, down, x[own], norm, weights[own], chosen[own]), whole[own])
    backwards = torch.arange(59, -1, -1)
    again = experts(gate_up, down, x[backwards], norm, weights[backwards], chosen[backwards])
    assert torch.equal(again, whole[backwards])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_token_that_is_not_finite_says_so_and_touches_no_other(format: Format):
    gate_up, down = mixture(4, 40, 24, format)
    x, (weights, chosen) = random(30, 40), routed(30, 4, 2)
    expected = experts(gate_up, down, x, None, weights, chosen)
    x[4, 39] = math.nan
    result = experts(gate_up, down, x, None, weights, chosen)
    others = torch.arange(30) != 4
    assert not result[4].isfinite().any()
    assert torch.equal(result[others], expected[others])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_rows_weights_and_choices_need_not_be_contiguous(format: Format):
    gate_up, down = mixture(6, 40, 24, format)
    wide, (weights, chosen) = random(20, 90), routed(20, 6, 4)
    x = wide[:, 20:60]
    half = experts(gate_up, down, x, None, weights[:, ::2], chosen[:, ::2])
    whole = (part[:, ::2].contiguous() for part in (weights, chosen))
    assert torch.equal(half, experts(gate_up, down, x.contiguous(), None, *whole))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_the_same_bits_run_to_run_and_on_any_number_of_threads(format: Format, with_threads):
    gate_up, down = mixture(8, 256, 160, format)
    x, norm, (weights, chosen) = random(100, 256), norm_of(256), routed(100, 8, 3)
    with_threads(1)
    expected = experts(gate_up, down, x, norm, weights, chosen)
    for threads in (1, 2, 3, 5):
        with_threads(threads)
        for _ in range(3):
            assert torch.equal(experts(gate_up, down, x, norm, weights, chosen), expected)


@pytest.mark.parametrize("expert", [-1, 4])
@pytest.mark.usefixtures("tier_or_reference")
def test_an_expert_that_is_not_there_is_refused(expert: int):
    gate_up, down = mixture(4, 20, 8, "float32")
    chosen = torch.tensor([[0, 1], [expert, 2]])
    with pytest.raises(ValueError, match=f"expert {expert} is none of 4"):
        experts(gate_up, down, random(2, 20), None, random(2, 2), chosen)


@pytest.mark.usefixtures("tier_or_reference")
def test_shapes_that_do_not_fit_are_refused():
    gate_up, down = mixture(4, 20, 8, "float32")
    weights, chosen = routed(3, 4, 2)
    with pytest.raises(ValueError, match="rows of 19 numbers for a matrix of 20 inputs"):
        experts(gate_up, down, random(3, 19), None, weights, chosen)
    with pytest.raises(ValueError, match=r"weights \[3, 1\] and choices \[3, 2\] for 3 rows"):
        experts(gate_up, down, random(3, 20), None, weights[:, :1], chosen)
    with pytest.raises(ValueError, match=r"weights \[3, 2\] and choices \[3, 2\] for 4 rows"):
        experts(gate_up, down, random(4, 20), None, weights, chosen)
