"""An evaluation as tables and as JSON; both show the same figures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redraft.calibrate.calibration import ReliabilityTable
from redraft.calibrate.choice import Decided
from redraft.measure.evaluate.ask import Outcome, Run
from redraft.measure.evaluate.estimates import Difference, Estimate
from redraft.measure.evaluate.metrics import (
    BINS,
    COSTS,
    FAULTS,
    METRICS,
    RIGHT,
    SCORES,
    Metric,
    choice_calibration,
    field_calibration,
    field_metrics,
    group_metrics,
)

_MAX_ROWS = 40
_SHOWN = 300


@dataclass(frozen=True, eq=False)
class Report:
    """A whole evaluation. The first of the runs is the reference that the others are compared with."""

    source: str
    """The file of the items."""
    seed: int
    runs: Sequence[Run]
    """One or more, on the same items."""
    _found: dict[tuple[int, Metric], tuple[Estimate | None, Difference | None]] = field(
        default_factory=dict, init=False, repr=False
    )
    """Figures that were computed already, by the number of the run."""

    @property
    def reference(self) -> Run:
        """The run of the first contender."""
        return self.runs[0]

    @cached_property
    def groups(self) -> dict[str, list[Metric]]:
        """The metrics of each group key."""
        return group_metrics(self.reference)

    @cached_property
    def fields(self) -> dict[str, list[Metric]]:
        """The metrics of fields, by type and by pointer."""
        return field_metrics(self.runs)

    def figures(self, metric: Metric, number: int) -> tuple[Estimate | None, Difference | None]:
        """Return a figure of a run, by its number, and the difference to the reference, which has none itself."""
        if (number, metric) not in self._found:
            run = self.runs[number]
            difference = metric.difference(run, self.reference) if number else None
            self._found[number, metric] = (metric.estimate(run), difference)
        return self._found[number, metric]

    def as_object(self) -> dict[str, Any]:
        """Return the report for JSON: every figure of the tables, and every item with all that came of it."""
        return {
            "items": self.source,
            "count": len(self.reference.outcomes),
            "seed": self.seed,
            "reference": self.reference.contender.name,
            "contenders": {run.contender.name: self._contender(number) for number, run in enumerate(self.runs)},
            "groups": {key: self._rows(metrics) for key, metrics in self.groups.items()},
            "fields": {key: self._rows(metrics) for key, metrics in self.fields.items()},
            "results": [self._item(number) for number in range(len(self.reference.outcomes))],
        }

    def parted(self) -> list[int]:
        """Return the numbers of items that some contenders have right and others wrong."""
        verdicts = zip(*(run.outcomes for run in self.runs), strict=True)
        return [number for number, own in enumerate(verdicts) if len({outcome.verdict.right for outcome in own}) > 1]

    def wrong(self) -> list[int]:
        """Return the numbers of items that some contender has wrong, those on which they part first."""
        parted = self.parted()
        count = range(len(self.reference.outcomes))
        return parted + [
            number
            for number in count
            if number not in set(parted) and not self.reference.outcomes[number].verdict.right
        ]

    def print(self, console: Console, errors: int = 0) -> None:
        """Print the tables, and so many wrong answers."""
        count = len(self.reference.outcomes)
        title = f"{self.source}, {count} item{'' if count == 1 else 's'}; value (95% interval)"
        table = self._table(title, "", [*SCORES, *FAULTS, *COSTS])
        for label, tables in self._reliability.items():
            if any(tables):
                shown = ("-" if one is None else f"{one.expected_error:.1%}" for one in tables)
                table.add_row(f"{label}: expected calibration error, {BINS} bins", *shown)
        table.add_row("seconds per item", *(_number(run.seconds / count) for run in self.runs))
        console.print(table)
        for key, metrics in self.groups.items():
            console.print(self._table(f"right items by {key}", key, metrics))
        for key, metrics in self.fields.items():
            if metrics:
                console.print(self._table(f"right fields of extract by {key}", key, metrics))
        for run in self.runs:
            if run.failed:
                first = run.failed[0]
                said = f"{run.contender.name} has no answer to {len(run.failed)} of {count}"
                console.print(Text(f"warning: {said}; the first is {first.item.place}: {first.error}"))
        for number in self.wrong()[:errors]:
            self._print_item(console, number)

    @property
    def _reliability(self) -> dict[str, list[ReliabilityTable | None]]:
        """A table for each run, of the questions of choose and of the fields of extract."""
        choices = [choice_calibration(run) for run in self.runs]
        return {
            "choose": [None if one is None else one.table for one in choices],
            "extract": [field_calibration(run) for run in self.runs],
        }

    def _table(self, title: str, first: str, metrics: Sequence[Metric]) -> Table:
        table = Table(title=Text(title), title_justify="left")
        table.add_column(first)
        for run in self.runs:
            table.add_column(Text(run.contender.name), justify="right")
        for metric in metrics[:_MAX_ROWS]:
            self._add_row(table, metric)
        if len(metrics) > _MAX_ROWS:
            table.add_row(f"{len(metrics) - _MAX_ROWS} more in --json")
        return table

    def _add_row(self, table: Table, metric: Metric) -> None:
        figures = [self.figures(metric, number) for number in range(len(self.runs))]
        estimates, differences = [one for one, _ in figures], [one for _, one in figures[1:]]
        # A row is for what there is: not for the fields of no extraction, nor for faults that nobody has.
        if all(one is None or (metric in FAULTS and one.value == 0 and metric.label[0] == " ") for one in estimates):
            return
        table.add_row(Text(metric.label), *(_estimate(metric, one) for one in estimates))
        if any(one is not None and one.value != 0 for one in differences) or (metric is RIGHT and differences):
            indent = " " * (len(metric.label) - len(metric.label.lstrip()) + 2)
            shown = ("-" if one is None else _difference(metric, one) for one in differences)
            label = "difference" if metric.kind == "mean" else "difference, points"
            table.add_row(indent + label, "reference", *shown, style="dim")
        if metric is RIGHT and differences:
            table.add_row("  right alone : reference alone, p", "reference", *map(_parted, differences), style="dim")

    def _contender(self, number: int) -> dict[str, Any]:
        run = self.runs[number]
        contender = run.contender
        shown: dict[str, Any] = {
            "model": contender.model,
            "dtype": contender.dtype,
            "parameters": dict(contender.parameters),
            "seconds": run.seconds,
            "metrics": {metric.key: self._figures(metric, number) for metric in METRICS},
        }
        tables = {verb: own[number] for verb, own in self._reliability.items()}
        return shown | {"calibration": {verb: _bins(one) for verb, one in tables.items() if one is not None}}

    def _rows(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        return {
            metric.key: {run.contender.name: self._figures(metric, number) for number, run in enumerate(self.runs)}
            for metric in metrics
        }

    def _figures(self, metric: Metric, number: int) -> dict[str, Any] | None:
        estimate, difference = self.figures(metric, number)
        if estimate is None:
            return None
        return asdict(estimate) | ({} if difference is None else {"difference": asdict(difference)})

    def _item(self, number: int) -> dict[str, Any]:
        item = self.reference.outcomes[number].item
        return {
            "id": item.id,
            "place": item.place,
            "verb": item.verb,
            "weight": item.weight,
            "groups": dict(item.groups),
            "parameters": dict(item.parameters),
            "truth": item.truth,
            "answers": {run.contender.name: _outcome(run.outcomes[number]) for run in self.runs},
        }

    def _print_item(self, console: Console, number: int) -> None:
        item = self.reference.outcomes[number].item
        console.print(Text(f"{item.place} ({item.id}): {item.verb}", style="bold"))
        console.print(Text(f"  truth: {_short(item.truth)}"))
        for run in self.runs:
            outcome = run.outcomes[number]
            verdict = outcome.verdict
            console.print(Text(f"  {run.contender.name}: {verdict.fault or 'right'}: {_short(outcome.answer)}"))
            for one in verdict.fields:
                if one.fault is not None:
                    console.print(Text(f"    {one.pointer or '(the whole)'}: {one.fault}"))
            for said in (outcome.error, verdict.remark):
                if said is not None:
                    console.print(Text(f"    {said}"))


def _bins(table: ReliabilityTable) -> dict[str, Any]:
    columns = (table.edges[:-1], table.edges[1:], table.counts, table.confidence, table.accuracy)
    names = ("low", "high", "count", "confidence", "accuracy")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {
        "expected_calibration_error": table.expected_error,
        "maximum_calibration_error": table.maximum_error,
        "bins": [row for values in rows if (row := dict(zip(names, values, strict=True)))["count"]],
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    shown: dict[str, Any] = {
        "answer": outcome.answer,
        "right": verdict.right,
        "fault": verdict.fault,
        "remark": verdict.remark,
        "error": outcome.error,
        "valid": verdict.valid,
        "fields": {one.pointer: one.fault for one in verdict.fields},
        "confidence": {one.pointer: one.confidence for one in verdict.fields if one.confidence is not None},
        "questions": {one.question: _question(one) for one in verdict.decisions},
        "seed": outcome.seed,
        "converged": outcome.converged,
        "usage": None if outcome.usage is None else asdict(outcome.usage),
    }
    absent = [name for name in ("remark", "error", "valid", "converged", "usage") if shown[name] is None]
    absent += [name for name in ("fields", "confidence", "questions") if not shown[name]]
    return {name: value for name, value in shown.items() if name not in absent}


def _question(decided: Decided) -> dict[str, Any]:
    return {"right": decided.right, "probabilities": decided.probabilities, "truth": decided.truth}


def _estimate(metric: Metric, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if metric.kind != "mean":
        return f"{estimate.value:.1%} ({100 * (estimate.low or 0.0):.1f} to {100 * (estimate.high or 0.0):.1f})"
    value = _number(estimate.value)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return value
    return f"{value} ({_number(estimate.low)} to {_number(estimate.high)})"


def _difference(metric: Metric, difference: Difference) -> str:
    value, low, high = difference.value, difference.low, difference.high
    if metric.kind != "mean":
        return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{value:+.3g} ({low:+.3g} to {high:+.3g})"


def _parted(difference: Difference | None) -> str:
    if difference is None or difference.p_value is None:
        return "-"
    return f"{difference.only_own} : {difference.only_reference}, p = {difference.p_value:.2g}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
