"""The settings that are worth their cost: those than which no other is both better and cheaper; and the one to take."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from redraft.measure.evaluate.ask import Run
from redraft.measure.evaluate.estimates import Difference, Estimate
from redraft.measure.evaluate.metrics import RIGHT
from redraft.measure.tune.recipe import Recipe
from redraft.measure.tune.settings import Setting

Cost = Literal["seconds", "forwards"]
TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Trial:
    """A setting, and what came of the items with it."""

    setting: Setting
    run: Run

    @cached_property
    def right(self) -> Estimate:
        """The share of items that are right, by their weights."""
        found = RIGHT.estimate(self.run)
        assert found is not None, "every item is right or wrong"
        return found

    def cost(self, by: Cost) -> float:
        """The mean cost of an answer; infinite where there is none."""
        usages = [outcome.usage for outcome in self.run.outcomes if outcome.usage is not None]
        return float(np.mean([getattr(usage, by) for usage in usages])) if usages else float("inf")

    def difference(self, other: "Trial") -> Difference:
        """Return the difference of right items to ``other``, on the same ones."""
        found = RIGHT.difference(self.run, other.run)
        assert found is not None, "every item is right or wrong"
        return found

    def as_object(self, on_front: bool) -> dict[str, Any]:
        """Return the trial for JSON."""
        return {
            "name": self.setting.name,
            "parameters": self.setting.parameters,
            "items": len(self.run.outcomes),
            "right": asdict(self.right),
            "seconds": self.cost("seconds"),
            "forwards": self.cost("forwards"),
            "failed": len(self.run.failed),
            "on_front": on_front,
        }


def front_of(trials: Sequence[Trial], by: Cost) -> list[Trial]:
    """Return the trials than which none is right more often at no greater cost, the cheapest first; of equals one."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda one: (one.cost(by), -one.right.value)):
        if trial.cost(by) < float("inf") and (not found or trial.right.value > found[-1].right.value):
            found.append(trial)
    return found


def surely_worse(trial: Trial, others: Sequence[Trial], by: Cost) -> bool:
    """Tell whether some other costs no more and is surely right more often: the interval of 95% says so."""
    cost = trial.cost(by)
    return any(other is not trial and other.cost(by) <= cost and other.difference(trial).low > 0 for other in others)


@dataclass(frozen=True, eq=False)
class Tuning:
    """All that was tried on all items, and what of it is worth its cost."""

    source: str
    """The file of the items."""
    model: str
    seed: int
    by: Cost
    trials: Sequence[Trial]
    dropped: int
    """Settings that were given up on a part of the items."""
    tolerance: float = TOLERANCE
    """The share of right items that may be given up for a smaller cost."""

    @cached_property
    def front(self) -> list[Trial]:
        """The Pareto front, the cheapest first."""
        return front_of(self.trials, self.by)

    @cached_property
    def best(self) -> Trial:
        """The trial that is right most often."""
        return self.front[-1]

    @cached_property
    def recommended(self) -> Trial:
        """The cheapest on the front that has no more than the tolerance fewer right items than the best."""
        # What rounding leaves of a difference is none.
        least = self.best.right.value - self.tolerance - 1e-9
        return next(trial for trial in self.front if trial.right.value >= least)

    def recipe(self) -> Recipe:
        """Return what is recommended as a recipe."""
        trial = self.recommended
        measured = {
            "task": self.source,
            "items": len(trial.run.outcomes),
            "right": asdict(trial.right),
            "seconds": trial.cost("seconds"),
            "forwards": trial.cost("forwards"),
        }
        return Recipe(self.model, trial.setting, measured)

    def as_object(self) -> dict[str, Any]:
        """Return all of it for JSON, the front first."""
        rest = sorted((one for one in self.trials if one not in self.front), key=lambda one: one.cost(self.by))
        return {
            "items": self.source,
            "model": self.model,
            "seed": self.seed,
            "by": self.by,
            "dropped": self.dropped,
            "tolerance": self.tolerance,
            "recommended": self.recommended.setting.name,
            "trials": [trial.as_object(True) for trial in self.front] + [trial.as_object(False) for trial in rest],
        }
