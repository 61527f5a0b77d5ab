"""The learning-rate schedule in closed form, and which optimizer moves what."""

import pytest
import torch

from redraft.layers.experts import Experts
from redraft.train.optimizer import Optimizer, OptimizerConfig, flatten_experts
from redraft.train.recipes.sudoku.model import SudokuShape, build

SHAPE = SudokuShape(hidden_size=48, layers=2, heads=3, head_dim=32, dense_width=16, expert_width=8)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0), (60, 0.8), (80, 0.4), (99, 0.02), (100, 0.02)]
)
def test_learning_rates_rise_hold_and_fall_linearly(step: int, share: float) -> None:
    config = OptimizerConfig(warmup=10, decay_from=0.5, final_share=0.02)
    assert config.share(step, 100) == pytest.approx(share)


def test_flattened_experts_compute_the_same() -> None:
    torch.manual_seed(0)
    experts = Experts(12, 5, 3)
    x, weights, chosen = torch.randn(7, 12), torch.rand(7, 2), torch.randint(0, 3, (7, 2))
    before = experts(x, weights, chosen)
    flatten_experts(torch.nn.Sequential(experts))
    assert torch.equal(experts(x, weights, chosen), before)
    assert [p.ndim for p in experts.parameters()] == [2, 2]


def test_every_parameter_is_moved_once_and_gradients_are_cleared() -> None:
    model = build(SHAPE, 0)
    flatten_experts(model)
    optimizer = Optimizer(model, OptimizerConfig(warmup=1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.update(0, 10)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    owned = [id(p) for part in optimizer._parts for group in part.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
