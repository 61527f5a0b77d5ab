"""Constraints as users make them: equal ones are equal, wrong ones are refused where they are made or compiled."""

import json
import re
from typing import Any

import pytest

from redraft import Choice, ConstraintError, Hole, JSONSchema, Regex, Template
from redraft.constrain.automaton import bytes as byte_automaton


def anything(value: object) -> Any:
    """A value of a type that the signature does not have, as a user may pass it."""
    return value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Choice(anything(5)), "options 5 must be one text or more"),
        (lambda: Choice("yes"), "options 'yes' must be one text or more"),
        (lambda: Choice([]), r"options \[\] must be"),
        (lambda: Choice(anything(["a", 5])), "options .* must be"),
        (lambda: Regex(anything(5)), "pattern 5 must be a text"),
        (lambda: Regex("(a").expression, "never closed"),
        (lambda: Regex("\ud800").expression, "half a surrogate pair"),
        (lambda: JSONSchema(anything({1, 2})), "the schema is not JSON"),
        (lambda: JSONSchema(anything(None)).expression, "a schema must be an object"),
        (lambda: JSONSchema('{"a":').expression, "not JSON at line 1, column 6"),
        (
            lambda: JSONSchema({"type": "string", "unevaluatedItems": False}).expression,
            "'unevaluatedItems' is not supported",
        ),
        (lambda: JSONSchema({}, whitespace=anything("x")).expression, "whitespace 'x' is unknown"),
        (lambda: JSONSchema({}, whitespace=anything(["x"])), r"whitespace \['x'\] must be"),
        (lambda: JSONSchema({}, depth=anything("a")).expression, "depth 'a' must be an integer"),
        (lambda: Template(anything(5)), "template 5 must be a text"),
        (lambda: Template("{a}", anything(5)), "holes 5 must be a mapping"),
        (lambda: Template("{a}", anything({"a": "[a-z]"})), r"hole {a} is '\[a-z\]'; it must be a Hole"),
        (lambda: Template("{a}", {"b": Hole()}).expression, "the text has no hole {b}"),
        (lambda: Template("{a").expression, "a brace that is neither"),
        (lambda: Hole(regex=anything(5)), "regex 5 must be a text"),
        (lambda: Hole(type=anything(["word"])), r"hole type \['word'\] is unknown"),
        (lambda: Hole(choices=anything(5)), "choices 5 must be several texts"),
        (lambda: Hole(choices=anything("yes")), "choices 'yes' must be several texts"),
        (lambda: Hole(choices=()), "choices is empty"),
        (lambda: Hole(type="word", regex="a"), "a hole has regex and type"),
        (lambda: byte_automaton.build(Choice(["a\ud800"]).expression), "surrogate"),
        (lambda: byte_automaton.build(Template("a\ud800{b}").expression), "surrogate"),
    ],
)
def test_a_constraint_that_is_none_is_refused_by_name(make, words: str) -> None:
    with pytest.raises(ConstraintError, match=words):
        make()


def test_equal_constraints_are_equal_and_hash_alike() -> None:
    pairs = [
        (JSONSchema({"type": "string"}), JSONSchema('{"type": "string"}')),
        (Regex("a"), Regex("a")),
        (Choice(["a", "b"]), Choice(x for x in "ab")),
        (Template("{a}", {"a": Hole(choices=anything(["x"]))}), Template("{a}", {"a": Hole(choices=("x",))})),
    ]
    for one, other in pairs:
        assert one == other
        assert hash(one) == hash(other)
    different = [
        (JSONSchema({"a": 1}), JSONSchema({"a": 1}, whitespace="free")),
        (JSONSchema({"a": 1}), JSONSchema({"a": 1}, depth=2)),
        (Template("{a}", {"a": Hole(choices=anything(["x"]))}), Template("{a}", {"a": Hole(choices=anything(["y"]))})),
    ]
    assert all(one != other for one, other in different)


def test_the_order_of_members_in_a_schema_is_part_of_it() -> None:
    one, other = ({"type": "object", "properties": {n: {"const": 1} for n in names}} for names in ("ab", "ba"))
    assert JSONSchema(one) != JSONSchema(other)
    assert byte_automaton.build(JSONSchema(one).expression).matches(b'{"a":1,"b":1}')
    assert byte_automaton.build(JSONSchema(other).expression).matches(b'{"b":1,"a":1}')
    assert JSONSchema(json.dumps(one)) == JSONSchema(one)


def test_a_template_does_not_change_with_the_mapping_it_was_made_from() -> None:
    """It is compiled once, and kept by what it is."""
    holes = {"a": Hole(choices=("x",))}
    template = Template("{a}!", holes)
    holes["a"] = Hole(choices=("y",))
    assert template.values("x!") == {"a": "x"}


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Choice(["a", "ab", ""]), "a|ab|"),
        (Regex("a+b?"), "a+b?"),
        (Template("<{x}>{{{y}}}", {"x": Hole(regex="a*"), "y": Hole(choices=("a", "bb"))}), r"<a*>\{(a|bb)\}"),
        (JSONSchema({"enum": [1, "a", None]}), '1|"a"|null'),
    ],
)
def test_the_texts_are_those_of_the_pattern(constraint, pattern: str) -> None:
    texts = byte_automaton.build(constraint.expression)
    candidates = ["", "a", "ab", "aab", "b", "<a>{a}", "<>{bb}", "<aa>{b}", "1", '"a"', "null", "2"]
    for text in candidates:
        assert texts.matches(text.encode()) == (re.fullmatch(pattern, text) is not None), text
