"""The training loop: updates, an averaged model, measurements, and checkpoints from which it resumes unchanged."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from redraft.errors import RedraftError
from redraft.files import replacing
from redraft.train.metrics import Metrics
from redraft.train.optimizer import Optimizer, OptimizerConfig

STATE_FILE = "state.pt"


@dataclass(frozen=True)
class TrainerConfig:
    """``steps`` optimizer updates in all; every so many of them a log line, an evaluation and a saved state."""

    steps: int
    seed: int = 0
    ema_decay: float = 0.999
    log_every: int = 10
    evaluate_every: int = 500
    save_every: int = 100
    bfloat16: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")


M = TypeVar("M", bound=nn.Module)


class Objective(Protocol):
    """An objective to minimise. ``start`` makes the state that goes from update to update, ``loss`` advances it."""

    def start(self, rng: np.random.Generator) -> Any: ...
    def loss(self, trajectories: Any, rng: np.random.Generator) -> tuple[Tensor, float]: ...


class Trainer(Generic[M]):
    """Trains ``model`` in ``folder``. A run found there is continued; the result is that of an uninterrupted run.

    ``evaluate`` is given the averaged model and returns what to log; names that start with "solve rate" are drawn.
    ``on_progress`` is given (step, values) after every ``log_every`` updates.
    """

    def __init__(
        self,
        model: M,
        objective: Objective,
        optimizer: OptimizerConfig,
        config: TrainerConfig,
        folder: Path,
        evaluate: Callable[[M], Mapping[str, float]] | None = None,
        on_progress: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self._model, self._objective, self._config, self._folder = model, objective, config, folder
        self._optimizer = Optimizer(model, optimizer)
        self._average = AveragedModel(model, multi_avg_fn=_moving_average(config.ema_decay))
        self._evaluate, self._on_progress = evaluate, on_progress
        self._rng = np.random.default_rng(config.seed)
        self._step = 0
        self._seconds = self._cpu_seconds = 0.0

    @property
    def average(self) -> M:
        """The exponential moving average of the trained model, which is what a run yields."""
        return cast(M, self._average.module)

    def run(self) -> M:
        """Train to the last step, or onwards from the saved state in the folder; returns the averaged model."""
        self._folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self._config.seed)
        trajectories = self._objective.start(self._rng)
        if (self._folder / STATE_FILE).exists():
            self._resume(trajectories)
        metrics = Metrics(self._folder, self._step)
        while self._step < self._config.steps:
            self._update(trajectories, metrics)
            if self._due(self._config.evaluate_every):
                if self._evaluate is not None:
                    metrics.add(self._step, self._evaluate(self.average))
                metrics.draw(self._folder / "curves.png")
            if self._due(self._config.save_every):
                self._save(trajectories)
        return self.average

    def _update(self, trajectories: Any, metrics: Metrics) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._config.bfloat16):
            loss, solved = self._objective.loss(trajectories, self._rng)
        loss.backward()
        norm = self._optimizer.update(self._step, self._config.steps)
        self._average.update_parameters(self._model)
        self._step += 1
        self._seconds += time.perf_counter() - wall
        self._cpu_seconds += time.process_time() - cpu
        if not torch.isfinite(loss):
            raise RedraftError(
                f"the loss became {loss.item()} at step {self._step} (gradient norm {norm:.3g}); the state of the last "
                f"save is kept in {self._folder / STATE_FILE}. Lower learning rates usually help."
            )
        if self._due(self._config.log_every):
            values = {
                "loss": loss.item(),
                "solved in training": solved,
                "gradient norm": norm,
                "seconds": self._seconds,
                "cpu seconds": self._cpu_seconds,
            }
            metrics.add(self._step, values)
            if self._on_progress is not None:
                self._on_progress(self._step, values)

    def _due(self, every: int) -> bool:
        return self._step % every == 0 or self._step == self._config.steps

    def _save(self, trajectories: Any) -> None:
        state = {
            "step": self._step,
            "seed": self._config.seed,
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state(),
            "trajectories": trajectories.state(),
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": self._rng.bit_generator.state,
            "seconds": self._seconds,
            "cpu_seconds": self._cpu_seconds,
        }
        with replacing(self._folder / STATE_FILE) as new:
            torch.save(state, new)

    def _resume(self, trajectories: Any) -> None:
        state = torch.load(self._folder / STATE_FILE, weights_only=False)
        if state["seed"] != self._config.seed:
            raise RedraftError(
                f"{self._folder} holds a run with seed {state['seed']}, not {self._config.seed}; "
                "continue it with its own seed, or choose another folder"
            )
        self._model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load(state["optimizer"])
        trajectories.load(state["trajectories"])
        torch.set_rng_state(state["torch_rng"])
        self._rng.bit_generator.state = state["numpy_rng"]
        self._step, self._seconds, self._cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average that forgets its untrained start: over the first updates its memory is a tenth of
    the run so far."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        seen = int(count)
        weight = 1 - min(decay, (1 + seen) / (10 + seen))
        for mean, new in zip(averaged, current, strict=True):
            mean.lerp_(new, weight)

    return update
