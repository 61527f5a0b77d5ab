"""Stretches of a text: exactly those that cut no word, by looking at each."""

import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.language.quotation import quotation
from redraft.errors import ConstraintError

TEXTS = ["Ada L.", "on 4,50 - ok", "a", " né 3rd\nrow ", "..", "日本 x"]


def cuts(text: str, at: int) -> bool:
    """Whether a word goes on across this place."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


@pytest.mark.parametrize("text", TEXTS)
def test_exactly_those_that_cut_no_word(text: str) -> None:
    ends = range(len(text) + 1)
    every = {(text[i:j], cuts(text, i) or cuts(text, j)) for i in ends for j in ends if i < j}
    right = {own for own, cut in every if not cut and own.strip() == own}
    automaton = byte_automaton.build(quotation(text))
    # One that is cut here may stand whole elsewhere.
    others = {own for own, _ in every} | {"", " ", text + text, text[::-1] + "!"}
    assert {own for own in others if automaton.matches(own.encode())} == right


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing_can_be_quoted_of_nothing(text: str) -> None:
    with pytest.raises(ConstraintError, match="white space"):
        quotation(text)
