"""The loop: batches, updates, measurements, and a state from which a run goes on as if it had never stopped."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from redraft.errors import RedraftError
from redraft.files import replacing
from redraft.train.metrics import Metrics
from redraft.train.text.adapters import TrainedModel
from redraft.train.text.batch import Batch, Score, Targets, score
from redraft.train.text.batches import Batches, Place
from redraft.train.text.optimizer import Optimizer
from redraft.train.text.rollout import Sampler, roll_out

STATE_FILE, CURVES_FILE = "state.pt", "curves.png"
# What the names of shares that are drawn begin with.
RATES = ("accuracy at", "exact")


@dataclass(frozen=True)
class RunConfig:
    """When a run ends, by updates or by hours or by what comes first, and how often it reports and saves."""

    steps: int | None = None
    hours: float | None = None
    accumulate: int = 1
    """Batches of an update."""
    seed: int = 0
    log_every: int = 5
    evaluate_every: int = 200
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.steps is None and self.hours is None:
            raise ValueError("a run needs an end: a number of steps, or of hours")
        for name in ("steps", "accumulate", "log_every", "evaluate_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ValueError(f"hours {self.hours} must be a finite number above 0")

    def progress(self, step: int, seconds: float) -> float:
        """Return how much of the run is done, from 0 to 1."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_hours = 0.0 if self.hours is None else seconds / (3600 * self.hours)
        return min(1.0, max(by_steps, by_hours))


@dataclass
class Counts:
    """Sums over all that went through the model since the last report."""

    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    mass: float = 0.0
    canvas_nats: float = 0.0
    canvas_count: int = 0
    canvas_right: int = 0
    causal_nats: float = 0.0
    causal_count: int = 0

    def add(self, one: Score, mass: float) -> None:
        """Count a scored batch."""
        self.loss += float(one.total.detach())
        self.mass += mass
        for name in ("canvas_nats", "canvas_count", "canvas_right", "causal_nats", "causal_count"):
            setattr(self, name, getattr(self, name) + getattr(one, name))

    def report(self) -> dict[str, float]:
        """Return means by name."""
        found = {"loss": self.loss / max(self.mass, 1e-9)}
        if self.canvas_count:
            found["canvas loss"] = self.canvas_nats / self.canvas_count
            found["masked accuracy"] = self.canvas_right / self.canvas_count
        if self.causal_count:
            found["causal loss"] = self.causal_nats / self.causal_count
        return found


Evaluate = Callable[[TrainedModel], Mapping[str, float]]
OnProgress = Callable[[int, float, Mapping[str, float]], None]
"""Takes the step, the progress from 0 to 1, and what was measured."""


class Run:
    """Trains a model in a folder, or goes on with the run that is found there."""

    def __init__(
        self,
        model: TrainedModel,
        optimizer: Optimizer,
        batches: Batches,
        config: RunConfig,
        folder: Path,
        decided_by: Mapping[str, object],
        evaluate: Evaluate | None = None,
        on_progress: OnProgress | None = None,
        tensorboard: bool = False,
    ) -> None:
        """``decided_by``: all that decides the result; a run that is gone on with must have the same."""
        self.model, self.batches = model, batches
        self.optimizer, self.evaluate, self._config = optimizer, evaluate, config
        self._folder, self._decided_by = folder, dict(decided_by)
        self._on_progress, self._tensorboard = on_progress, tensorboard
        self._step, self._place, self._seconds, self._trained_tokens = 0, Place(), 0.0, 0
        self._counts = Counts()
        self.loss = math.nan
        """Loss of the last step, nats."""

    @property
    def progress(self) -> float:
        """The part of the run that is done, from 0 to 1."""
        return self._config.progress(self._step, self._seconds)

    def run(self) -> Path:
        """Train to the end; returns the folder of the checkpoint, or of the adapter."""
        self._folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self._config.seed)
        if (self._folder / STATE_FILE).exists():
            self._resume()
        metrics = Metrics(self._folder, self._step, rates=RATES, rates_of="right (%)", tensorboard=self._tensorboard)
        while self.progress < 1:
            begun = time.perf_counter()
            norm = self.step(self.batch())
            self._seconds += time.perf_counter() - begun
            self._counts.seconds += time.perf_counter() - begun
            if self._due(self._config.log_every):
                self._report(metrics, norm)
            if self.evaluate is not None and self._due(self._config.evaluate_every):
                self._measure(metrics)
                metrics.draw(self._folder / CURVES_FILE)
            if self._due(self._config.save_every):
                self._save()
        metrics.draw(self._folder / CURVES_FILE)
        metrics.close()
        return self.model.export(self._folder, self.optimizer.values)

    def batch(self) -> list[tuple[Batch, Targets]]:
        """Draw the batches of the next update, and take the steps of rollouts on them."""
        drawn, place, objective = [], self._place, self.batches.objective.config
        sampler = Sampler(self.model, objective.rollout_threshold, objective.rollout_steps + 1)
        for _ in range(self._config.accumulate):
            batch, place = self.batches.draw(place, self.progress)
            self.model.train(False)
            roll_out(sampler, batch)
            drawn.append((batch, batch.targets()))
        self._place = place
        return drawn

    def step(self, drawn: Sequence[tuple[Batch, Targets]]) -> float:
        """Take one step of the optimizer; returns the norm of the gradient."""
        mass, total = sum(targets.mass for _, targets in drawn), 0.0
        self.model.train(True)
        for batch, targets in drawn:
            found = score(self.model, batch, targets)
            self._counts.add(found, targets.mass)
            self._counts.tokens += batch.count
            self._trained_tokens += batch.count
            if not torch.isfinite(found.total):
                raise RedraftError(
                    f"the loss became {found.total.item()} at step {self._step + 1}; the state of the last save is "
                    f"kept in {self._folder / STATE_FILE}. A lower learning rate usually helps."
                )
            total += float(found.total.detach())
            (found.total / mass).backward()
        norm = self.optimizer.update(self._step, self.progress)
        self.loss = total / mass
        self._step += 1
        return norm

    def _due(self, every: int) -> bool:
        return self._step % every == 0 or self.progress >= 1

    def _report(self, metrics: Metrics, norm: float) -> None:
        values = {
            **self._counts.report(),
            "gradient norm": norm,
            "learning rate": self.optimizer.rate,
            "tokens per second": self._counts.tokens / max(self._counts.seconds, 1e-9),
            "tokens": float(self._trained_tokens),
            "seconds": self._seconds,
            "records": float(self._place.record),
            "skipped records": float(self.batches.skipped),
        }
        self._counts = Counts()
        metrics.add(self._step, values)
        if self._on_progress is not None:
            self._on_progress(self._step, self.progress, values)

    def _measure(self, metrics: Metrics) -> None:
        assert self.evaluate is not None
        begun = time.perf_counter()
        self.model.train(False)
        with self.model.holding(self.optimizer.values):
            values = dict(self.evaluate(self.model))
        self._seconds += time.perf_counter() - begun
        metrics.add(self._step, values)
        if self._on_progress is not None:
            self._on_progress(self._step, self.progress, values)

    def _save(self) -> None:
        state = {
            "step": self._step,
            "place": tuple(self._place),
            "seconds": self._seconds,
            "tokens": self._trained_tokens,
            "skipped": self.batches.skipped,
            "decided_by": self._decided_by,
            "optimizer": self.optimizer.state(),
            "counts": vars(self._counts),
            "torch_rng": torch.get_rng_state(),
        }
        with replacing(self._folder / STATE_FILE) as new:
            torch.save(state, new)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self._folder / STATE_FILE, weights_only=False)
        for name, value in self._decided_by.items():
            before = state["decided_by"].get(name)
            if before != value:
                raise RedraftError(
                    f"{self._folder} holds a run with {name} {before!r}, not {value!r}; go on with it as it was begun, "
                    "or choose another folder"
                )
        self.optimizer.load(state["optimizer"])
        self._step, self._seconds, self._trained_tokens = state["step"], state["seconds"], state["tokens"]
        self.batches.skipped = state["skipped"]
        self._place, self._counts = Place(*state["place"]), Counts(**state["counts"])
        torch.set_rng_state(state["torch_rng"])
