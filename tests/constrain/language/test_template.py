"""Templates compared with Python's re, brute-force readings and round trips."""

import itertools
import json
import random
import re
from typing import Any

import pytest

from redraft.constrain.automaton.bytes import build
from redraft.constrain.language import template
from redraft.constrain.language.template import Hole
from redraft.errors import ConstraintError
from tests.constrain.random_texts import RandomTexts

HOLES = {
    "name": Hole(type="word", max_length=5),
    "age": Hole(type="integer"),
    "mood": Hole(choices=("good", "bad", "not {so} bad")),
    "code": Hole(regex="[A-Z]{2}[0-9]*"),
    "note": Hole(type="line"),
    "rest": Hole(),
}
TEXT = "{{{name}}}, {age} years: {mood}/{code}\n{note}\n{rest}"


def test_a_template_writes_the_frame_with_each_hole_filled_in():
    """Random texts of a template with every kind of frame character, and the same template as a regular expression."""
    pattern = (
        r"\{(?P<name>\S{1,5})\}, (?P<age>0|-?[1-9]\d*) years: (?P<mood>good|bad|not \{so\} bad)/(?P<code>[A-Z]{2}\d*)\n"
        r"(?P<note>[^\n]*)\n(?P<rest>(?s:.*))"
    )
    texts, chance = RandomTexts(build(template.expression(TEXT, HOLES))), random.Random(0)
    for _ in range(200):
        text = texts.draw(chance, 80).decode()
        assert re.fullmatch(pattern, text), text


def test_what_was_filled_in_is_read_back():
    values = {"name": "Zoë", "age": "-7", "mood": "not {so} bad", "code": "AB12", "note": "", "rest": "a\nb {x}\n"}
    text = TEXT.format(**values)
    assert template.values(TEXT, HOLES, text) == values
    assert build(template.expression(TEXT, HOLES)).matches(text.encode())


PARTS = {"a": Hole(regex="[xy]*"), "b": Hole(regex="(x|yy)*"), "c": Hole(type="string", min_length=1)}


@pytest.mark.parametrize("text", ["{a}{b}{c}", "{c}{b}x{a}", "x{a}y{b}y{c}", "{b}{a}y{c}"])
def test_an_ambiguous_text_is_read_with_the_leftmost_hole_shortest(text: str):
    """All texts of x and y up to length 5: Python's lazy groups say the same, or that there is no reading."""
    pattern = re.sub(r"\{(\w)\}", lambda match: {"a": "([xy]*?)", "b": "((?:x|yy)*?)", "c": "(.+?)"}[match[1]], text)
    names = re.findall(r"\{(\w)\}", text)
    for count in range(6):
        for characters in itertools.product("xy", repeat=count):
            produced = "".join(characters)
            expected = re.fullmatch(pattern, produced)
            if expected:
                assert template.values(text, PARTS, produced) == dict(zip(names, expected.groups(), strict=True))
            else:
                with pytest.raises(ConstraintError, match="not produced from this template"):
                    template.values(text, PARTS, produced)


@pytest.mark.parametrize(
    ("hole", "good", "bad"),
    [
        (Hole(type="integer"), ["0", "-12"], ["", "01", "1.5", "-0"]),
        (Hole(type="number"), ["0", "-1.5", "2e3"], ["", ".5", "nan"]),
        (Hole(type="boolean"), ["true", "false"], ["True", ""]),
        (Hole(type="string"), ["", "a\nb", "é😀"], []),
        (Hole(type="line"), ["", "a b"], ["a\n", "\u2028", "\r"]),
        (Hole(type="word"), ["a", "é,"], ["", "a b", "a\u00a0", "\t", "\u3000"]),
        (Hole(type="json"), ["1", '"a"', "[]", '{"a":[{}]}'], ["", "[1, 2]", "[[[[1]]]]"]),
        (Hole(type="word", min_length=2, max_length=3), ["ab", "é😀x"], ["a", "abcd", "a b"]),
        (Hole(max_length=2), ["", "ab", "😀😀"], ["abc"]),
        (Hole(regex="a*", min_length=2), ["aa", "aaaaa"], ["a"]),
        (Hole(choices=("yes", "no"), max_length=2), ["no"], ["yes"]),
    ],
)
def test_each_kind_of_hole_takes_its_texts(hole: Hole, good: list[str], bad: list[str]):
    automaton = build(template.expression("<{x}>", {"x": hole}))
    assert all(automaton.matches(f"<{text}>".encode()) for text in good)
    assert not any(automaton.matches(f"<{text}>".encode()) for text in bad)


def test_every_json_hole_text_is_json():
    texts, chance = RandomTexts(build(template.expression("{x}", {"x": Hole(type="json")}))), random.Random(1)
    for _ in range(100):
        json.loads(texts.draw(chance))


@pytest.mark.parametrize(
    ("text", "holes", "message"),
    [
        ("a {x}", {}, "the hole {x} is not described"),
        ("a", {"x": Hole()}, "the text has no hole {x}"),
        ("{x} {x}", {"x": Hole()}, "the hole {x} stands there twice"),
        ("a { b", {}, "position 2 (at '{ b'): a brace"),
        ("a } b", {}, "position 2"),
        ("{1x}", {}, "position 0"),
        ("{x", {"x": Hole()}, "position 0"),
        ("{x}", {"x": Hole(regex="(")}, "the hole {x}: regular expression, position 0"),
    ],
)
def test_what_is_wrong_with_a_template_is_said(text: str, holes: dict[str, Hole], message: str):
    for refused in (lambda: template.expression(text, holes), lambda: template.values(text, holes, "")):
        with pytest.raises(ConstraintError) as error:
            refused()
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regex": "a", "type": "word"}, "regex and type; give one"),
        ({"type": "float"}, "'float' is unknown; use one of integer"),
        ({"choices": ()}, "choices is empty"),
        ({"choices": "yes"}, "must be several texts"),
        ({"choices": (1, 2)}, "must be several texts"),
        ({"min_length": -1}, "min_length -1 must be an integer, 0 or more"),
        ({"max_length": True}, "max_length True"),
        ({"min_length": 3, "max_length": 2}, "min_length 3 is above max_length 2"),
    ],
)
def test_what_is_wrong_with_a_hole_is_said(fields: dict[str, Any], message: str):
    with pytest.raises(ConstraintError, match=message):
        Hole(**fields)
