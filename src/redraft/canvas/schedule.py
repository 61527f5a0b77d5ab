"""Schedules by which the sampling temperature falls over a canvas's denoising steps."""

import math
from dataclasses import dataclass
from typing import Protocol


class TemperatureSchedule(Protocol):
    """Gives the temperature of each step, numbered from 1 to ``steps``."""

    def temperature(self, step: int, steps: int) -> float: ...


@dataclass(frozen=True)
class LinearTemperature:
    """Falls from ``t_max`` at the first step towards ``t_min``, which a step after the last would have."""

    t_max: float = 0.8
    t_min: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.t_min <= self.t_max < math.inf:
            raise ValueError(f"t_min {self.t_min} and t_max {self.t_max} must be finite and satisfy 0 < t_min <= t_max")

    def temperature(self, step: int, steps: int) -> float:
        if not 1 <= step <= steps:
            raise ValueError(f"step {step} is outside 1 .. {steps}")
        return self.t_min + (self.t_max - self.t_min) * (steps - step + 1) / steps
