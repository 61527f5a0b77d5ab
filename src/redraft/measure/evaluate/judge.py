"""Judgement: what came of an item against what is right, and the kind of what is wrong."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from redraft.calibrate.choice import Decided, decisions
from redraft.constrain.language.json.spans import Key, leaves
from redraft.engine.result import Result
from redraft.measure.evaluate.commands import run_command
from redraft.measure.evaluate.faults import FAILED, WRONG_VALUE, Fault, text_fault, value_fault
from redraft.measure.evaluate.items import (
    Choose,
    Exact,
    Extract,
    Fill,
    Generate,
    Item,
    Matching,
    Passing,
    ValidJson,
)
from redraft.measure.evaluate.schemas import enumerated, faults
from redraft.tasks.choose import ChooseResult
from redraft.tasks.extract import Extraction
from redraft.tasks.fill import FillResult

_ABSENT = object()


@dataclass(frozen=True)
class FieldVerdict:
    """A leaf of the JSON that is right, or one that the answer has in a place where there is none."""

    pointer: str
    """JSON pointer (RFC 6901)."""
    pattern: str
    """The pointer with a * for every index of an array, under which the fields of many items are counted together."""
    type: str
    """The JSON type of the right value; that of the answer's where there is none."""
    fault: Fault | None
    """None for a right field."""
    confidence: float | None = None
    """The confidence that the answer was given with; None without one, and where the answer does not have the field."""


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer."""

    fault: Fault | None
    """None for a right answer. Of several wrong fields, the first artefact counts."""
    fields: tuple[FieldVerdict, ...] = ()
    """The fields of an extraction."""
    decisions: tuple[Decided, ...] = ()
    """The questions of a decision, with their probabilities."""
    valid: bool | None = None
    """True for an extraction whose JSON is valid under the schema; None for other verbs."""
    remark: str | None = None
    """The objection of a schema or a command."""

    @property
    def right(self) -> bool:
        """True where nothing is wrong."""
        return self.fault is None


def judge(item: Item, result: Any, markers: Collection[str], seconds: float) -> Verdict:
    """Judge what an engine's verb gave. ``markers``: texts of the model's special tokens. ``seconds``: what a command
    may take."""
    match item.asked, result:
        case Extract() as asked, Extraction():
            return _judge_extraction(asked, result, markers)
        case Choose() as asked, ChooseResult():
            decided = tuple(decisions(result.answers, asked.answer, item.place))
            return Verdict(None if all(one.right for one in decided) else WRONG_VALUE, decisions=decided)
        case Fill() as asked, FillResult():
            return _judge_text(result.middle, asked.answer, markers)
        case Generate() as asked, Result():
            return _judge_generated(asked, result, markers, seconds)
    raise TypeError(f"{item.verb} does not give a {type(result).__name__}")


def judge_failed(item: Item) -> Verdict:
    """Judge an item that has no answer: it is wrong, and so is each of its fields and questions."""
    match item.asked:
        case Extract(value=value):
            fields = [_field(path, truth, FAILED) for path, truth in _leaves(json.dumps(value)).items()]
            return Verdict(FAILED, tuple(fields), valid=False)
    return Verdict(FAILED)


def same(a: Any, b: Any) -> bool:
    """Tell whether two JSON values are equal: true is not 1, 1 is 1.0, and keys have no order."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _judge_extraction(asked: Extract, result: Extraction, markers: Collection[str]) -> Verdict:
    # Off the text: a number that is too large for Python's would not survive being written again.
    truth, answer = _leaves(json.dumps(asked.value)), _leaves(result.text)
    options = enumerated(asked.schema)
    judged = []
    for path, right in truth.items():
        given = answer.get(path, _ABSENT)
        if given is _ABSENT:
            judged.append(_field(path, right, WRONG_VALUE))
        elif same(given, right):
            judged.append(_field(path, right, None))
        else:
            judged.append(_field(path, right, value_fault(given, right, asked.text, options, markers)))
    # An empty array where one with values is right, or the other way round, is wrong once and not twice.
    extra = [path for path in answer if not any(_is_within(path, own) or _is_within(own, path) for own in truth)]
    judged += [_field(path, answer[path], WRONG_VALUE) for path in extra]
    judged = [replace(one, confidence=result.confidence.get(one.pointer)) for one in judged]
    wrong = [one.fault for one in judged if one.fault is not None]
    fault = next((one for one in wrong if one != WRONG_VALUE), wrong[0] if wrong else None)
    remark = faults(asked.schema, result.value)
    return Verdict(fault, tuple(judged), valid=remark is None, remark=remark)


def _judge_text(
    text: str, truth: str | None, markers: Collection[str], right: bool | None = None, remark: str | None = None
) -> Verdict:
    right = text == truth if right is None else right
    return Verdict(None if right else text_fault(text, truth, markers=markers), remark=remark)


def _judge_generated(asked: Generate, result: Result, markers: Collection[str], seconds: float) -> Verdict:
    text = result.text
    match asked.expected:
        case Exact(text=truth):
            verdict = _judge_text(text, truth, markers)
        case Matching(pattern=pattern):
            verdict = _judge_text(text, None, markers, re.fullmatch(pattern, text) is not None)
        case ValidJson(schema=schema):
            verdict = _judge_json(text, schema)
        case Passing(command=command):
            remark = run_command(command, text, seconds)
            verdict = _judge_text(text, None, markers, remark is None, remark)
    if verdict.fault == WRONG_VALUE and result.finish_reason == "length":
        return Verdict("cut", remark=verdict.remark)
    return verdict


def _judge_json(text: str, schema: Mapping[str, Any] | str) -> Verdict:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Verdict("malformed", remark=f"not JSON: {error}")
    remark = faults(schema, value)
    return Verdict(None if remark is None else WRONG_VALUE, remark=remark)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _leaves(text: str) -> dict[tuple[Key, ...], Any]:
    return {leaf.path: leaf.value for leaf in leaves(text)}


def _is_within(path: tuple[Key, ...], other: tuple[Key, ...]) -> bool:
    return path[: len(other)] == other


def _field(path: tuple[Key, ...], value: Any, fault: Fault | None) -> FieldVerdict:
    names = [str(key).replace("~", "~0").replace("/", "~1") for key in path]
    stars = ["*" if isinstance(key, int) else name for key, name in zip(path, names, strict=True)]
    pointer, pattern = ("".join(f"/{part}" for part in parts) for parts in (names, stars))
    return FieldVerdict(pointer, pattern, json_type(value), fault)


def json_type(value: Any) -> str:
    """Name the JSON type of a value; a number without a fraction is an integer."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"
