"""Constraints with large counts: exact where they fit, and otherwise no text that is not allowed."""

import json
import random
from itertools import pairwise, product
from typing import Any

import jsonschema
import pytest

from redraft.constrain.automaton import fitting
from redraft.constrain.automaton.limits import Limits, TooLargeError
from redraft.constrain.constraint import Choice, JSONSchema
from redraft.constrain.language import regex
from tests.constrain.random_texts import RandomTexts

ITEM = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 200}}, "required": ["name"]}


def text_of(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.slow
def test_long_strings_are_exact() -> None:
    length = 2083
    fitted = fitting.build(JSONSchema({"type": "string", "maxLength": length}).expression)
    assert (fitted.max_bytes, fitted.lowered) == (None, False)
    for count, allowed in [(0, True), (length, True), (length + 1, False)]:
        assert fitted.automaton.matches(text_of("a" * count)) == allowed
        assert fitted.automaton.matches(f'"{"é" * count}"'.encode()) == allowed


def test_a_long_uri_is_exact() -> None:
    """Two counts at once: of the characters, and of what a URI has room for after them."""
    fitted = fitting.build(JSONSchema({"type": "string", "format": "uri", "maxLength": 2083}).expression)
    assert (fitted.max_bytes, fitted.lowered) == (None, False)
    for start in ("a:", "https://e.xy/", "urn:x?%C3%A9#"):
        for length, allowed in [(2082, True), (2083, True), (2084, False), (3000, False)]:
            assert fitted.automaton.matches(text_of(start.ljust(length, "b"))) == allowed
    # A scheme that goes on for so long leaves no room for what must follow it.
    assert fitted.automaton.matches(text_of("a" * 2082 + ":"))
    assert not fitted.automaton.matches(text_of("a" * 2083))
    assert not fitted.automaton.matches(text_of("a:".ljust(2081, "b") + "%C3"))


def test_a_count_that_no_answer_reaches_is_not_kept() -> None:
    """The automaton says up to how many bytes it is right."""
    fitted = fitting.build(JSONSchema({"type": "string", "maxLength": 65536}).expression)
    assert (fitted.max_bytes, fitted.lowered) == (65536, False)
    assert fitted.automaton.matches(text_of("a" * 65000))


@pytest.mark.slow
def test_many_items_with_long_strings_are_fewer_items() -> None:
    schema = {"type": "array", "maxItems": 100, "items": ITEM}
    fitted = fitting.build(JSONSchema(schema).expression)
    assert fitted.lowered
    assert fitted.automaton.matches(text_of([{"name": "a" * 200}, *[{"name": ""}] * 9]))
    assert not fitted.automaton.matches(text_of([{"name": "a" * 201}]))
    judge, chance, texts = jsonschema.Draft202012Validator(schema), random.Random(0), RandomTexts(fitted.automaton)
    for _ in range(20):
        assert judge.is_valid(json.loads(texts.draw(chance)))


def test_each_try_is_a_part_of_the_one_before() -> None:
    """A repeat of repeats shows it, over all short texts."""
    limits = Limits(states=6000)
    tries = list(fitting.attempts(regex.parse("(a{0,90}b){0,300}"), limits))
    assert len(tries) == 2
    assert all(one.lowered for one in tries)
    texts = ["".join(letters).encode() for size in range(8) for letters in product("ab", repeat=size)]
    accepted = [{text for text in texts if one.automaton.matches(text)} for one in tries]
    assert all(after <= before for before, after in pairwise(accepted))
    assert [one.automaton.states for one in tries] == sorted({one.automaton.states for one in tries}, reverse=True)


def test_tries_that_all_fail_are_told_by_the_first() -> None:
    with pytest.raises(TooLargeError, match="needs more than 100 states before it is minimised"):
        fitting.build(regex.parse("(a|b)*a(a|b){12}c{0,2000}"), Limits(states=50))


def words(count: int, seed: int) -> list[str]:
    """Different words such as a dictionary has, of syllables."""
    chance = random.Random(seed)
    syllables = [a + b + c for a in ("", *"bdfgklmnprst") for b in "aeiou" for c in ("", *"lmnrst")]
    found = dict[str, None]()
    while len(found) < count:
        found["".join(chance.choices(syllables, k=chance.randint(2, 4)))] = None
    return list(found)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True], ids=["choice of 20,000", "enum of 15,000"])
def test_many_texts_are_exact(inside: bool) -> None:
    given = words(15_000 if inside else 20_000, 1)
    schema = {"type": "object", "properties": {"a": {"enum": given}}, "required": ["a"]}
    fitted = fitting.build((JSONSchema(schema) if inside else Choice(given)).expression)
    known = set(given)
    near = {word + "a" for word in given[:2000]} | {word[:-1] for word in given[:2000]} | set(words(2000, 2))
    for word in [*given, *near]:
        text = text_of({"a": word}) if inside else word.encode()
        assert fitted.automaton.matches(text) == (word in known)
