"""Tables, JSON and plot show the same figures, which are what a count of the outcomes by hand gives."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from redraft.calibrate.choice import Decided
from redraft.engine.result import Usage
from redraft.measure.evaluate.ask import Contender, Outcome, Run
from redraft.measure.evaluate.faults import Fault
from redraft.measure.evaluate.items import Choose, Exact, Extract, Fill, Generate, Item
from redraft.measure.evaluate.judge import FieldVerdict, Verdict, judge_failed
from redraft.measure.evaluate.plot import plot
from redraft.measure.evaluate.report import Report

NAME, AGE = ("/people/0/name", "/people/*/name", "string"), ("/people/0/age", "/people/*/age", "integer")


def usage(steps: int, tokens: int) -> Usage:
    return Usage(10, 0, tokens, 1, steps, 0.5, 0.5)


def extraction(number: int, name: Fault | None, age: Fault | None) -> Outcome:
    item = Item(Extract("a", {}, {}), f"e{number}", f"items.jsonl:{number}", groups={"domain": "letters"})
    fields = (FieldVerdict(*NAME, name, 0.9), FieldVerdict(*AGE, age, 0.5))
    return Outcome(item, number, {"a": 1}, Verdict(name or age, fields, valid=True), usage(3, 20), True)


def decision(number: int, probability: float, right: bool) -> Outcome:
    item = Item(Choose("a", ["x", "y"], "x"), f"c{number}", f"items.jsonl:{number}", groups={"domain": "facts"})
    probabilities = (probability, 1 - probability) if right else (1 - probability, probability)
    verdict = Verdict(None if right else "wrong value", decisions=(Decided("answer", probabilities, 0),))
    return Outcome(item, number, {"answer": "x" if right else "y"}, verdict, usage(1, 0))


def text(number: int, fault: Fault | None, weight: float = 1.0) -> Outcome:
    item = Item(Generate("a", Exact("b")), f"g{number}", f"items.jsonl:{number}", weight)
    if fault == "failed":
        return Outcome(item, number, None, judge_failed(item), error="too long")
    return Outcome(item, number, "b" if fault is None else "[red]c", Verdict(fault), usage(5, 7), fault is None)


FIRST = [
    extraction(1, None, None),
    extraction(2, None, None),
    extraction(3, "cut", "wrong value"),
    decision(4, 0.9, True),
    decision(5, 0.8, False),
    decision(6, 0.6, True),
    text(7, None),
    text(8, "repeated"),
    text(9, "failed"),
]
SECOND = [
    extraction(1, None, None),
    extraction(2, "wrong value", None),
    extraction(3, None, None),
    decision(4, 0.7, True),
    decision(5, 0.7, True),
    decision(6, 0.6, True),
    text(7, None),
    text(8, None),
    text(9, "failed"),
]


@pytest.fixture
def report() -> Report:
    runs = [
        Run(Contender(name, "sudoku", parameters={"max_denoising_steps": steps}), outcomes, 9.0 * steps)
        for name, steps, outcomes in (("A", 1, FIRST), ("B", 2, SECOND))
    ]
    return Report("items.jsonl", 3, runs)


@pytest.fixture
def facts(report: Report) -> Any:
    return json.loads(json.dumps(report.as_object(), allow_nan=False))


def printed(report: Report, errors: int = 0) -> str:
    out = io.StringIO()
    report.print(Console(file=out, width=200, soft_wrap=True, highlight=False), errors)
    return out.getvalue()


def cells(report: Report, label: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed(report).splitlines()]
    return [row[1:] for row in rows if row[0] == label]


VALUES: list[tuple[str, float | None, float | None]] = [
    ("right", 5 / 9, 7 / 9),
    ("extract_whole", 2 / 3, 2 / 3),
    ("extract_fields", 4 / 6, 5 / 6),
    ("extract_valid", 1, 1),
    ("choose_questions", 2 / 3, 1),
    ("choose_brier", 2 * (0.1**2 + 0.8**2 + 0.4**2) / 3, 2 * (0.3**2 + 0.3**2 + 0.4**2) / 3),
    ("choose_loss", -np.log(0.9 * 0.2 * 0.6) / 3, -np.log(0.7 * 0.7 * 0.6) / 3),
    ("generate_exact", 1 / 3, 2 / 3),
    ("generate_regex", None, None),
    ("fill_exact", None, None),
    ("artefacts", 2 / 9, 0),
    ("artefacts_cut", 1 / 9, 0),
    ("artefacts_repeated", 1 / 9, 0),
    ("artefacts_no_span", 0, 0),
    ("wrong_values", 1 / 9, 1 / 9),
    ("failed", 1 / 9, 1 / 9),
    ("field_artefacts", 1 / 6, 0),
    ("field_wrong_values", 1 / 6, 1 / 6),
    ("converged", 4 / 5, 1),
    ("steps", (9 + 3 + 10) / 8, (9 + 3 + 10) / 8),
    ("tokens", (60 + 14) / 8, (60 + 14) / 8),
    ("canvases", 1, 1),
]


class TestJson:
    @pytest.mark.parametrize(("key", "first", "second"), VALUES)
    def test_figures(self, facts, key, first, second):
        for name, value in (("A", first), ("B", second)):
            found = facts["contenders"][name]["metrics"][key]
            assert (None if found is None else found["value"]) == (None if value is None else pytest.approx(value))

    def test_every_wrong_item_has_one_kind_of_fault(self, facts):
        for contender in facts["contenders"].values():
            shares = [contender["metrics"][key]["value"] for key in ("right", "artefacts", "wrong_values", "failed")]
            assert sum(shares) == pytest.approx(1)

    def test_the_difference_is_paired(self, facts):
        assert "difference" not in facts["contenders"]["A"]["metrics"]["right"], "it is the reference"
        found = facts["contenders"]["B"]["metrics"]["right"]["difference"]
        assert found["value"] == pytest.approx(2 / 9)
        assert (found["only_own"], found["only_reference"], found["items"]) == (3, 1, 9)
        assert found["p_value"] == pytest.approx(0.625)
        assert found["low"] < 0 < found["high"]

    def test_groups_and_fields(self, facts):
        domains = facts["groups"]["domain"]
        assert {key: one["A"]["value"] for key, one in domains.items()} == pytest.approx(
            {"letters": 2 / 3, "facts": 2 / 3}
        )
        assert domains["facts"]["B"]["difference"]["only_own"] == 1
        assert facts["fields"]["type"]["string"]["B"]["value"] == pytest.approx(2 / 3)
        assert facts["fields"]["pointer"]["/people/*/age"]["A"]["value"] == pytest.approx(2 / 3)

    def test_the_expected_calibration_error_is_the_mean_gap(self, facts):
        found = facts["contenders"]["A"]["calibration"]["choose"]
        # Each of the three answers has a bin of its own: 0.9 and 0.6 are right, 0.8 is wrong.
        assert found["expected_calibration_error"] == pytest.approx((0.1 + 0.8 + 0.4) / 3)
        assert [one["count"] for one in found["bins"]] == [1, 1, 1]

    def test_that_of_fields_is_of_the_confidence_they_were_given_with(self, facts):
        found = facts["contenders"]["A"]["calibration"]["extract"]
        # Two right with 0.9, one wrong with 0.9, two right with 0.5, one wrong with 0.5.
        assert found["expected_calibration_error"] == pytest.approx((3 * (0.9 - 2 / 3) + 3 * (2 / 3 - 0.5)) / 6)
        assert [one["count"] for one in found["bins"]] == [3, 3]
        assert facts["results"][2]["answers"]["A"]["confidence"] == {"/people/0/name": 0.9, "/people/0/age": 0.5}

    def test_every_item_with_every_answer(self, facts):
        assert [one["id"] for one in facts["results"]] == ["e1", "e2", "e3", "c4", "c5", "c6", "g7", "g8", "g9"]
        third = facts["results"][2]["answers"]
        assert third["A"]["fields"] == {"/people/0/name": "cut", "/people/0/age": "wrong value"}
        assert (third["A"]["right"], third["A"]["fault"], third["A"]["seed"]) == (False, "cut", 3)
        assert third["B"]["right"]
        assert facts["results"][4]["answers"]["A"]["questions"]["answer"]["probabilities"] == pytest.approx([0.2, 0.8])
        assert facts["results"][8]["answers"]["A"]["error"] == "too long"
        assert facts["results"][7]["answers"]["B"]["usage"]["denoising_steps"] == 5


def test_weights_weigh(report):
    outcomes = [text(1, None, weight=3.0), text(2, "cut", weight=1.0)]
    figures = Report("a", 0, [Run(report.runs[0].contender, outcomes, 1.0)]).as_object()["contenders"]["A"]["metrics"]
    assert figures["right"]["value"] == pytest.approx(0.75)


class TestTables:
    def test_show_the_values_of_the_json(self, report, facts):
        labels = {
            "right": "right",
            "artefacts": "artefacts",
            "extract_fields": "extract: fields",
            "failed": "failed: no answer",
        }
        for key, label in labels.items():
            figures = [facts["contenders"][name]["metrics"][key] for name in "AB"]
            shown = [f"{f['value']:.1%} ({100 * f['low']:.1f} to {100 * f['high']:.1f})" for f in figures]
            assert cells(report, label) == [shown]
        assert cells(report, "seconds per item") == [["1", "2"]]
        assert cells(report, "choose: expected calibration error, 15 bins")[0][0] == "43.3%"
        assert cells(report, "extract: expected calibration error, 15 bins")[0][0] == "20.0%"
        assert all(cells(report, label) for label in ("letters", "/people/*/age", "string"))

    def test_rows_are_for_what_there_is(self, report):
        shown = printed(report)
        assert "fill: exact" not in shown
        assert "generate: regex" not in shown
        assert "malformed" not in shown
        assert "repeated" in shown

    def test_the_difference_stands_below(self, report, facts):
        found = facts["contenders"]["B"]["metrics"]["right"]["difference"]
        first = cells(report, "difference, points")[0]
        assert first == ["reference", f"+22.2 ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"]
        assert cells(report, "right alone : reference alone, p") == [["reference", "3 : 1, p = 0.62"]]

    def test_one_contender_has_no_difference(self, report):
        alone = printed(replace(report, runs=report.runs[:1]))
        assert "difference" not in alone
        assert "reference" not in alone

    def test_many_rows_are_cut_and_it_is_said(self, report):
        grouped = [
            replace(text(n, None), item=replace(text(n, None).item, groups={"n": f"v{n:02}"})) for n in range(50)
        ]
        shown = printed(replace(report, runs=[Run(report.runs[0].contender, grouped, 1.0)]))
        assert "v39" in shown
        assert "v40" not in shown
        assert "10 more in --json" in shown


class TestErrors:
    def test_those_on_which_contenders_part_come_first(self, report):
        assert report.parted() == [1, 2, 4, 7]
        assert report.wrong() == [1, 2, 4, 7, 8]

    def test_are_printed_to_the_number(self, report):
        assert "items.jsonl:1 " not in printed(report)
        assert "warning: B has no answer to 1 of 9; the first is items.jsonl:9: too long" in printed(report)
        shown = printed(report, errors=4)
        assert [f"items.jsonl:{n} " in shown for n in range(1, 10)] == [n in (2, 3, 5, 8) for n in range(1, 10)]
        assert 'A: repeated: "[red]c"' in shown, "an answer is no markup"
        assert "B: right" in shown
        assert "/people/0/name: cut" in shown
        assert "too long" in printed(report, errors=9)


class TestPlot:
    @pytest.mark.parametrize("name", ["a.png", "a.svg"])
    def test_is_written(self, report, tmp_path, name):
        plot(report, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000

    def test_has_every_contender_and_a_reliability_diagram_each(self, report, tmp_path):
        import matplotlib

        with matplotlib.rc_context({"svg.fonttype": "none"}):
            plot(report, tmp_path / "a.svg")
        drawn = (tmp_path / "a.svg").read_text()
        assert drawn.count("expected calibration error") == 2
        assert "wrong values" in drawn
        assert "share of 9 items" in drawn

    def test_without_decisions_there_is_no_diagram(self, report, tmp_path):
        import matplotlib

        runs = [replace(run, outcomes=run.outcomes[6:]) for run in report.runs]
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            plot(replace(report, runs=runs), tmp_path / "a.svg")
        assert "calibration" not in (tmp_path / "a.svg").read_text()


def test_a_failed_decision_has_a_wrong_question_and_no_probability(report):
    item = Item(Choose("a", {"x": ["1", "2"], "y": ["1", "2"]}, {"x": "1", "y": "2"}), "1", "items.jsonl:1")
    failed = Outcome(item, 0, None, judge_failed(item), error="too long")
    figures = Report("a", 0, [Run(report.runs[0].contender, [failed, FIRST[3]], 1.0)]).as_object()["contenders"]["A"]
    assert figures["metrics"]["choose_questions"]["value"] == pytest.approx(1 / 3)
    assert figures["metrics"]["choose_brier"]["items"] == 1


def test_a_filled_gap_is_counted_by_itself(report):
    item = Item(Fill("a", "c", "b"), "1", "items.jsonl:1")
    run = Run(report.runs[0].contender, [Outcome(item, 0, "b", Verdict(None), usage(1, 1), True)], 1.0)
    figures = replace(report, runs=[run]).as_object()["contenders"]["A"]["metrics"]
    assert figures["fill_exact"]["value"] == 1
    assert figures["generate_exact"] is None
