"""A benchmark as JSON and as tables; both show the same medians and spreads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from redraft.errors import counted
from redraft.measure.benchmark import GB, METRICS, Measurement, Ratios
from redraft.measure.machine import Machine, Malloc
from redraft.measure.timing import Spread
from redraft.measure.worker import Loaded


@dataclass(frozen=True)
class BenchmarkSettings:
    """The settings of a benchmark."""

    model: str
    rounds: int
    seed: int
    prompt: str
    """The prompts, in words."""
    malloc: Malloc
    remarks: tuple[str, ...] = ()
    """Further lines that a reader has to know."""


@dataclass(frozen=True)
class Report:
    """A whole benchmark."""

    machine: Machine
    settings: BenchmarkSettings
    loaded: Mapping[str, Loaded]
    """The loaded process of each contender."""
    measurements: Sequence[Measurement]

    def as_object(self) -> dict[str, Any]:
        """Return the report for JSON: the figures of the tables, the single rounds, and every run as it was."""
        settings = {**asdict(self.settings), "malloc": self.settings.malloc.description}
        return {
            "machine": {**asdict(self.machine), "warning": self.machine.warning},
            "settings": settings,
            "contenders": {
                name: {**asdict(loaded), "peak_bytes": self.peak_bytes(name)} for name, loaded in self.loaded.items()
            },
            "workloads": [_workload(measurement) for measurement in self.measurements],
        }

    def peak_bytes(self, contender: str) -> int | None:
        """Return the largest resident set of a contender's process, warm-ups included."""
        peaks = [run.peak_bytes for m in self.measurements for run in m.runs[contender] if run.peak_bytes is not None]
        return max(peaks, default=None)

    def print(self, console: Console) -> None:
        """Print the header, the memory, and a table for each workload."""
        for line in self._header():
            console.print(line, highlight=False)
        console.print(_memory_table(self))
        for measurement in self.measurements:
            console.print(_workload_table(measurement, self.settings.rounds))

    def _header(self) -> list[str]:
        machine, settings = self.machine, self.settings
        threads = {loaded.threads for loaded in self.loaded.values()}
        load = "unknown" if machine.load_average is None else f"{machine.load_average:.2f}"
        return [
            f"model: {settings.model}",
            f"machine: {machine.processor}, {machine.cores} usable cores, {machine.system}",
            f"threads: {threads.pop() if len(threads) == 1 else {n: c.threads for n, c in self.loaded.items()}}; "
            f"load average at the start: {load}",
            f"versions: Python {machine.python}, torch {machine.torch}, transformers {machine.transformers or 'none'}; "
            f"kernels: {machine.kernels}",
            f"malloc: {settings.malloc.description}",
            f"prompts: {settings.prompt}",
            f"method: contenders in turn in rotating order, one round to warm up, then {settings.rounds} rounds; "
            "median (min to max)",
            *settings.remarks,
            *([f"warning: {machine.warning}"] if machine.warning else []),
        ]


def title(measurement: Measurement) -> str:
    """Say a workload in words."""
    workload = measurement.workload
    steps = "the checkpoint's own stopping" if workload.steps is None else f"{counted(workload.steps, 'step')} a canvas"
    return f"prompt of {counted(len(workload.prompt), 'token')}, answer of at most {workload.max_tokens:,}, {steps}"


def short(value: float) -> str:
    """Write three significant digits, without an exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _workload(measurement: Measurement) -> dict[str, Any]:
    contenders = {}
    for name, runs in measurement.runs.items():
        spreads = {metric.key: measurement.spread(name, metric) for metric in METRICS}
        contenders[name] = {
            **{key: None if spread is None else spread.as_object() for key, spread in spreads.items()},
            "runs": [{key: value for key, value in asdict(run).items() if key != "token_ids"} for run in runs],
        }
    compared = {metric.key: measurement.ratios(metric) for metric in METRICS if metric.compared}
    return {
        "prompt_tokens": len(measurement.workload.prompt),
        "max_tokens": measurement.workload.max_tokens,
        "steps": measurement.workload.steps,
        "contenders": contenders,
        "times_as_fast": {key: _ratios(ratios) for key, ratios in compared.items() if ratios is not None},
    }


def _ratios(ratios: Ratios) -> dict[str, Any]:
    return {"reference": ratios.reference, **{name: ratio.as_object() for name, ratio in ratios.by_contender.items()}}


def _memory_table(report: Report) -> Table:
    table = Table(title="memory: resident set of each contender's own process, GB", title_justify="left")
    for column in ("contender", "libraries loaded", "model loaded", "peak"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for name, loaded in report.loaded.items():
        sizes = (loaded.libraries_bytes, loaded.loaded_bytes, report.peak_bytes(name))
        table.add_row(name, *("-" if size is None else f"{size / GB:.2f}" for size in sizes))
    return table


def _workload_table(measurement: Measurement, rounds: int) -> Table:
    table = Table(title=title(measurement), title_justify="left")
    table.add_column(f"median (min to max) of {rounds} rounds")
    for name in measurement.runs:
        table.add_column(name, justify="right")
    for metric in METRICS:
        spreads = [measurement.spread(name, metric) for name in measurement.runs]
        if all(spread is None for spread in spreads):
            continue
        table.add_row(metric.label, *(cell(spread, metric.divisor) for spread in spreads))
        ratios = measurement.ratios(metric) if metric.compared else None
        if ratios is not None:
            shown = (
                "reference" if name == ratios.reference else cell(ratios.by_contender.get(name))
                for name in measurement.runs
            )
            table.add_row(f"  times as fast as {ratios.reference}", *shown)
    return table


def cell(spread: Spread | None, divisor: float = 1.0) -> str:
    """Write a median with its extremes."""
    if spread is None:
        return "-"
    median, (low, high) = spread.median / divisor, spread.extremes
    if low == high:
        return f"{short(median)} (always)"
    return f"{short(median)} ({short(low / divisor)} to {short(high / divisor)})"
