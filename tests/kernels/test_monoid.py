"""Compiled walks of a vocabulary, held against their reference: the same arrays and refusals of every automaton.

tests/constrain/automaton/test_tokens.py holds what comes of them against every token walked from every state.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import monoid as reference
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import DEFAULT_LIMITS, DEFAULT_TOKEN_LIMITS, Budget, Limits, TokenLimits
from redraft.constrain.automaton.monoid import Implementation, Walked, walk_reference
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.constraint import JSONSchema
from redraft.constrain.expression import Expression, Literal, Repeat, joined
from redraft.constrain.language.regex import parse
from redraft.errors import ConstraintError
from redraft.kernels import automata, monoid
from redraft.kernels.library import native, status
from tests.constrain.gemma_tokenizer import gemma_vocabulary
from tests.constrain.random_schemas import RandomSchemas

pytestmark = pytest.mark.skipif(native() is None, reason=status().reason)
# One letter, and no more.
ONE_LETTER = ByteAutomaton(
    np.repeat(np.array([[1], [2], [2]], dtype=np.int32), 256, 1), 0, np.array([False, True, False])
)
BOTH: tuple[Implementation, ...] = (walk_reference, monoid.walk)
# Pieces that begin and end inside strings, keys, numbers and characters.
PIECES = (
    *(bytes([value]) for value in range(256)),
    *(
        "abc",
        'a"',
        '":',
        '":"',
        '","',
        "{}",
        '{"',
        "12",
        "-1",
        "0.5",
        "true",
        "false",
        "null",
        "é",
        "😀",
        "],",
        " ",
        "aé",
    ),
)
WORDS = st.lists(st.one_of(st.binary(max_size=3), st.sampled_from(PIECES)), min_size=1, max_size=40)


def built(expression: Expression, limits: Limits = DEFAULT_LIMITS) -> ByteAutomaton:
    automaton = automata.build(expression, Budget(limits))
    assert automaton is not None
    return automaton


def vocabulary_of(pieces: Iterable[object]) -> Vocabulary:
    return Vocabulary.from_tokens([one if isinstance(one, bytes) else str(one).encode() for one in pieces])


def came(
    walk: Implementation,
    automaton: ByteAutomaton,
    vocabulary: Vocabulary,
    silent: NDArray[np.bool_],
    limits: TokenLimits,
) -> Walked | str:
    """What came of walking a vocabulary: the arrays, or the refusal."""
    try:
        return walk(automaton, vocabulary.prefixes, silent, limits)
    except ConstraintError as error:
        return str(error)


def assert_same(
    automaton: ByteAutomaton, vocabulary: Vocabulary, limits: TokenLimits = DEFAULT_TOKEN_LIMITS, end: int | None = None
) -> Walked | str:
    silent = np.diff(vocabulary.offsets) == 0
    if end is not None:
        silent[end] = True
    expected, found = (came(walk, automaton, vocabulary, silent, limits) for walk in BOTH)
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return found
    assert found.moves.classes == expected.moves.classes
    for name in ("token_class", "distance", "reached"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype == np.int32
    for name in ("number", "source", "target"):
        np.testing.assert_array_equal(getattr(found.moves, name), getattr(expected.moves, name), err_msg=name)
        assert getattr(found.moves, name).dtype == np.int32
    return found


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 9), WORDS, st.integers(0, 39))
def test_any_automaton_of_few_states(data: st.DataObject, states: int, pieces: list[bytes | str], end: int) -> None:
    letters = np.array(data.draw(st.lists(st.integers(0, 3), min_size=256, max_size=256)))
    columns = data.draw(st.lists(st.integers(0, states), min_size=4 * states, max_size=4 * states))
    table = np.array([*columns, *[states] * 4]).reshape(states + 1, 4)
    accepting = np.array([*data.draw(st.lists(st.booleans(), min_size=states, max_size=states)), False])
    automaton = ByteAutomaton(table[:, letters].astype(np.int32), data.draw(st.integers(0, states - 1)), accepting)
    assert_same(automaton, vocabulary_of(pieces), end=end % len(pieces))


@pytest.mark.parametrize("whitespace", ["compact", "free"])
def test_random_schemas_over_pieces_of_json(whitespace: str) -> None:
    vocabulary = vocabulary_of([*PIECES, *(f"{a}{b}" for a in PIECES[256:264] for b in PIECES[256:])])
    compiled = 0
    for seed in range(8):
        try:
            schema = RandomSchemas(seed, loose=True).draw()
            automaton = built(JSONSchema(schema, whitespace=whitespace).expression)  # type: ignore[arg-type]
        except ConstraintError:
            continue
        compiled += isinstance(assert_same(automaton, vocabulary), Walked)
    assert compiled > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}}},
        {"type": "array", "items": {"enum": [f"word {n}" for n in range(300)]}},
    ],
)
def test_gemmas_vocabulary(schema: dict[str, object]) -> None:
    """Every array of the whole token automaton is the same, whoever walked."""
    automaton = built(JSONSchema(schema).expression)
    assert_same(automaton, gemma_vocabulary(), end=1)
    both: list[TokenAutomaton] = []
    for implementation in BOTH:
        reference.use(implementation)
        both.append(token_automaton.build(automaton, gemma_vocabulary(), [1, 106]))
    reference.use(walk_reference)
    for field in dataclasses.fields(TokenAutomaton):
        first, second = (getattr(one, field.name) for one in both)
        np.testing.assert_array_equal(first, second, err_msg=field.name)


@pytest.mark.parametrize("kind", ["functions", "nbytes", "steps"])
def test_each_limit_refuses_what_the_reference_refuses(kind: str) -> None:
    expression: Expression = joined(Repeat(parse("[a-c]x|[b-d]yé"), 0, 40), parse('"(a|b|cc){3,9}"'))
    automaton = built(expression)
    vocabulary = vocabulary_of(
        ["a", "x", "b", "y", "ax", "bxc", "cx", "yé", "byé", '"', '"a', "é", "xa", "xb", "xaxbx"]
    )
    refused = 0
    for most in (1, 3, 10, 30, 60, 100, 200, 400, 1000, 3000, 10_000, 100_000):
        limits = dataclasses.replace(DEFAULT_TOKEN_LIMITS, **{kind: most})
        refused += isinstance(assert_same(automaton, vocabulary, limits), str)
    assert 2 < refused < 12


def test_states_that_sixteen_bits_do_not_number() -> None:
    limits = Limits(states=70_000, nfa_states=170_000)
    automaton = built(Repeat(Literal("a"), 66_000, 66_000), limits)
    assert automaton.states > 2**16
    walked = assert_same(automaton, vocabulary_of(["a", "aa", "b", "a" * 300]))
    assert isinstance(walked, Walked)
    assert walked.distance[0] == 66_000 // 300
    assert walked.moves.classes == 3


def test_without_a_library_the_reference_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monoid, "native", lambda: None)
    assert_same(built(parse("a+")), vocabulary_of(["a", "aa", "b"]))


def test_a_process_compiles_both_halves_in_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine, and a process that only compiles, call; a test's end puts back what was in use."""
    used: list[str] = []
    for module in (byte_automaton, reference):
        monkeypatch.setattr(module, "_implementation", None)
    monkeypatch.setattr(automata, "build", lambda *given: used.append("bytes"))
    monkeypatch.setattr(monoid, "walk", lambda *given: used.append("tokens"))
    automata.use()
    with pytest.raises(ConstraintError):
        byte_automaton.build(parse("a"))
    reference.walk(ONE_LETTER, vocabulary_of(["a"]).prefixes, np.zeros(1, dtype=np.bool_), DEFAULT_TOKEN_LIMITS)
    assert used == ["bytes", "tokens"]
