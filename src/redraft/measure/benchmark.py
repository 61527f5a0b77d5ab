"""The benchmark: it runs contenders on workloads in alternation, and keeps every run, by round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from redraft.measure.timing import Spread, alternate, spread, times_as_fast
from redraft.measure.workload import Contender, Run, Workload

GB = 1e9


@dataclass(frozen=True)
class Metric:
    """A figure that is read off a run."""

    key: str
    """Its name in JSON."""
    label: str
    """Its name in a table."""
    of: Callable[[Run], float | None]
    compared: bool = False
    """True for seconds whose ratio to the reference is reported."""
    divisor: float = 1.0
    """The table's unit, in that of JSON."""


SECONDS = Metric("seconds", "seconds per answer", lambda run: run.seconds, compared=True)
LATER_STEP = Metric("later_step_seconds", "seconds per later step", lambda run: run.later_step, compared=True)
SHARE_OF_PEAK = Metric(
    "share_of_peak", "later steps, % of peak arithmetic", lambda run: run.share_of_peak, divisor=0.01
)
METRICS = (
    SECONDS,
    Metric("first_token_seconds", "seconds to the first token", lambda run: run.first_token_seconds),
    Metric("first_step_seconds", "seconds to the end of the first step", lambda run: run.first_step_seconds),
    LATER_STEP,
    SHARE_OF_PEAK,
    Metric("commit_step_seconds", "seconds per step that commits a canvas", lambda run: run.commit_step),
    Metric("tokens", "tokens per answer", lambda run: len(run.token_ids)),
    Metric("canvases", "canvases per answer", lambda run: run.canvases),
    Metric("steps_per_canvas", "steps per canvas", lambda run: run.steps_per_canvas),
    Metric("tokens_per_step", "tokens per step", lambda run: run.tokens_per_step),
    Metric("tokens_per_second", "tokens per second", lambda run: run.tokens_per_second),
    Metric("peak_bytes", "peak memory so far, GB", lambda run: run.peak_bytes, divisor=GB),
)


@dataclass(frozen=True)
class Ratios:
    """The speed of each contender as a multiple of that of ``reference``, in pairs of one round."""

    reference: str
    by_contender: Mapping[str, Spread]


@dataclass(frozen=True)
class Measurement:
    """All counted runs of one workload."""

    workload: Workload
    runs: Mapping[str, Sequence[Run]]
    """The runs of each contender, in the order of the rounds."""
    references: tuple[str, ...]
    """Contenders; the others are compared with the faster of them."""

    def spread(self, contender: str, metric: Metric) -> Spread | None:
        """Return the spread over the runs; None where no run has a value."""
        return spread([metric.of(run) for run in self.runs[contender]])

    def ratios(self, metric: Metric) -> Ratios | None:
        """Return ratios to the reference with the lowest median of this very metric; None with nothing to compare."""
        medians = {name: s.median for name in self.references if (s := self.spread(name, metric)) is not None}
        if not medians or len(self.runs) < 2:
            return None
        reference = min(medians, key=medians.__getitem__)
        values = {name: [metric.of(run) for run in runs] for name, runs in self.runs.items()}
        ratios = {name: times_as_fast(own, values[reference]) for name, own in values.items()}
        return Ratios(reference, {name: ratio for name, ratio in ratios.items() if ratio is not None})


def measure(
    contenders: Mapping[str, Contender],
    references: Sequence[str],
    workloads: Sequence[Workload],
    rounds: int,
    seed: int,
    on_run: Callable[[], None] | None = None,
) -> list[Measurement]:
    """Measure every workload in ``rounds`` counted rounds after one that warms up.

    In round r all contenders get the noise seed ``seed`` + r, as far as their generators are comparable.
    """
    measurements = []
    for workload in workloads:
        answers = {
            name: lambda number, c=contender, w=workload: c.answer(w, seed + number)
            for name, contender in contenders.items()
        }
        measurements.append(Measurement(workload, alternate(answers, rounds, on_run), tuple(references)))
    return measurements
