"""Rates, masters and averages, against plain arithmetic."""

import pytest
import torch
from torch import nn

from redraft.train.text.optimizer import Optimizer, OptimizerConfig


def test_rates_rise_and_fall_linearly() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup=4, final_share=0.2)
    assert [config.rate(step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [config.rate(100, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])


def test_updates_too_small_for_bfloat16_add_up_in_the_masters() -> None:
    config = OptimizerConfig(learning_rate=1e-4, warmup=1, final_share=1.0)
    narrow, wide = (nn.Parameter(torch.ones(4, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    for parameter in (narrow, wide):
        optimizer = Optimizer({"norm": parameter}, config)
        for step in range(100):
            parameter.grad = torch.full_like(parameter, 0.1)
            optimizer.update(step, 0.0)
    # AdamW moves by the rate each time: 100 times 1e-4, of which bfloat16 would round away every single one.
    assert wide.tolist() == pytest.approx([0.99] * 4, abs=1e-5)
    assert narrow.float().tolist() == pytest.approx([0.99] * 4, abs=4e-3)


def test_gradients_are_clipped_to_the_norm_and_cleared() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = Optimizer({"norm": parameter}, OptimizerConfig(clip_norm=1.0))
    parameter.grad = torch.tensor([3.0, 0.0, 4.0])
    assert optimizer.update(0, 0.0) == pytest.approx(5.0)
    assert parameter.grad is None


def test_muon_takes_matrices_and_adamw_the_rest() -> None:
    """Muon's update of a matrix is orthogonal: all its singular values are alike."""
    torch.manual_seed(0)
    matrix, norm = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(4))
    optimizer = Optimizer({"layer.weight": matrix, "norm": norm}, OptimizerConfig(name="muon", learning_rate=0.1))
    matrix.grad, norm.grad = torch.randn(6, 4), torch.randn(4)
    optimizer.update(100, 0.0)
    values = torch.linalg.svdvals(matrix.detach())
    # Newton-Schulz in five steps brings them near each other, not to one number.
    assert values.max() / values.min() < 2
    assert norm.detach().abs().tolist() == pytest.approx([0.1] * 4, rel=1e-3)


def test_the_average_forgets_its_start() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Optimizer({"norm": parameter}, OptimizerConfig(learning_rate=0.1, warmup=1, ema_decay=0.999))
    expected = 0.0
    for step in range(20):
        parameter.grad = torch.ones(1)
        optimizer.update(step, 0.0)
        weight = 1 - min(0.999, (1 + step) / (10 + step))
        expected += weight * (float(parameter.detach()) - expected)
    assert optimizer.values["norm"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fault", [{"name": "sgd"}, {"learning_rate": 0.0}, {"ema_decay": 1.0}])
def test_settings_out_of_range_are_refused(fault: dict) -> None:
    with pytest.raises(ValueError, match=r"optimizer 'sgd'|learning_rate|ema_decay"):
        OptimizerConfig(**fault)
