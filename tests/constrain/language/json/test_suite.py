"""The public JSON-Schema-Test-Suite for draft 2020-12, all of it.

Each schema compiles or is refused for a listed reason; of what compiles, exactly the valid values are accepted, but for
the listed ones that redraft does not write.
"""

import json
import re
from itertools import combinations, permutations
from pathlib import Path

import pytest

from redraft.constrain.automaton.bytes import ByteAutomaton, build
from redraft.constrain.language.json.keywords import SUPPORTED
from redraft.constrain.language.json.schema import expression
from redraft.errors import ConstraintError

FOLDER = Path(__file__).parent
GROUPS = json.loads((FOLDER / "suite.json").read_text())["groups"]
OUTCOMES = json.loads((FOLDER / "suite_outcomes.json").read_text())
REFUSED = {group: reason for reason, groups in OUTCOMES["refused"].items() for group in groups}
NARROWED = {tuple(case): reason for reason, cases in OUTCOMES["narrowed"].items() for case in cases}
ANNOTATIONS = set(OUTCOMES["annotations"])
"""Groups about 'format': 'regex', which is an annotation: their invalid values are accepted."""
COMPILED = [group for group in GROUPS if group["group"] not in REFUSED]


def text_of(value) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def name_of(group) -> str:
    return group["group"]


def reordered(automaton: ByteAutomaton, value) -> bool:
    """True if the members can be written in another order."""
    return isinstance(value, dict) and any(automaton.matches(text_of(dict(o))) for o in permutations(value.items()))


def with_fewer(automaton: ByteAutomaton, value) -> bool:
    """True if some of the members can be written, and not all of them in any order."""
    parts = [part for size in range(len(value)) for part in combinations(value.items(), size)]
    return not reordered(automaton, value) and any(reordered(automaton, dict(part)) for part in parts)


def of_no_written_type(automaton: ByteAutomaton, value) -> bool:
    """True if the text stops being possible at the first character of a value, which says of what type it is."""
    text, state = text_of(value), automaton.start
    for at, byte in enumerate(text):
        state = automaton.transitions[state, byte]
        if state == automaton.states:
            return at == 0 or text[at - 1 : at] in (b":", b"[", b",")
    return False


def whole_number_with_point(automaton: ByteAutomaton, value) -> bool:
    """True if the value can be written with its integers without a point, or the other way round."""
    text = text_of(value).decode()
    return automaton.matches(re.sub(r"\.0\b", "", text).encode()) or automaton.matches(f"{text}.0".encode())


TRUE_OF = {
    "members stand in declared order": reordered,
    "objects have no other members than declared ones where 'additionalProperties' is not stated": with_fewer,
    "keywords of one type imply it where 'type' is not stated": of_no_written_type,
    "numbers have one spelling": whole_number_with_point,
}
"""Tests of a schema that tell whether a reason is the true one."""


@pytest.mark.parametrize("group", COMPILED, ids=name_of)
def test_exactly_the_valid_values_are_accepted_but_for_listed_ones(group):
    automaton = build(expression(group["schema"]))
    for description, value, valid in group["tests"]:
        narrowed = (group["group"], description) in NARROWED
        assert valid or not narrowed
        expected = (valid and not narrowed) or (group["group"] in ANNOTATIONS and isinstance(value, str))
        assert automaton.matches(text_of(value)) == expected, description
        if narrowed and (test := TRUE_OF.get(NARROWED[group["group"], description])) is not None:
            assert test(automaton, value), (description, "is narrowed for another reason than the listed one")


@pytest.mark.parametrize("group", [group for group in GROUPS if group["group"] in REFUSED], ids=name_of)
def test_a_schema_is_refused_for_the_listed_reason_with_the_place_of_the_keyword(group):
    reason = REFUSED[group["group"]]
    with pytest.raises(ConstraintError) as refusal:
        expression(group["schema"])
    message = str(refusal.value)
    assert reason in message
    if reason == "allows nothing":
        assert not any(valid for *_, valid in group["tests"])
        return
    said = re.match(r"schema(?: at (\S*))?: (?:'([^']*)')?", message)
    pointer, named = said.groups() if said is not None else ("", None)
    place = group["schema"]
    for name in (pointer or "").split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        place = place[int(name)] if isinstance(place, list) else place[name]
    # What a condition says stands below the place that it is about.
    assert named is None or f'"{named}"' in json.dumps(place) or named == "pattern"


def test_each_supported_keyword_has_groups_that_compile_and_most_do():
    """The lists of exceptions stay exceptions: what is refused is what this package says it does not support."""
    schemas = [json.dumps(group["schema"]) for group in COMPILED]
    compiled = {
        keyword: sum(f'"{keyword}"' in schema for schema in schemas) for keyword in SUPPORTED - {"dependencies"}
    }
    assert min(compiled.values()) > 0, compiled
    assert not {keyword for keyword in SUPPORTED if f"'{keyword}' is not supported" in OUTCOMES["refused"]}
    assert {name_of(group) for group in GROUPS} >= {*REFUSED, *(group for group, _ in NARROWED)}
