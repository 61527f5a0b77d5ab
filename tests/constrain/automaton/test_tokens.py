from collections.abc import Collection, Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import TokenLimits
from redraft.constrain.automaton.tokens import TokenAutomaton, build
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.errors import ConstraintError

LETTERS = b"abc"


def _automaton(
    rows: Sequence[Sequence[int]], accepting: Collection[int], letters: bytes = LETTERS, start: int = 0
) -> ByteAutomaton:
    """The state after each letter from states 0, 1, ...; -1 is the dead state."""
    states = len(rows)
    transitions = np.full((states + 1, 256), states, dtype=np.int32)
    for state, row in enumerate(rows):
        transitions[state, list(letters)] = [states if target < 0 else target for target in row]
    return ByteAutomaton(transitions, start, np.isin(np.arange(states + 1), list(accepting)))


@st.composite
def _automata(draw: st.DrawFn) -> ByteAutomaton:
    states = draw(st.integers(1, 6))
    rows = draw(st.lists(st.tuples(*[st.integers(-1, states - 1)] * 3), min_size=states, max_size=states))
    accepting = draw(st.sets(st.integers(0, states - 1), min_size=1))
    return _automaton(rows, accepting, start=draw(st.integers(0, states - 1)))


TOKENS = st.lists(st.text("abc", max_size=4).map(str.encode), min_size=2, max_size=25)


class _BruteForce:
    """The same facts from walking every token from every state, byte by byte."""

    def __init__(self, automaton: ByteAutomaton, tokens: list[bytes], ends: set[int]) -> None:
        self.automaton, self.tokens, self.ends = automaton, tokens, ends
        dead = automaton.states
        self.after = {
            (state, token): self._walk(state, spelled) if spelled and token not in ends else dead
            for state in range(dead)
            for token, spelled in enumerate(tokens)
        }
        self.distance = {state: self._fewest(state) for state in range(dead)}
        reached, before = {automaton.start}, set[int]()
        while reached != before:
            before = set(reached)
            reached |= {self.after[state, token] for state in before for token in range(len(tokens))} - {dead}
        self.kept = [state for state in range(dead) if state in reached and self.distance[state] is not None]

    def _walk(self, state: int, spelled: bytes) -> int:
        for byte in spelled:
            state = int(self.automaton.transitions[state, byte])
        return state

    def _fewest(self, state: int) -> int | None:
        """The smallest n for which some state after exactly n tokens is accepting."""
        now = {state}
        for count in range(self.automaton.states + 1):
            if any(self.automaton.accepting[at] for at in now):
                return count
            now = {self.after[at, token] for at in now for token in range(len(self.tokens))} - {self.automaton.states}
        return None

    def number(self, state: int) -> int | None:
        """A kept state's number in the token automaton."""
        return self.kept.index(state) if state in self.kept else None

    def map_of(self, token: int) -> tuple[int | None, ...]:
        return tuple(self.number(self.after[state, token]) for state in self.kept)


def _pair(automaton: ByteAutomaton, tokens: list[bytes], ends: set[int]) -> tuple[TokenAutomaton, _BruteForce]:
    brute = _BruteForce(automaton, tokens, ends)
    assume(automaton.start in brute.kept)
    return build(automaton, Vocabulary.from_tokens(tokens), ends), brute


def _targets(built: TokenAutomaton, state: int, token: int) -> list[int]:
    """Where the edges take a token."""
    edges = range(built.edge_start[state], built.edge_start[state + 1])
    return [int(built.edge_target[e]) for e in edges if built.token_class[token] in _group(built, built.edge_group[e])]


def _group(built: TokenAutomaton, group: int) -> NDArray[np.int32]:
    return built.group_class[built.group_start[group] : built.group_start[group + 1]]


@given(_automata(), TOKENS, st.sets(st.integers(0, 1)))
@settings(max_examples=50, deadline=None)
def test_a_class_is_exactly_the_tokens_that_do_the_same_from_every_state(
    automaton: ByteAutomaton, tokens: list[bytes], ends: set[int]
) -> None:
    built, brute = _pair(automaton, tokens, ends)
    dead = (None,) * len(brute.kept)
    classes = built.token_class.tolist()
    for token, other in product(range(len(tokens)), repeat=2):
        if token in ends or other in ends:
            assert (classes[token] == classes[other]) == (token in ends and other in ends)
        else:
            assert (classes[token] == classes[other]) == (brute.map_of(token) == brute.map_of(other))
    for token in range(len(tokens)):
        assert (classes[token] == built.classes - 1) == (token in ends)
        assert (classes[token] == 0) == (token not in ends and brute.map_of(token) == dead)


@given(_automata(), TOKENS, st.sets(st.integers(0, 1)))
@settings(max_examples=50, deadline=None)
def test_edges_take_every_token_from_every_state_where_its_bytes_lead(
    automaton: ByteAutomaton, tokens: list[bytes], ends: set[int]
) -> None:
    _check_edges(*_pair(automaton, tokens, ends))


def test_edges_are_right_with_hundreds_of_different_tokens() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-1, 30, size=(30, 3)).tolist()
    tokens = [bytes(rng.choice(list(LETTERS), size=rng.integers(1, 9)).tolist()) for _ in range(250)]
    automaton = _automaton(rows, [3, 20], start=7)
    built = build(automaton, Vocabulary.from_tokens(tokens), {1, 2})
    assert built.classes > 100
    _check_edges(built, _BruteForce(automaton, tokens, {1, 2}))


def _check_edges(built: TokenAutomaton, brute: _BruteForce) -> None:
    automaton = brute.automaton
    assert built.states == len(brute.kept)
    assert built.start == brute.number(automaton.start)
    assert built.accepting.tolist() == [bool(automaton.accepting[state]) for state in brute.kept]
    for number, state in enumerate(brute.kept):
        for token in range(len(brute.tokens)):
            if token in brute.ends:
                expected = [built.end] if automaton.accepting[state] else []
            else:
                target = brute.number(brute.after[state, token])
                expected = [] if target is None else [target]
            assert _targets(built, number, token) == expected


@given(_automata(), TOKENS)
@settings(max_examples=40, deadline=None)
def test_distance_is_the_fewest_tokens_to_acceptance(automaton: ByteAutomaton, tokens: list[bytes]) -> None:
    built, brute = _pair(automaton, tokens, set())
    assert built.distance.tolist() == [brute.distance[state] for state in brute.kept]
    assert (built.distance >= 0).all()


@given(_automata(), TOKENS)
@settings(max_examples=40, deadline=None)
def test_arrays_are_sorted_and_share_equal_groups(automaton: ByteAutomaton, tokens: list[bytes]) -> None:
    built, _ = _pair(automaton, tokens, {0})
    edges = list(zip(built.edge_source.tolist(), built.edge_target.tolist(), strict=True))
    assert edges == sorted(set(edges))
    groups = [tuple(_group(built, group)) for group in range(len(built.group_start) - 1)]
    assert len(set(groups)) == len(groups)
    assert set(built.edge_group.tolist()) == set(range(len(groups)))
    assert all(group == tuple(sorted(set(group))) and group for group in groups)
    assert 0 not in built.group_class
    for number in range(built.classes):
        assert built.tokens_of(number).tolist() == np.flatnonzero(built.token_class == number).tolist()
    firsts = [built.tokens_of(number)[0] for number in range(1, built.classes - 1)]
    assert firsts == sorted(firsts)


@given(_automata(), TOKENS)
@settings(max_examples=40, deadline=None)
def test_token_sequences_are_accepted_when_their_text_is(automaton: ByteAutomaton, tokens: list[bytes]) -> None:
    tokens = tokens[:6]
    built, _ = _pair(automaton, tokens, set())
    spoken = [token for token, spelled in enumerate(tokens) if spelled]
    for length in range(4):
        for sequence in product(spoken, repeat=length):
            state: int | None = built.start
            for token in sequence:
                targets = [] if state is None else _targets(built, state, token)
                state = targets[0] if targets else None
            text = b"".join(tokens[token] for token in sequence)
            at = automaton.start
            for byte in text:
                at = int(automaton.transitions[at, byte])
            assert (state is not None and bool(built.accepting[state])) == bool(automaton.accepting[at])


def test_every_end_token_ends_and_none_of_them_is_text() -> None:
    # The texts a, aa, ...; token 2 would be one of them, were it not an end token.
    built = build(
        _automaton([(1, -1, -1), (1, -1, -1)], [1]), Vocabulary.from_tokens([b"a", b"", b"a", b"", b"b"]), [1, 2]
    )
    assert built.token_class.tolist() == [1, 2, 2, 0, 0]
    assert [_targets(built, 1, token) for token in range(5)] == [[1], [built.end], [built.end], [], []]
    assert [_targets(built, 0, token) for token in range(5)] == [[1], [], [], [], []]
    assert built.distance.tolist() == [1, 0]


def test_without_end_tokens_their_class_is_empty() -> None:
    built = build(_automaton([(0, -1, -1)], [0]), Vocabulary.from_tokens([b"a", b""]), [])
    assert built.token_class.tolist() == [1, 0]
    assert built.classes == 3
    assert len(built.tokens_of(2)) == 0


def test_states_inside_words_are_dropped_where_the_vocabulary_has_only_whole_words() -> None:
    word = b"<r1c1=5>"
    rows = [[state + 1 if letter == word[state] else -1 for letter in sorted(set(word))] for state in range(len(word))]
    automaton = _automaton([*rows, [-1] * len(set(word))], [len(word)], bytes(sorted(set(word))))
    whole = build(automaton, Vocabulary.from_tokens([word, b"<r1c1=4>"]), [])
    assert (whole.states, whole.start, whole.distance.tolist()) == (2, 0, [1, 0])
    letters = build(automaton, Vocabulary.from_tokens([word, *(bytes([letter]) for letter in word)]), [])
    assert letters.states == automaton.states


def test_bytes_that_the_vocabulary_lacks_close_the_ways_that_need_them() -> None:
    # a then a, or b then c, where no token holds c.
    automaton = _automaton([(1, 2, -1), (3, -1, -1), (-1, -1, 3), (-1, -1, -1)], [3])
    built = build(automaton, Vocabulary.from_tokens([b"a", b"b", b"bb"]), [])
    assert built.states == 3
    assert built.token_class.tolist() == [1, 0, 0]


def test_a_text_that_no_tokens_spell_is_refused_and_shown() -> None:
    automaton = _automaton([(1, -1, -1), (-1, 2, -1), (-1, -1, -1)], [2])
    with pytest.raises(ConstraintError, match="'ab'"):
        build(automaton, Vocabulary.from_tokens([b"a", b"c", b"ba", b""]), [3])


@pytest.mark.parametrize("end", [-1, 2])
def test_end_tokens_outside_the_vocabulary_are_refused(end: int) -> None:
    with pytest.raises(ValueError, match=f"{end}"):
        build(_automaton([(0, -1, -1)], [0]), Vocabulary.from_tokens([b"a", b""]), [0, end])


def _counter(states: int) -> ByteAutomaton:
    """Up to ``states`` - 1 letters."""
    return _automaton([[s + 1 if s + 1 < states else -1] * 3 for s in range(states)], range(states))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (TokenLimits(functions=10), "more than 10 ways"),
        (TokenLimits(edges=50), r"edges between states, of at most 50"),
        (TokenLimits(nbytes=2_000), "0 MB"),
        (TokenLimits(steps=100), "more than 100 steps"),
    ],
)
def test_limits_refuse_with_their_number_and_what_would_help(limits: TokenLimits, said: str) -> None:
    vocabulary = Vocabulary.from_tokens([b"a" * count for count in range(20)])
    build(_counter(30), vocabulary, [0])
    with pytest.raises(ConstraintError, match=f"too large .*{said}.*would help"):
        build(_counter(30), vocabulary, [0], limits)


def test_limits_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="edges=0"):
        TokenLimits(edges=0)


def test_memory_is_that_of_the_arrays() -> None:
    built = build(_counter(5), Vocabulary.from_tokens([b"a", b"bb", b""]), [2])
    # 5 accepting flags and distances, 3 tokens twice, 4 classes, 5 states with 4 + 3 + 5 edges, 3 groups of a class.
    assert built.nbytes == 5 + 5 * 4 + 2 * 3 * 4 + 8 * 5 + 8 * 6 + 2 * 12 * 4 + 8 * 4 + 4 * 3
