"""A thought before the answer, compared with the enumeration of all sequences of tokens of tiny vocabularies."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.preamble import after_thought
from redraft.constrain.automaton.tokens import TokenAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.constraint import Choice, Constraint, Regex
from redraft.constrain.inference.chain import ClassSums, end_potential, infer

# Ids 4 and 5 mark a thought, 6 ends the text, 7 has no text at all.
TOKENS = [b"a", b"b", b"ab", b"zz", b"", b"", b"", b""]
OPENING, CLOSING, END, SILENT = 4, 5, 6, 7
CONSTRAINTS: list[Constraint] = [
    Choice(["ab"]),
    Choice(["a", "ab", "abb"]),
    Choice([""]),
    Choice(["", "a"]),
    Regex("a*b?"),
    Regex("(ab)+"),
    Regex("[^z]{1,2}"),
    Regex(".*"),
]


BUILT: dict[Any, ByteAutomaton] = {}


def _texts(constraint: Constraint) -> ByteAutomaton:
    if constraint not in BUILT:
        BUILT[constraint] = byte_automaton.build(constraint.expression)
    return BUILT[constraint]


def compiled(constraint: Constraint, tokens: list[bytes] = TOKENS) -> tuple[TokenAutomaton, TokenAutomaton]:
    """The automaton of the answer alone, and that with room for a thought."""
    texts = _texts(constraint)
    vocabulary = Vocabulary.from_tokens(tokens)
    plain = token_automaton.build(texts, vocabulary, [END])
    return plain, after_thought(plain, OPENING, CLOSING, np.array([bool(token) for token in tokens]))


def walk(automaton: TokenAutomaton, tokens: tuple[int, ...]) -> int | None:
    """The state after tokens, by a look at every edge and every class."""
    state = automaton.start
    for token in tokens:
        if state == automaton.end:
            return None
        token_class = automaton.token_class[token]
        targets = [
            automaton.edge_target[edge]
            for edge in range(*automaton.edge_start[state : state + 2])
            if token_class in automaton.group_class[slice(*automaton.group_start[automaton.edge_group[edge] :][:2])]
        ]
        assert len(targets) <= 1, "one token leads to one state"
        if not targets:
            return None
        state = int(targets[0])
    return state


def wanted(constraint: Constraint, tokens: tuple[int, ...], spelled: list[bytes] = TOKENS) -> bool:
    """By the definition: an answer, or opening, tokens with text, closing, and an answer."""
    if tokens[:1] == (OPENING,):
        if CLOSING not in tokens:
            return False
        at = tokens.index(CLOSING)
        if any(not spelled[token] for token in tokens[1:at]):
            return False
        tokens = tokens[at + 1 :]
    if any(not spelled[token] for token in tokens):
        return False
    return _texts(constraint).matches(b"".join(spelled[token] for token in tokens))


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_what_is_accepted_is_an_answer_or_a_thought_and_an_answer(constraint: Constraint) -> None:
    _, automaton = compiled(constraint)
    texts = 0
    for count in range(5):
        for tokens in product(range(len(TOKENS)), repeat=count):
            state = walk(automaton, tokens)
            accepted = state is not None and state != automaton.end and bool(automaton.accepting[state])
            assert accepted == wanted(constraint, tokens), tokens
            assert (walk(automaton, (*tokens, END)) == automaton.end) == accepted
            texts += accepted
    assert texts


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_how_many_ways_inference_sums_over_is_what_enumeration_counts(constraint: Constraint) -> None:
    """With every token equally likely, exp(log_valid) * V^L is the number of canvases of L tokens whose text is valid
    and ends within them, or with the last of them."""
    _, automaton = compiled(constraint)
    for length in range(5):
        counted = 0
        for tokens in product(range(len(TOKENS)), repeat=length):
            end = next((at for at, token in enumerate(tokens) if token == END), length)
            counted += wanted(constraint, tokens[:end])
        if not counted:
            continue
        sizes = np.bincount(automaton.token_class, minlength=automaton.classes) / len(TOKENS)
        logs = np.where(sizes > 0, np.log(1 / len(TOKENS)), -np.inf)
        rows = sizes, sizes * np.log(1 / len(TOKENS)), logs
        sums = ClassSums(*(np.tile(row, (length, 1)) for row in rows))
        potential = end_potential(automaton.distance, 0, False)
        found = infer(automaton, automaton.start, potential, sums, np.full((length, 2), 0.5))
        assert np.exp(found.log_valid) * len(TOKENS) ** length == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_distances_are_the_fewest_tokens_and_edges_ascend(constraint: Constraint) -> None:
    plain, automaton = compiled(constraint)
    assert automaton.distance[automaton.start] == plain.distance[plain.start], "without a thought it is shorter"
    thinking = walk(automaton, (OPENING,))
    assert thinking is not None
    assert automaton.distance[thinking] == 1 + plain.distance[plain.start]
    for state in range(automaton.states):
        targets = automaton.edge_target[slice(*automaton.edge_start[state : state + 2])]
        assert all(one < other for one, other in pairwise(targets.tolist()))
    assert [set(automaton.tokens_of(c).tolist()) for c in range(automaton.classes)] == [
        set(np.flatnonzero(automaton.token_class == c).tolist()) for c in range(automaton.classes)
    ]
    assert automaton.tokens_of(automaton.classes - 1).tolist() == [END], "the end tokens are the last class"


@pytest.mark.parametrize("constraint", CONSTRAINTS[:5], ids=str)
def test_markers_that_have_text_of_their_own_mark_all_the_same(constraint: Constraint) -> None:
    """A tokenizer may spell its markers; as text they stand neither in the thought nor in the answer."""
    spelled = [*TOKENS[:4], b"a", b"b", b"", b""]
    _, automaton = compiled(constraint, spelled)
    silent = [*TOKENS[:4], b"", b"", b"", b""]
    for count in range(5):
        for tokens in product(range(len(spelled)), repeat=count):
            state = walk(automaton, tokens)
            accepted = state is not None and state != automaton.end and bool(automaton.accepting[state])
            assert accepted == wanted(constraint, tokens, silent), tokens
