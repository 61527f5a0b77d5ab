"""Constraints over the bundled sudoku's tokens, which are cells, digits and line feeds and not every byte."""

from functools import cache
from importlib.resources import files

import numpy as np
import pytest
from tokenizers import Tokenizer

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.language import regex
from redraft.constrain.language.json import schema as json_schema
from redraft.errors import ConstraintError
from tests.constrain.judges import full_match, valid_json
from tests.constrain.random_tokens import RandomTokens


@cache
def vocabulary() -> Vocabulary:
    text = (files("redraft") / "bundled/sudoku/tokenizer.json").read_text(encoding="utf-8")
    return Vocabulary.of(Tokenizer.from_str(text), 826)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{81}",
        r"([1-9]{9}\n){9}",
        r"(<r[1-9]c[1-9]=[1-9.]>)*",
        r"(?:\d|<r1c\d=[1-9]>|\s){0,30}",
        "<r5c5=[^.13579]>7?",
    ],
)
def test_walks_match_their_pattern(pattern: str):
    automaton = byte_automaton.build(regex.parse(pattern))
    walks, chance = RandomTokens(token_automaton.build(automaton, vocabulary(), [1])), np.random.default_rng(0)
    for _ in range(200):
        text = vocabulary().spell(walks.draw(chance, 90))
        assert full_match(pattern, text), text


@pytest.mark.parametrize("schema", [{"type": "integer", "minimum": 9, "maximum": 9120}, {"enum": [1, 22, 2345, "a"]}])
def test_of_a_schema_what_the_tokens_can_spell_is_written(schema):
    automaton = byte_automaton.build(json_schema.expression(schema))
    walks, chance = RandomTokens(token_automaton.build(automaton, vocabulary(), [1])), np.random.default_rng(0)
    assert all(valid_json(schema, vocabulary().spell(walks.draw(chance))) for _ in range(200))


def test_a_schema_that_the_tokens_cannot_spell_is_refused():
    automaton = byte_automaton.build(json_schema.expression({"type": "object"}))
    with pytest.raises(ConstraintError, match="cannot spell any text"):
        token_automaton.build(automaton, vocabulary(), [1])
