"""Ratios, and that tables, JSON and plot show the same figures."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from redraft.measure.benchmark import LATER_STEP, METRICS, SECONDS, Measurement, measure
from redraft.measure.machine import Machine, Malloc
from redraft.measure.plot import plot
from redraft.measure.report import BenchmarkSettings, Report, short
from redraft.measure.worker import Loaded
from redraft.measure.workload import Run, Workload

OURS, FLOAT, BFLOAT = "redraft float32", "transformers float32", "transformers bfloat16"


def run(seconds: float, step: float | None) -> Run:
    return Run(
        seconds=seconds,
        first_token_seconds=seconds / 2,
        first_step_seconds=seconds / 4,
        later_step_seconds=() if step is None else (step / 2, step, 2 * step),
        commit_step_seconds=(),
        denoising_steps=4,
        canvases=1,
        token_ids=tuple(range(12)),
        later_step_at_peak=0.01,
        peak_bytes=2_500_000_000,
    )


def measurement(tokens: int = 20, scale: float = 1.0) -> Measurement:
    """The reference is faster in bfloat16 by the answer, and in float32 by the step."""
    runs = {
        OURS: [run(scale * s, t) for s, t in [(1.0, 0.10), (2.0, 0.30), (1.5, 0.20)]],
        FLOAT: [run(scale * s, t) for s, t in [(5.0, 0.40), (6.0, 0.60), (7.5, 0.80)]],
        BFLOAT: [run(scale * s, t) for s, t in [(4.0, 0.80), (5.0, 1.00), (4.5, 0.90)]],
    }
    return Measurement(Workload((20,) * 256, tokens), runs, (FLOAT, BFLOAT))


@pytest.fixture
def report() -> Report:
    machine = Machine("Abacus 9000", 2, "Linux", "3.11", "2.13", "5.23", "none, plain torch", 1.9)
    settings = BenchmarkSettings("tiny", 3, 0, "random tokens", Malloc("glibc's default thresholds", {}), ("a remark",))
    loaded = {name: Loaded(1, 250_000_000, 1_250_000_000) for name in (OURS, FLOAT, BFLOAT)}
    return Report(machine, settings, loaded, [measurement(20), measurement(100, 4.0)])


def printed(report: Report) -> str:
    out = io.StringIO()
    report.print(Console(file=out, width=200, soft_wrap=True))
    return out.getvalue()


class TestRatios:
    def test_each_against_the_reference_that_is_faster_by_that_measure(self):
        by_answer, by_step = measurement().ratios(SECONDS), measurement().ratios(LATER_STEP)
        assert by_answer is not None
        assert by_step is not None
        assert (by_answer.reference, by_step.reference) == (BFLOAT, FLOAT)
        assert by_answer.by_contender[OURS].values == (4.0, 2.5, 3.0)
        assert by_answer.by_contender[FLOAT].values == (0.8, 5 / 6, 0.6)
        assert by_answer.by_contender[BFLOAT].values == (1.0, 1.0, 1.0)
        assert by_step.by_contender[OURS].values == pytest.approx((4.0, 2.0, 4.0))

    def test_none_for_a_contender_alone(self):
        whole = measurement()
        alone = Measurement(whole.workload, {OURS: whole.runs[OURS]}, (OURS,))
        assert alone.ratios(SECONDS) is None

    def test_none_where_no_answer_had_a_later_step(self):
        whole = measurement()
        runs = {name: [replace(r, later_step_seconds=()) for r in own] for name, own in whole.runs.items()}
        assert Measurement(whole.workload, runs, whole.references).ratios(LATER_STEP) is None


def test_measure_hands_every_round_another_seed_and_all_contenders_the_same():
    asked: list[tuple[str, int, int]] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def answer(self, workload: Workload, seed: int) -> Run:
            asked.append((self.name, workload.max_tokens, seed))
            return run(1.0, 0.1)

    works = [Workload((20,), tokens) for tokens in (4, 5)]
    found = measure({name: Fake(name) for name in "ab"}, ["b"], works, rounds=3, seed=40)
    assert [m.workload.max_tokens for m in found] == [4, 5]
    assert all(len(runs) == 3 for m in found for runs in m.runs.values())
    for name in "ab":
        assert [(t, s) for n, t, s in asked if n == name] == [(t, 40 + r) for t in (4, 5) for r in range(4)]


class TestReport:
    def test_the_json_has_every_figure_of_the_tables(self, report):
        text, facts = printed(report), json.loads(json.dumps(report.as_object()))
        shown = 0
        for work in facts["workloads"]:
            for contender in work["contenders"].values():
                for metric in METRICS:
                    figures = contender[metric.key]
                    if figures is None:
                        continue
                    median, least, most = (figures[key] / metric.divisor for key in ("median", "min", "max"))
                    spread = "(always)" if least == most else f"({short(least)} to {short(most)})"
                    assert f"{short(median)} {spread}" in text
                    shown += 1
            for ratios in work["times_as_fast"].values():
                assert f"times as fast as {ratios['reference']}" in text
                for name in facts["contenders"]:
                    if name != ratios["reference"]:
                        own = ratios[name]
                        assert f"{short(own['median'])} ({short(own['min'])} to {short(own['max'])})" in text
        assert shown == 2 * 3 * (len(METRICS) - 1), "all but the seconds of commits, of which there are none"

    def test_no_time_stands_without_its_spread(self, report):
        rows = [line for line in printed(report).splitlines() if "second" in line and "│" in line]
        assert len(rows) == 2 * 5
        assert all(cell.count("(") == 1 for row in rows for cell in row.strip("│ ").split("│")[1:])

    def test_the_header_says_where_and_how(self, report):
        text = printed(report)
        for words in ("Abacus 9000, 2 usable cores", "threads: 1", "load average at the start: 1.90", "torch 2.13",
                      "transformers 5.23", "kernels: none", "malloc: glibc's default", "rotating order", "a remark",
                      "warning: the machine is busy"):  # fmt: skip
            assert words in text

    def test_memory(self, report):
        facts = report.as_object()["contenders"][OURS]
        assert facts == {
            "threads": 1, "libraries_bytes": 250_000_000, "loaded_bytes": 1_250_000_000, "peak_bytes": 2_500_000_000
        }  # fmt: skip
        line = next(line for line in printed(report).splitlines() if OURS in line)
        assert [cell.strip() for cell in line.strip("│").split("│")] == [OURS, "0.25", "1.25", "2.50"]

    def test_memory_that_cannot_be_told(self, report):
        runs = {name: [replace(r, peak_bytes=None) for r in own] for name, own in measurement().runs.items()}
        work = replace(measurement(), runs=runs)
        blind = replace(report, measurements=[work], loaded={n: Loaded(1, None, None) for n in report.loaded})
        assert blind.peak_bytes(OURS) is None
        line = next(line for line in printed(blind).splitlines() if OURS in line)
        assert line.count("-") >= 3

    def test_different_threads_are_told_by_contender(self, report):
        mixed = {**report.loaded, OURS: replace(report.loaded[OURS], threads=2)}
        assert f"'{OURS}': 2" in printed(replace(report, loaded=mixed))


class TestPlot:
    @pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf", "a.PNG"])
    def test_is_written(self, report, tmp_path, name):
        plot(report, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000

    def test_has_every_contender_and_ratio(self, report, tmp_path):
        import matplotlib

        with matplotlib.rc_context({"svg.fonttype": "none"}):
            plot(report, tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text()
        assert all(name in text for name in report.loaded)
        assert text.count(">reference<") == 2
        assert text.count(">3.00×<") == 2  # noqa: RUF001 - the sign of multiplication
        assert "prompt of 256 tokens" in text


@pytest.mark.parametrize(("value", "text"), [(0.012345, "0.0123"), (1.0, "1"), (99.9, "99.9"), (1234.5, "1,234")])
def test_short(value, text):
    assert short(value) == text
