"""How the sampling temperature falls over a canvas's denoising steps."""

import math
from dataclasses import dataclass
from typing import Protocol


class TemperatureSchedule(Protocol):
    """The temperature of each step, steps counted down from ``steps`` to 1."""

    def temperature(self, step: int, steps: int) -> float: ...


@dataclass(frozen=True)
class LinearTemperature:
    """From ``t_max`` at the first step (step = steps) towards ``t_min``, which step 0 would have."""

    t_max: float = 0.8
    t_min: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.t_min <= self.t_max < math.inf:
            raise ValueError(f"t_min {self.t_min} and t_max {self.t_max} must be finite and satisfy 0 < t_min <= t_max")

    def temperature(self, step: int, steps: int) -> float:
        if not 1 <= step <= steps:
            raise ValueError(f"step {step} is outside 1 .. {steps}; steps are counted down to 1")
        return self.t_min + (self.t_max - self.t_min) * step / steps
