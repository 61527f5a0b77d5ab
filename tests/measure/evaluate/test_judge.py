"""Verdicts: a field by its pointer and type, a text by what is expected of it, and the kind of what is wrong."""

import json
import sys
from collections import Counter
from typing import Any

import pytest

from redraft.engine.result import FinishReason, Result, Usage
from redraft.measure.evaluate.items import (
    Choose,
    Exact,
    Expected,
    Extract,
    Fill,
    Generate,
    Item,
    Matching,
    Passing,
    ValidJson,
)
from redraft.measure.evaluate.judge import Verdict, judge, judge_failed, same
from redraft.tasks.choose import ChooseResult, Decision
from redraft.tasks.extract import Extraction
from redraft.tasks.fill import FillResult

USAGE = Usage(4, 0, 5, 1, 2, 0.1, 0.1)
LETTER = "Anna Schmidt (34) and Otto Braun live in Bad Homburg. Urgent!"
SCHEMA = {"properties": {"level": {"enum": ["urgent", "usual"]}}}
PEOPLE = {"people": [{"name": "Anna Schmidt", "age": 34}, {"name": "Otto Braun", "age": None}], "level": "urgent"}


def common(text: str, finish: FinishReason = "stop") -> dict[str, Any]:
    return {
        "text": text, "token_ids": (), "finish_reason": finish, "seed": 0, "unconverged_canvases": (), "usage": USAGE
    }  # fmt: skip


def extracted(value: Any, truth: Any, schema: Any = SCHEMA) -> Verdict:
    item = Item(Extract(LETTER, schema, truth), "1", "items.jsonl:1")
    return judge(item, Extraction(**common(json.dumps(value)), value=value), ["<end>"], 5)


def written(text: str, expected: Expected, finish: FinishReason = "stop") -> Verdict:
    item = Item(Generate("a", expected), "1", "items.jsonl:1")
    return judge(item, Result(**common(text, finish)), ["<end>"], 5)


class TestExtract:
    def test_a_right_value_has_right_fields(self):
        verdict = extracted(PEOPLE, PEOPLE)
        assert verdict.right
        assert verdict.valid
        assert [(one.pointer, one.pattern, one.type, one.fault) for one in verdict.fields] == [
            ("/people/0/name", "/people/*/name", "string", None),
            ("/people/0/age", "/people/*/age", "integer", None),
            ("/people/1/name", "/people/*/name", "string", None),
            ("/people/1/age", "/people/*/age", "null", None),
            ("/level", "/level", "string", None),
        ]

    def test_a_number_that_python_cannot_hold_is_a_wrong_one(self):
        item = Item(Extract(LETTER, {}, {"a": 34}), "1", "items.jsonl:1")
        result = Extraction(**common('{"a":1e999}'), value={"a": float("inf")})
        assert judge(item, result, [], 5).fault == "wrong value"

    def test_fields_have_the_confidence_of_the_answer(self):
        item = Item(Extract(LETTER, {}, {"a": 1, "b": 2}), "1", "items.jsonl:1")
        result = Extraction(**common('{"a":1,"c":3}'), value={"a": 1, "c": 3}, confidence={"/a": 0.9, "/c": 0.4})
        verdict = judge(item, result, [], 5)
        assert {one.pointer: one.confidence for one in verdict.fields} == {"/a": 0.9, "/b": None, "/c": 0.4}

    def test_each_wrong_field_has_its_fault_and_the_whole_that_of_an_artefact(self):
        answer = {
            "people": [{"name": "Anna Schm", "age": 35}, {"name": "Otto Braun", "age": 20}],
            "level": "usual",
        }
        verdict = extracted(answer, PEOPLE)
        assert {one.pointer: one.fault for one in verdict.fields if one.fault} == {
            "/people/0/name": "cut",
            "/people/0/age": "no span",
            "/people/1/age": "wrong value",
            "/level": "wrong value",
        }
        assert verdict.fault == "cut"

    def test_false_values_alone_are_wrong_values(self):
        verdict = extracted({**PEOPLE, "level": "usual"}, PEOPLE)
        assert (verdict.right, verdict.fault) == (False, "wrong value")

    def test_missing_and_invented_fields_are_wrong_once_each(self):
        verdict = extracted({"a": 1, "c": {"d": 2, "e": 3}}, {"a": 1, "b": 2})
        assert {one.pointer: one.fault for one in verdict.fields} == {
            "/a": None, "/b": "wrong value", "/c/d": "wrong value", "/c/e": "wrong value"
        }  # fmt: skip

    @pytest.mark.parametrize(("truth", "answer"), [([], ["a", "b"]), (["a", "b"], []), ({"a": 1}, 3), (3, {"a": 1})])
    def test_an_empty_array_in_the_place_of_a_full_one_is_counted_by_the_truth(self, truth, answer):
        verdict = extracted({"tags": answer}, {"tags": truth})
        assert Counter(one.fault for one in verdict.fields) == {
            "wrong value": len(truth) if isinstance(truth, list) and truth else 1
        }

    def test_pointers_are_escaped_and_a_key_of_digits_is_no_index(self):
        verdict = extracted({"a/b": {"0": [1]}}, {"a/b": {"0": [1]}})
        assert [(one.pointer, one.pattern) for one in verdict.fields] == [("/a~1b/0/0", "/a~1b/0/*")]

    def test_a_value_that_the_schema_forbids_is_not_valid(self):
        verdict = extracted({"level": "soon"}, {"level": "usual"})
        assert verdict.valid is False
        assert "soon" in str(verdict.remark)

    def test_without_an_answer_all_fields_are_wrong(self):
        verdict = judge_failed(Item(Extract(LETTER, SCHEMA, PEOPLE), "1", "items.jsonl:1"))
        assert (verdict.fault, verdict.valid) == ("failed", False)
        assert [one.fault for one in verdict.fields] == ["failed"] * 5


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (None, False, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ({"a": 1, "b": [True]}, {"b": [True], "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": [1]}, {"a": [True]}, False),
    ],
)
def test_values_are_equal_as_json_says(a, b, equal):
    assert same(a, b) is same(b, a) is equal


class TestChoose:
    def asked(self, truth: str | dict[str, str], /, **probabilities: dict[str, float]) -> Verdict:
        options: dict[str, list[str]] = {name: list(own) for name, own in probabilities.items()}
        item = Item(Choose("a", options, truth), "1", "items.jsonl:1")
        answers = {name: Decision(own) for name, own in probabilities.items()}
        return judge(item, ChooseResult(answers, -1.0, 0, USAGE), [], 5)

    def test_the_likeliest_option_is_the_answer(self):
        assert self.asked("b", answer={"a": 0.3, "b": 0.7}).right
        wrong = self.asked("a", answer={"a": 0.3, "b": 0.7})
        assert wrong.fault == "wrong value", "an option is always well-formed"
        assert [(one.truth, one.probabilities) for one in wrong.decisions] == [(0, (0.3, 0.7))]

    def test_all_questions_that_have_an_answer_have_to_be_right(self):
        given = {"x": {"a": 0.9, "b": 0.1}, "y": {"c": 0.4, "d": 0.6}, "z": {"e": 0.5, "f": 0.5}}
        assert self.asked({"x": "a", "y": "d"}, **given).right
        assert self.asked({"z": "e"}, **given).right, "of equals the first"
        assert not self.asked({"x": "a", "y": "c"}, **given).right


def test_a_filled_gap_is_right_to_the_byte():
    item = Item(Fill("a", "c", "the middle"), "1", "items.jsonl:1")
    faults = {
        middle: judge(item, FillResult(**common(f"a{middle}c"), middle=middle), [], 5).fault
        for middle in ("the middle", "the middle ", "the midd", "an end")
    }
    assert list(faults.values()) == [None, "malformed", "cut", "wrong value"]


class TestGenerate:
    def test_exact(self):
        assert written("yes", Exact("yes")).right
        assert written("no", Exact("yes")).fault == "wrong value"
        assert written("yes<end>", Exact("yes")).fault == "malformed", "a marker of the model"

    def test_regex_matches_the_whole(self):
        assert written("aaa", Matching("a+")).right
        assert written("aaab", Matching("a+")).fault == "wrong value"
        assert written("aaa\n", Matching("a+")).fault == "wrong value"

    @pytest.mark.parametrize("text", ["{", "", "NaN", '{"a": Infinity}', "3 4", "[" * 100_000])
    def test_what_is_no_json_is_malformed(self, text):
        assert written(text, ValidJson({})).fault == "malformed"

    def test_json_that_is_not_valid_is_a_wrong_value(self):
        schema = {"type": "object", "required": ["a"], "properties": {"d": {"format": "date"}}}
        assert written('{"a": 1}', ValidJson(schema)).right
        assert written('{ "a" : 1, "d": "2026-02-28" }', ValidJson(json.dumps(schema))).right
        assert written("{}", ValidJson(schema)).fault == "wrong value"
        assert written('{"a": 1, "d": "2026-02-31"}', ValidJson(schema)).fault == "wrong value", "a format counts"

    @pytest.mark.slow
    def test_a_command_passes_by_its_exit_code(self):
        test = [sys.executable, "-c", "import sys; assert sys.stdin.read() == 'é right', 'not so'"]
        assert written("é right", Passing(tuple(test))).right
        wrong = written("wrong", Passing(tuple(test)))
        assert (wrong.fault, wrong.remark) == ("wrong value", "exit code 1: AssertionError: not so")

    def test_an_answer_that_its_limit_ended_is_cut(self):
        assert written("yes, be", Exact("yes"), "length").fault == "cut"
        assert written("yes", Exact("yes"), "length").right
