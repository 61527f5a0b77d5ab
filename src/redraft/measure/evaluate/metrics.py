"""The figures of an evaluation, each a ratio of sums over the items that it is about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from redraft.calibrate.calibration import Calibration, ReliabilityTable, calibration
from redraft.calibrate.choice import Decided, Predictions
from redraft.measure.evaluate.ask import Outcome, Run
from redraft.measure.evaluate.estimates import (
    Difference,
    Estimate,
    Sums,
    difference_by_bootstrap,
    difference_of_items,
    mean,
    share,
)
from redraft.measure.evaluate.faults import ARTEFACTS, FAILED, WRONG_VALUE, Fault
from redraft.measure.evaluate.items import Choose, Exact, Expected, Generate, Matching, Passing, ValidJson
from redraft.measure.evaluate.judge import FieldVerdict

BINS = 15
"""Bins of the expected calibration errors."""
Kind = Literal["items", "parts", "mean"]
"""A share of items, a share of their fields or questions, or a mean."""
_SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Metric:
    """A figure."""

    key: str
    """Its name in JSON."""
    label: str
    """Its name in a table."""
    kind: Kind
    sums: Callable[[Run], Sums]
    """Takes the figure's parts off a run."""

    @classmethod
    def by_item(cls, key: str, label: str, kind: Kind, of: Callable[[Outcome], tuple[float, float] | None]) -> "Metric":
        """Make a figure of what ``of`` says that an item adds above and below; None for one that it is not about."""

        def sums(run: Run) -> Sums:
            above, below = np.array([of(outcome) or (0.0, 0.0) for outcome in run.outcomes], dtype=np.float64).T
            return Sums(above, below, run.weights)

        return cls(key, label, kind, sums)

    def estimate(self, run: Run) -> Estimate | None:
        """Return the figure with its interval; None where the run has no item that it is about."""
        return mean(self.sums(run)) if self.kind == "mean" else share(self.sums(run))

    def difference(self, run: Run, reference: Run, seed: int = 0) -> Difference | None:
        """Return the difference to another run on the same items; None where none counts in both."""
        own, theirs = self.sums(run), self.sums(reference)
        if self.kind == "items":
            return difference_of_items(own, theirs)
        return difference_by_bootstrap(own, theirs, seed)


def _share_of_items(
    key: str, label: str, of: Callable[[Outcome], bool], where: Callable[[Outcome], bool] = lambda _: True
) -> Metric:
    return Metric.by_item(key, label, "items", lambda outcome: (float(of(outcome)), 1.0) if where(outcome) else None)


def _generated(key: str, label: str, expected: type[Expected]) -> Metric:
    def where(outcome: Outcome) -> bool:
        asked = outcome.item.asked
        return isinstance(asked, Generate) and isinstance(asked.expected, expected)

    return _share_of_items(key, f"  generate: {label}", _is_right, where)


def _usage(key: str, label: str, of: Callable[[Outcome], float | None]) -> Metric:
    def parts(outcome: Outcome) -> tuple[float, float] | None:
        value = of(outcome)
        return None if value is None else (value, 1.0)

    return Metric.by_item(key, label, "mean", parts)


def _decided(key: str, label: str, of: Callable[[Decided], float]) -> Metric:
    """Make a mean over the questions that have an answer."""

    def parts(outcome: Outcome) -> tuple[float, float] | None:
        found = outcome.verdict.decisions
        return (sum(map(of, found)), float(len(found))) if found else None

    return Metric.by_item(key, label, "mean", parts)


def _is_right(outcome: Outcome) -> bool:
    return outcome.verdict.right


def _has_fault(name: Fault) -> Callable[[Outcome], bool]:
    return lambda outcome: outcome.verdict.fault == name


def _is_in_group(key: str, value: str) -> Callable[[Outcome], bool]:
    return lambda outcome: outcome.item.groups.get(key) == value


def _is_extraction(outcome: Outcome) -> bool:
    return outcome.item.verb == "extract"


def _field_faults(faults: Sequence[Fault | None]) -> Callable[[Outcome], tuple[float, float] | None]:
    def parts(outcome: Outcome) -> tuple[float, float] | None:
        fields = outcome.verdict.fields
        return (float(sum(one.fault in faults for one in fields)), float(len(fields))) if fields else None

    return parts


def _right_questions(outcome: Outcome) -> tuple[float, float] | None:
    if not isinstance(outcome.item.asked, Choose):
        return None
    answer = outcome.item.asked.answer
    return float(sum(one.right for one in outcome.verdict.decisions)), float(
        len(answer) if isinstance(answer, dict) else 1
    )


def _brier(decided: Decided) -> float:
    return sum((p - (number == decided.truth)) ** 2 for number, p in enumerate(decided.probabilities))


def _loss(decided: Decided) -> float:
    return -float(np.log(max(decided.probabilities[decided.truth], _SMALLEST)))


RIGHT = _share_of_items("right", "right", _is_right)
FIELDS = Metric.by_item("extract_fields", "  extract: fields", "parts", _field_faults((None,)))
SCORES = (
    RIGHT,
    _share_of_items("extract_whole", "  extract: the whole value", _is_right, _is_extraction),
    FIELDS,
    _share_of_items(
        "extract_valid", "  extract: valid JSON", lambda outcome: bool(outcome.verdict.valid), _is_extraction
    ),
    Metric.by_item("choose_questions", "  choose: questions", "parts", _right_questions),
    _decided("choose_brier", "  choose: Brier score", _brier),
    _decided("choose_loss", "  choose: -log p(truth), nats", _loss),
    _share_of_items("fill_exact", "  fill: exact", _is_right, lambda outcome: outcome.item.verb == "fill"),
    _generated("generate_exact", "exact", Exact),
    _generated("generate_regex", "regex", Matching),
    _generated("generate_schema", "valid JSON", ValidJson),
    _generated("generate_command", "command", Passing),
)
FAULTS = (
    _share_of_items("artefacts", "artefacts", lambda outcome: outcome.verdict.fault in ARTEFACTS),
    *(_share_of_items(f"artefacts_{name.replace(' ', '_')}", f"  {name}", _has_fault(name)) for name in ARTEFACTS),
    _share_of_items("wrong_values", "wrong values", _has_fault(WRONG_VALUE)),
    _share_of_items("failed", "failed: no answer", _has_fault(FAILED)),
    Metric.by_item("field_artefacts", "artefacts, of fields", "parts", _field_faults(ARTEFACTS)),
    Metric.by_item("field_wrong_values", "wrong values, of fields", "parts", _field_faults((WRONG_VALUE,))),
)
COSTS = (
    _share_of_items("converged", "converged", lambda one: bool(one.converged), lambda one: one.converged is not None),
    _usage("steps", "denoising steps", lambda one: None if one.usage is None else one.usage.denoising_steps),
    _usage("canvases", "canvases", lambda one: None if one.usage is None else one.usage.canvases),
    _usage("tokens", "tokens", lambda one: None if one.usage is None else one.usage.completion_tokens),
)
METRICS = (*SCORES, *FAULTS, *COSTS)


def group_metrics(run: Run) -> dict[str, list[Metric]]:
    """Make a share of right items for each value of each group key, in the order of their names."""
    values: dict[str, set[str]] = {}
    for outcome in run.outcomes:
        for key, value in outcome.item.groups.items():
            values.setdefault(key, set()).add(value)
    return {
        key: [_share_of_items(value, value, _is_right, _is_in_group(key, value)) for value in sorted(own)]
        for key, own in sorted(values.items())
    }


def field_metrics(runs: Sequence[Run]) -> dict[str, list[Metric]]:
    """Make a share of right fields for each type, and for each pointer with a * for the indices of arrays.

    Fields are those of all runs: one that a single model invents is a row, too.
    """
    return {"type": _field_metrics(runs, _type), "pointer": _field_metrics(runs, _pattern)}


def _field_metrics(runs: Sequence[Run], of: Callable[[FieldVerdict], str]) -> list[Metric]:
    """Make a metric for each value of ``of``, from one pass over the fields: there may be many."""
    # By the value, the run, and the number of the item: most values are those of few items.
    found: dict[str, dict[int, dict[int, tuple[int, int]]]] = {}
    for run in runs:
        for number, outcome in enumerate(run.outcomes):
            for one in outcome.verdict.fields:
                own = found.setdefault(of(one), {}).setdefault(id(run), {})
                right, count = own.get(number, (0, 0))
                own[number] = (right + (one.fault is None), count + 1)
    return [Metric(value, value or "(the whole)", "parts", _looked_up(own)) for value, own in found.items()]


def _looked_up(counts: Mapping[int, Mapping[int, tuple[int, int]]]) -> Callable[[Run], Sums]:
    def sums(run: Run) -> Sums:
        above, below = np.zeros(len(run.outcomes)), np.zeros(len(run.outcomes))
        for number, (right, count) in counts.get(id(run), {}).items():
            above[number], below[number] = right, count
        return Sums(above, below, run.weights)

    return sums


def _type(field: FieldVerdict) -> str:
    return field.type


def _pattern(field: FieldVerdict) -> str:
    return field.pattern


def field_calibration(run: Run) -> ReliabilityTable | None:
    """Put all fields that were given with a confidence into bins, each counted once; None where there is none."""
    fields = [one for outcome in run.outcomes for one in outcome.verdict.fields if one.confidence is not None]
    if not fields:
        return None
    confidence = np.array([one.confidence for one in fields], dtype=np.float64)
    return ReliabilityTable.of(confidence, np.array([one.fault is None for one in fields]), BINS)


def choice_calibration(run: Run) -> Calibration | None:
    """Measure the calibration of all questions that have an answer, each counted once; None where there is none."""
    decided = [one for outcome in run.outcomes for one in outcome.verdict.decisions]
    if not decided:
        return None
    found = Predictions.of(decided)
    return calibration(found.probabilities, found.truth, BINS)
