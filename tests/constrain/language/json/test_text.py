"""From a schema to text by all the parts in turn: what inference picks from a compiled schema is valid JSON."""

import json

import jsonschema
import numpy as np
import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.inference.chain import ClassSums, end_potential
from redraft.constrain.language.json import schema as json_schema
from redraft.errors import ConstraintError
from redraft.kernels.inference import infer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
TOKENS = [bytes([value]) for value in range(256)] + [b'{"', b'":', b'","', b"true", b"fal", b"dog", b"na", b"me", b""]
END = len(TOKENS) - 1


@pytest.fixture(scope="module")
def compiled() -> TokenAutomaton:
    automaton = byte_automaton.build(json_schema.expression(SCHEMA))
    return token_automaton.build(automaton, Vocabulary.from_tokens(TOKENS), [END])


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 300.0])
@pytest.mark.parametrize("length", [23, 40, 80])
def test_both_sequences_of_random_distributions_are_valid(compiled: TokenAutomaton, length: int, sharpness: float):
    rng = np.random.default_rng(length)
    logits = rng.normal(size=(length, len(TOKENS))) * sharpness
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    members = [compiled.tokens_of(number) for number in range(compiled.classes)]
    mass, plogp = np.zeros((2, length, compiled.classes))
    peak = np.full((length, compiled.classes), -np.inf)
    for number, tokens in enumerate(members):
        own = logprobs[:, tokens]
        mass[:, number], plogp[:, number] = np.exp(own).sum(1), (np.exp(own) * own).sum(1)
        if len(tokens):
            peak[:, number] = own.max(1)
    end = end_potential(compiled.distance, 0, needs_end=False)
    found = infer(compiled, compiled.start, end, ClassSums(mass, plogp, peak), rng.random((length, 2)))
    for classes in (found.best_classes, found.sampled_classes):
        chosen = [members[number][rng.integers(len(members[number]))] for number in classes if number >= 0]
        text = Vocabulary.from_tokens(TOKENS).spell(token for token in chosen if token != END)
        jsonschema.validate(json.loads(text), SCHEMA)


def test_a_canvas_too_short_for_the_schema_is_no_reason_to_break_it(compiled: TokenAutomaton):
    """The shortest text takes so many tokens; with one fewer there is nothing to infer."""
    shortest = int(compiled.distance[compiled.start])
    for length in (shortest, shortest - 1):
        mass = np.full((length, compiled.classes), 1 / compiled.classes)
        arguments = (ClassSums(mass, mass * np.log(mass), np.log(mass)), np.full((length, 2), 0.5))
        end = end_potential(compiled.distance, 0, needs_end=False)
        if length == shortest:
            assert infer(compiled, compiled.start, end, *arguments).best_states[-1] in np.flatnonzero(
                compiled.accepting
            )
        else:
            with pytest.raises(ConstraintError, match="ends within"):
                infer(compiled, compiled.start, end, *arguments)
