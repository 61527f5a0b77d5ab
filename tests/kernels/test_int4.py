"""Weights in four bits: rounded as near as they can be, and kept where another program has rounded them."""

from collections.abc import Callable

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.gguf.file import open_gguf
from redraft.kernels.int4 import GROUP, Int4, round_to_int4
from redraft.kernels.packed import pack
from tests.gguf_files import smollm2_path
from tests.kernels.quantised import random


def values(rounded: Int4) -> Tensor:
    """What the numbers stand for, in float64."""
    scales, minimums = (each.double().repeat_interleave(GROUP, dim=1) for each in (rounded.scales, rounded.minimums))
    return rounded.whole.double() * scales + minimums


def errors(weight: Tensor, kept: Tensor) -> Tensor:
    """The sum of squares of each group."""
    return (kept - weight).double().unflatten(1, (-1, GROUP)).square().sum(-1)


def test_no_group_is_rounded_worse_than_from_its_smallest_to_its_largest_weight():
    weight = random(64, 256)
    groups = weight.unflatten(1, (-1, GROUP))
    lowest, highest = groups.amin(-1, keepdim=True).half(), groups.amax(-1, keepdim=True)
    scale = ((highest - groups.amin(-1, keepdim=True)) / 15).half()
    plain = ((groups - lowest.float()) / scale.float()).round().clamp(0, 15).double() * scale + lowest
    error, plain_error = errors(weight, values(round_to_int4(weight))), errors(weight, plain.flatten(1))
    assert (error <= plain_error * 1.0001).all()
    assert error.sum() < 0.85 * plain_error.sum()


def test_scales_and_minimums_fit_the_numbers():
    """Over all groups, scales and minimums a little smaller or larger are worse with the same numbers."""
    weight = random(256, 64)
    rounded = round_to_int4(weight)

    def error(factor: float, shift: float) -> float:
        moved = Int4(rounded.whole, rounded.scales * factor, rounded.minimums + rounded.scales * shift)
        return float(errors(weight, values(moved)).sum())

    assert error(1, 0) == min(error(*change) for change in ((1, 0), (0.99, 0), (1.01, 0), (1, -0.05), (1, 0.05)))


def by_gguf(kind: Kind) -> Callable[[Tensor], Tensor]:
    """What llama.cpp's quantisation leaves of weights, computed by the ``gguf`` package."""

    def rounded(weight: Tensor) -> Tensor:
        return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))

    return rounded


def symmetric(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """What compressed-tensors' W4A16 in groups of 32 leaves, whose numbers are -8 to 7."""

    def rounded(weight: Tensor) -> Tensor:
        groups = weight.unflatten(1, (-1, GROUP))
        scale = (groups.abs().amax(-1, keepdim=True) / 7.5).to(dtype).float()
        return ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)

    return rounded


@pytest.mark.parametrize(
    "rounded_before",
    [by_gguf(Kind.Q4_0), by_gguf(Kind.Q4_1), symmetric(torch.bfloat16), symmetric(torch.float16)],
    ids=["Q4_0", "Q4_1", "W4A16 in bfloat16", "W4A16 in float16"],
)
def test_weights_that_were_rounded_to_groups_of_32_before_keep_their_values(rounded_before):
    for size in (1.0, 0.02):
        weight = rounded_before(random(96, 320, scale=size))
        weight[5, :64] = 0
        assert torch.equal(values(round_to_int4(weight)).float(), weight)


@pytest.mark.parametrize("numbers", [[0, 5, 12], [0, 1], [3], [0, 7, 14], [2, 9, 15], [0, 11]], ids=str)
@pytest.mark.parametrize("scale", [0.0123, -0.0123])
def test_a_group_keeps_its_values_where_few_of_the_numbers_are_used(numbers: list[int], scale: float):
    """Among groups that use all numbers, by which the format is known."""
    step, drawn = torch.tensor(scale).half().float(), random(33, GROUP)
    whole = (drawn * 4 + 8).round().clamp(0, 15)
    whole[:, 0], whole[:, 1] = 0, 15
    whole[7] = torch.tensor(numbers)[torch.arange(GROUP) % len(numbers)].float()
    # A minimum that is one of the numbers: with another, the group has no float16 that all of them are multiples from.
    weight = (whole - min(numbers)) * step
    assert torch.equal(values(round_to_int4(weight)).float(), weight)


def test_scales_that_float16_does_not_have_keep_their_numbers():
    """As those of Q4_K, which are products of a float16 and a whole number: what is lost is a hundredth of a step."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 16, (64, 8, GROUP), generator=generator).float()
    scale, minimum = (torch.rand(64, 8, 1, generator=generator) * 0.01 + 0.001 for _ in range(2))
    weight = (whole * scale - 8 * minimum).flatten(1)
    lost = (values(round_to_int4(weight)) - weight).unflatten(1, (-1, GROUP)).abs() / scale
    assert lost.max() < 0.02


def test_a_weight_too_large_for_float16_is_refused():
    weight = random(3, 64)
    weight[1, 40] = -2e6
    with pytest.raises(CheckpointError, match=r"a weight of 2e\+06 is too large for int4.*use int8"):
        round_to_int4(weight)
    weight[1, 40] = -1e5
    kept = values(round_to_int4(weight))
    assert kept.isfinite().all(), "with a scale below zero the minimum of the group is its largest weight"


def test_the_real_q4_1_file_is_packed_without_loss():
    """SmolLM2's first and last layer, rows of queries and keys in the hub's order."""
    file = open_gguf(smollm2_path())
    names = [name for name, tensor in file.stored_tensors().items() if tensor.quantised == "Q4_1"]
    chosen = [name for name in names if ".layers.0." in name or ".layers.29." in name]
    assert len(chosen) >= 10
    for name in chosen:
        weight = file.tensor(name)
        assert torch.equal(pack(weight, "int4").unpacked()[0], weight), name
        assert np.unique(weight[0, :GROUP].numpy()).size <= 16
