"""Texts without stop strings, compared with the enumeration of all texts over small alphabets."""

import random
from itertools import product

import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.stop_strings import without
from redraft.constrain.constraint import Choice, Regex
from redraft.errors import ConstraintError

PATTERNS = ["[ab]*", "(ab|b)*a?", "a*b*", "(aab?)+", "[ab]{2,4}", "b?(ab)*"]
STOPS = [
    ("a",),
    ("ab",),
    ("ab", "ba"),
    ("aa", "aab"),
    ("aba", "bab"),
    ("abab", "ba"),
    ("bb", "b"),
    ("aaa", "bab", "bb"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_exactly_the_texts_with_a_stop_string_are_gone(pattern: str, stop: tuple[str, ...]) -> None:
    """All texts of a and b up to length 8; overlapping stop strings, and some that hold others."""
    texts = byte_automaton.build(Regex(pattern).expression)
    every = ["".join(letters) for count in range(9) for letters in product("ab", repeat=count)]
    allowed = [text for text in every if texts.matches(text.encode())]
    left = [text for text in allowed if not any(one in text for one in stop)]
    if not left:
        with pytest.raises(ConstraintError, match="every text that the constraint allows has one of the stop strings"):
            without(texts, stop)
        return
    found = without(texts, stop)
    assert [text for text in every if found.matches(text.encode())] == left


@pytest.mark.parametrize(
    ("alphabet", "stop"),
    [
        # C3 A9, C3 A8, C2 A9: neighbours share their first or their last byte.
        ("éè©", ("é",)),
        ("éè©", ("é©", "è")),
        ("éè©a", ("©é", "éa")),
        # F0 9F 98 80 and 81; three bytes are the same.
        ("😀😁a", ("😀",)),
        ("😀😁a", ("😁😀", "a😁")),
        ("日本é", ("本", "日日")),
    ],
)
def test_a_stop_string_is_characters_not_bytes_that_look_alike(alphabet: str, stop: tuple[str, ...]) -> None:
    texts = byte_automaton.build(Regex(f"[{alphabet}]*").expression)
    found = without(texts, stop)
    for count in range(5):
        for letters in product(alphabet, repeat=count):
            text = "".join(letters)
            assert found.matches(text.encode()) == (not any(one in text for one in stop)), text


def test_random_stop_strings_over_three_letters() -> None:
    chance = random.Random(0)
    every = ["".join(letters) for count in range(6) for letters in product("abc", repeat=count)]
    for _ in range(60):
        stop = ["".join(chance.choices("abc", k=chance.randrange(1, 5))) for _ in range(chance.randrange(1, 5))]
        pattern = chance.choice(["[abc]*", "(a|bc)*", "(abc)*|[ac]*", "[ab]*c[bc]*"])
        texts = byte_automaton.build(Regex(pattern).expression)
        left = [t for t in every if texts.matches(t.encode()) and not any(one in t for one in stop)]
        try:
            found = without(texts, stop)
        except ConstraintError:
            assert not left
            continue
        assert [text for text in every if found.matches(text.encode())] == left, (pattern, stop)


def test_a_product_without_measure_is_refused() -> None:
    texts = byte_automaton.build(Regex("[ab]{2000}").expression)
    with pytest.raises(ConstraintError, match="without the stop strings has more than 128000 states; a smaller"):
        without(texts, ["a" * 500 + "b", "b" * 500 + "a"])


def test_every_state_that_is_left_leads_to_a_text() -> None:
    """Inference counts on it: a state without a way out would be a dead end on the canvas."""
    found = without(byte_automaton.build(Regex("(aab?)+|[bc]{3}d").expression), ["aaba", "bc"])
    reaching = found.accepting[: found.states].copy()
    for _ in range(found.states):
        for state in range(found.states):
            reaching[state] |= any(reaching[t] for t in found.transitions[state] if t < found.states)
    assert reaching.all()
    assert (found.transitions[found.states] == found.states).all()
    assert not found.accepting[found.states]


def test_without_stop_strings_nothing_changes_and_an_empty_rest_is_refused_by_name() -> None:
    texts = byte_automaton.build(Choice(["yes", "yes, yes"]).expression)
    assert without(texts, []) is texts
    with pytest.raises(ConstraintError, match=r"stop strings \['es'\] in it; take it away"):
        without(texts, ["es"])
    assert without(byte_automaton.build(Choice(["", "yes"]).expression), ["y"]).matches(b"")


def test_a_long_text_is_searched_to_its_end() -> None:
    """Thousands of states one after the other, such as a long text with a length limit has."""
    texts = byte_automaton.build(Regex("[a-z]{4000}").expression)
    found = without(texts, ["the", "end"])
    assert found.matches(b"ab" * 2000)
    assert not found.matches(b"ab" * 1000 + b"the" + b"x" * 1997)
