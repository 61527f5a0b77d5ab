"""What an error counts in each input: the mean squares of what went into a model's matrices, and what they are for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.calibrate.moments import _counting, input_moments
from redraft.kernels.int4 import GROUP, round_to_int4
from redraft.layers.experts import Experts
from redraft.layers.linear import Linear
from redraft.models import checkpoint
from tests.kernels.quantised import random


def test_inputs_are_counted_by_their_mean_squares():
    model = nn.Sequential(Linear(6, 4), Linear(4, 3))
    first, second = torch.randn(5, 6), torch.randn(2, 7, 6)
    with _counting(model) as counted, torch.no_grad():
        model(first)
        model(second)
    model(torch.randn(1, 6))
    rows = torch.cat((first, second.flatten(0, 1)))
    sums, count = counted["0.weight"]
    assert count == 19
    torch.testing.assert_close(sums / count, rows.square().mean(0))
    torch.testing.assert_close(counted["1.weight"][0] / 19, model[0](rows).square().mean(0).detach())


@torch.no_grad()
def test_an_expert_counts_the_rows_that_chose_it_by_their_share():
    experts = nn.ModuleDict({"e": Experts(8, 5, 3)})
    x, weights = torch.randn(6, 8), torch.rand(6, 2)
    chosen = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]])
    with _counting(experts) as counted:
        experts["e"](x, weights, chosen)
    outer, inner = torch.zeros(3, 8), torch.zeros(3, 5)
    own: Any = experts["e"]
    for row in range(6):
        for place in range(2):
            expert = int(chosen[row, place])
            gate, up = (own.gate_up_proj[expert] @ x[row]).chunk(2)
            outer[expert] += (weights[row, place] * x[row]).square()
            inner[expert] += (weights[row, place] * F.gelu(gate, approximate="tanh") * up).square()
    torch.testing.assert_close(counted["e.gate_up_proj"][0], outer)
    torch.testing.assert_close(counted["e.down_proj"][0], inner)
    assert not outer[2].any()


def weighed(weight: Tensor, importance: Tensor, by: Tensor | None) -> float:
    rounded = round_to_int4(weight, by)
    scales, minimums = (each.float().repeat_interleave(GROUP, 1) for each in (rounded.scales, rounded.minimums))
    return float(((rounded.whole * scales + minimums - weight).square() * importance).sum())


def test_rounding_by_importance_leaves_less_of_the_error_that_counts():
    weight, importance = random(64, 256), random(1, 256)[0].exp().square()
    assert weighed(weight, importance, importance) < 0.9 * weighed(weight, importance, None)


def test_importance_moves_nothing_that_was_rounded_before():
    groups = random(32, 64).unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / 7.5).half().float()
    weight = ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)
    importance = torch.rand(64, generator=torch.Generator().manual_seed(0))
    assert weighed(weight, torch.ones(64), importance) == 0


@pytest.mark.slow
def test_a_model_counts_its_own_answers():
    found = checkpoint.read(checkpoint.find("sudoku"))
    puzzle = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    moments = input_moments(found, [puzzle], max_tokens=90)
    packed = {name for recipe in found.recipes("int4") if recipe.format == "int4" for name in recipe.weights}
    assert packed <= moments.keys()
    shapes = {name: found.shape(name) for name in packed}
    assert all(moments[name].shape[-1] == shape[-1] for name, shape in shapes.items())
    assert all(value.isfinite().all() and value.max() > 0 for value in moments.values())
