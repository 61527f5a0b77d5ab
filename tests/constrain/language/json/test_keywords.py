"""Each keyword by hand: what it allows is written and valid to the jsonschema package, what it forbids is refused."""

import json
import random
from typing import Any

import jsonschema
import pytest
from jsonschema.validators import validator_for

from redraft import JSONSchema
from redraft.constrain.automaton import fitting
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.language.json import document
from redraft.constrain.language.json.keywords import SUPPORTED
from redraft.errors import ConstraintError
from tests.constrain.random_texts import RandomTexts

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
INTEGER, STRING, OBJECT, ARRAY = ({"type": name} for name in ("integer", "string", "object", "array"))
CAT = {"type": "object", "properties": {"kind": {"const": "cat", "default": "cat"}, "lives": INTEGER}}
DOG = {"type": "object", "properties": {"kind": {"const": "dog", "default": "dog"}, "lives": INTEGER}}
PET = {"oneOf": [CAT, DOG]}
A_OR_B = {"properties": {"a": INTEGER, "b": INTEGER}, "type": "object"}
KIND_AND_SIZE = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "size": INTEGER, "name": STRING}}

# Schema, valid values that are written, invalid values.
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"not": STRING}, [1, None, [], {}], ["", "a"]),
    ({**STRING, "not": {"enum": ["a", "b"]}}, ["", "c", "ab"], ["a", "b"]),
    ({**STRING, "not": {"pattern": "^a"}}, ["", "ba"], ["a", "ab"]),
    ({**STRING, "not": {"minLength": 2}}, ["", "a"], ["ab"]),
    ({"type": "number", "not": {"const": 1}}, [0, 2, 1.5, 10], [1, 1.0]),
    ({"type": "number", "not": INTEGER}, [1.5, -0.25], [1, 0, -3]),
    ({"type": ["boolean", "null"], "not": {"enum": [True, None]}}, [False], [True, None]),
    ({**INTEGER, "not": {"minimum": 3}}, [2, -9], [3, 4]),
    ({**OBJECT, "not": {"required": ["a"]}}, [{}, {"b": 1}], [{"a": 1}]),
    ({**A_OR_B, "not": {"required": ["a", "b"]}}, [{}, {"a": 1}, {"b": 1}], [{"a": 1, "b": 1}]),
    ({**ARRAY, "items": INTEGER, "not": {"maxItems": 1}}, [[1, 2]], [[], [1]]),
    ({**ARRAY, "items": INTEGER, "not": {"contains": {"const": 1}}}, [[], [2]], [[1], [2, 1]]),
    ({**ARRAY, "items": INTEGER, "not": {"items": {"minimum": 0}}}, [[-1], [1, -1]], [[], [1]]),
    ({"not": {"anyOf": [STRING, INTEGER]}}, [None, 1.5], ["", 1]),
    ({**A_OR_B, "not": {"properties": {"a": {"const": 1}}, "additionalProperties": False}}, [{"a": 2}, {"b": 1}], [{}]),
    (
        {**KIND_AND_SIZE, "if": {"properties": {"kind": {"const": "a"}}}, "then": {"required": ["size"]}},
        [{"kind": "a", "size": 1}, {"kind": "b"}, {"size": 1}],
        [{}, {"kind": "a"}],
    ),
    (
        {**KIND_AND_SIZE, "if": {"required": ["size"]}, "else": {"required": ["name"]}},
        [{"size": 1}, {"name": "x"}],
        [{}, {"kind": "a"}],
    ),
    ({"if": {"const": 1}, "then": False, **INTEGER}, [2, 0], [1]),
    ({**A_OR_B, "dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
    (
        {**A_OR_B, "dependentSchemas": {"a": {"properties": {"b": {"const": 1}}}}},
        [{"a": 2, "b": 1}, {"b": 2}],
        [{"a": 1, "b": 2}],
    ),
    (
        {"$schema": DRAFT_7, **A_OR_B, "dependencies": {"a": ["b"], "b": {"properties": {"b": {"minimum": 2}}}}},
        [{}, {"b": 2}, {"a": 1, "b": 2}],
        [{"a": 1}, {"b": 1}],
    ),
    (
        {**OBJECT, "patternProperties": {"^x": INTEGER}, "additionalProperties": {"type": "null"}},
        [{"x": 1, "y": None}, {}, {"xx": 2}],
        [{"x": None}, {"y": 1}],
    ),
    (
        {**OBJECT, "patternProperties": {"^x": INTEGER, "y$": {"minimum": 5}}, "additionalProperties": False},
        [{"x": 1}, {"xy": 7}],
        [{"xy": 2}, {"z": 1}],
    ),
    ({**OBJECT, "properties": {"xa": {}}, "patternProperties": {"^x": INTEGER}}, [{"xa": 1}], [{"xa": "s"}]),
    ({**OBJECT, "propertyNames": {"pattern": "^[a-c]+$"}, "additionalProperties": INTEGER}, [{"ab": 1}], [{"d": 1}]),
    ({**OBJECT, "propertyNames": {"enum": ["p", "q"]}, "additionalProperties": INTEGER}, [{"p": 1}], [{"r": 1}]),
    ({**OBJECT, "propertyNames": STRING, "additionalProperties": INTEGER}, [{"anything": 1}], [{"a": "s"}]),
    ({**A_OR_B, "minProperties": 1}, [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}], [{}]),
    ({**A_OR_B, "maxProperties": 1}, [{}, {"a": 1}, {"b": 1}], [{"a": 1, "b": 2}]),
    ({**OBJECT, "additionalProperties": INTEGER, "minProperties": 1, "maxProperties": 2}, [{"p": 1}], [{}]),
    ({**ARRAY, "items": {"enum": [1, 2, 3]}, "uniqueItems": True}, [[], [2, 1], [3, 1, 2]], [[1, 1], [1, 2, 1]]),
    ({**ARRAY, "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 2}, [[True, False]], [[True, True]]),
    ({**ARRAY, "items": STRING, "uniqueItems": True, "maxItems": 1}, [[], ["a"]], [["a", "a"]]),
    # Of many values, as many as may stand there at once.
    (
        {**ARRAY, "items": {"enum": [*range(40)]}, "uniqueItems": True, "maxItems": 2},
        [[], [39], [0, 39], [39, 0]],
        [[3, 3], [40], [1, 2, 3], [3, 3, 4]],
    ),
    (
        {**ARRAY, "items": {"type": "integer", "minimum": 1, "maximum": 20}, "uniqueItems": True, "maxItems": 3},
        [[20, 1, 2], [7], [20, 2]],
        [[2, 1, 2], [20, 20], [21], [1, 2, 3, 4]],
    ),
    ({**ARRAY, "items": INTEGER, "contains": {"const": 7}}, [[7], [1, 7, 2]], [[], [1]]),
    (
        {**ARRAY, "items": INTEGER, "contains": {"const": 7}, "minContains": 2, "maxContains": 2},
        [[7, 7], [7, 1, 7]],
        [[7], [7, 7, 7]],
    ),
    ({**INTEGER, "multipleOf": 7}, [0, 7, -14, 490], [1, 48]),
    ({**INTEGER, "multipleOf": 25, "minimum": 30, "maximum": 110}, [50, 75, 100], [25, 125, 51]),
    ({"oneOf": [INTEGER, {"type": "number", "minimum": 0}]}, [-1, 1.5], [1]),
    ({**A_OR_B, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ({**STRING, "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["a", "b"], ["ab", "x"]),
    (PET, [{"kind": "cat", "lives": 9}, {"kind": "dog"}], [{}, {"lives": 9}]),
    ({**PET, "discriminator": {"propertyName": "kind"}}, [{"kind": "cat"}, {"kind": "dog", "lives": 1}], [{}]),
    (
        {"$schema": DRAFT_4, **ARRAY, "items": [{**INTEGER, "minimum": 0, "exclusiveMinimum": True}]}
        | {"additionalItems": False},
        [[], [1]],
        [[0], [1, 2]],
    ),
    ({"$id": "https://example.org/a", "$ref": "#here", "$defs": {"x": {"$anchor": "here", **INTEGER}}}, [1], ["1"]),
    ({"$id": "https://example.org/a", "$ref": "b", "$defs": {"x": {"$id": "b", **INTEGER}}}, [1], ["1"]),
    (
        {
            "$id": "https://example.org/a",
            **OBJECT,
            "properties": {"a": {"$ref": "a#/$defs/x"}},
            "$defs": {"x": INTEGER},
        },
        [{"a": 1}],
        [{"a": "1"}],
    ),
    ({"$schema": DRAFT_7, "$ref": "#/definitions/x", "type": "string", "definitions": {"x": INTEGER}}, [1], ["1"]),
    ({**INTEGER, "$defs": {"unused": {"unevaluatedItems": False, "pattern": "("}}}, [1], ["1"]),
]
CASES += [
    ({**STRING, "format": name}, good.split(), bad.split())
    for name, good, bad in [
        ("duration", "P1D PT2H3M P3W P1Y2M10DT2H", "P PT 1D P1S"),
        ("ipv6", "::1 2001:db8::7 1:2:3:4:5:6:7:8 ::ffff:1.2.3.4 fe80::", "1 ::: 1:2:3 ::1%eth0 g::1"),
        ("hostname", "a example.org a-b.c", "-a a- a..b a_b"),
        ("uri-reference", "a/b #x /p?q https://e.org/ ?x", "\\\\x #a\\b"),
        ("json-pointer", "/a/b /~0~1 /", "a /~2 #/a"),
        ("relative-json-pointer", "0# 1/a 10/b/c", "/a -1/b 01/a"),
        ("iri", "https://example.org/é", "é"),
        ("uri-template", "/a/{b} {?x,y*}", "{ {a,,b}"),
    ]
]


def compiled(schema: Any) -> ByteAutomaton:
    return fitting.build(JSONSchema(schema).expression).automaton


def text_of(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(("schema", "good", "bad"), CASES, ids=lambda part: json.dumps(part)[:60])
def test_what_is_written_is_valid_and_what_is_valid_can_be_written(schema: Any, good: list[Any], bad: list[Any]):
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    judge = kind(schema, format_checker=kind.FORMAT_CHECKER)
    automaton = compiled(schema)
    for value in good:
        assert (judge.is_valid(value), automaton.matches(text_of(value))) == (True, True), value
    for value in bad:
        assert (judge.is_valid(value), automaton.matches(text_of(value))) == (False, False), value
    chance, texts = random.Random(0), RandomTexts(automaton)
    for _ in range(12):
        text = texts.draw(chance)
        assert judge.is_valid(json.loads(text)), text


def test_the_cases_and_the_random_schemas_have_every_keyword():
    written = json.dumps([schema for schema, _, _ in CASES])
    drawn = {"$ref", "allOf", "const", "exclusiveMaximum", "maxLength", "prefixItems"}
    assert not {keyword for keyword in SUPPORTED - drawn if f'"{keyword}"' not in written}


def test_unknown_keywords_and_formats_change_nothing_and_are_told():
    constraint = JSONSchema(
        {"properties": {"a": {**STRING, "nullable": True, "format": "color"}}, "x-order": 1, "$comment": "c", **OBJECT}
    )
    assert set(constraint.ignored) == {"x-order", "nullable at /properties/a", "format 'color' at /properties/a"}
    plain = compiled({"properties": {"a": STRING}, **OBJECT})
    assert compiled(json.loads(constraint.schema)).transitions.tolist() == plain.transitions.tolist()


def test_a_keyword_that_a_draft_does_not_know_says_nothing_there():
    assert JSONSchema({"$schema": DRAFT_4, **INTEGER, "const": 1}).ignored == ("const",)
    assert compiled({"$schema": DRAFT_4, **INTEGER, "const": 1}).matches(b"2")


def test_other_documents_come_from_a_registry_or_a_resolver_and_are_bundled():
    """What was bundled is a schema of its own: the jsonschema package follows its references."""
    registry = {"https://e.org/a": {"$schema": DRAFT_7, "definitions": {"n": {"$ref": "b#"}}}}
    asked: list[str] = []

    def resolver(uri: str) -> str | None:
        asked.append(uri)
        return json.dumps(INTEGER) if uri == "https://e.org/b" else None

    schema = {**ARRAY, "items": {"$ref": "https://e.org/a#/definitions/n"}}
    constraint = JSONSchema(schema, registry=registry, resolver=resolver)
    assert asked == ["https://e.org/b"]
    automaton = fitting.build(constraint.expression).automaton
    judge = jsonschema.Draft202012Validator(json.loads(constraint.schema))
    for value, valid in [([1, 2], True), (["x"], False)]:
        assert automaton.matches(text_of(value)) == judge.is_valid(value) == valid
    for broken in (lambda: JSONSchema(schema).expression, lambda: JSONSchema(schema, registry={})):
        with pytest.raises(ConstraintError, match=r"schema at /items: '\$ref' .* another document, https://e.org/a;"):
            broken()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"unevaluatedProperties": False}, "schema: 'unevaluatedProperties' is not supported; name all"),
        ({**ARRAY, "items": STRING, "uniqueItems": True}, "'uniqueItems' is supported for items of a few values"),
        (
            {**ARRAY, "items": {"enum": list(range(40))}, "uniqueItems": True},
            "up to 10 values, or more with a small 'maxItems'; there are 40",
        ),
        ({"type": "number", "multipleOf": 0.1}, "'multipleOf' is supported only for integers"),
        ({**OBJECT, "additionalProperties": {}, "minProperties": 3}, "'minProperties' 3 is supported up to the number"),
        ({"not": {**ARRAY, "items": STRING, "uniqueItems": True}}, "the contrary of 'uniqueItems'"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "'$schema' names draft 3"),
        ({"$ref": "#nowhere"}, "'$ref' '#nowhere' leads to no schema"),
        ({"not": {}}, "allows nothing"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(schema: Any, message: str):
    with pytest.raises(ConstraintError) as refusal:
        compiled(schema)
    assert message in str(refusal.value)


def test_conditions_that_multiply_are_refused_by_a_count_of_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(document, "_MAX_MERGED", 200)
    options = [{"oneOf": [{"required": [f"{n}{m}"]} for m in range(4)]} for n in range(6)]
    with pytest.raises(ConstraintError, match="more than 200 places"):
        compiled({**OBJECT, "allOf": options})
