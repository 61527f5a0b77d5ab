"""The temperature schedule held against the reference's logits processor."""

import math

import pytest
import torch
from transformers.models.diffusion_gemma.generation_diffusion_gemma import LinearTemperatureScheduleLogitsProcessor

from redraft.canvas.schedule import LinearTemperature


@pytest.mark.parametrize("steps", [1, 2, 12, 48])
@pytest.mark.parametrize(("t_max", "t_min"), [(0.8, 0.4), (1.0, 1e-3), (5.0, 0.25)])
def test_every_step_divides_logits_as_the_reference_does(t_max: float, t_min: float, steps: int):
    reference = LinearTemperatureScheduleLogitsProcessor(t_min, t_max, steps)
    logits = torch.tensor([-3.0, 0.5, 30.0], dtype=torch.float64)
    schedule = LinearTemperature(t_max=t_max, t_min=t_min)
    for step in range(1, steps + 1):
        # The reference counts its steps down.
        expected = reference(None, logits, cur_step=steps - step + 1)
        torch.testing.assert_close(logits / schedule.temperature(step, steps), expected)


def test_it_falls_by_equal_amounts_from_t_max_and_never_reaches_t_min():
    schedule = LinearTemperature(t_max=1.25, t_min=0.25)
    assert [schedule.temperature(step, 4) for step in (1, 2, 3, 4)] == [1.25, 1.0, 0.75, 0.5]


def test_equal_ends_hold_the_temperature():
    assert {LinearTemperature(t_max=0.5, t_min=0.5).temperature(step, 4) for step in (1, 2, 3, 4)} == {0.5}


@pytest.mark.parametrize(("t_max", "t_min"), [(0.8, 0.0), (0.8, -0.1), (0.4, 0.8), (math.nan, 0.4), (0.8, math.nan)])
def test_temperatures_that_do_not_fall_or_are_not_positive_are_refused(t_max: float, t_min: float):
    with pytest.raises(ValueError, match=f"t_min {t_min} and t_max {t_max}"):
        LinearTemperature(t_max=t_max, t_min=t_min)


@pytest.mark.parametrize(("step", "steps"), [(0, 48), (49, 48), (-1, 48), (1, 0)])
def test_a_step_outside_the_run_is_refused(step: int, steps: int):
    with pytest.raises(ValueError, match=rf"step {step} is outside 1 \.\. {steps}"):
        LinearTemperature().temperature(step, steps)
