"""Character sets compared with plain Python sets, and the short forms against the trees they stand for."""

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.constrain.expression import (
    EMPTY,
    LAST_CODE_POINT,
    AnyOf,
    Characters,
    Literal,
    Repeat,
    Sequence,
    any_of,
    joined,
    optional,
)

EDGES = (0, 0x7F, 0xD800, 0xDFFF, LAST_CODE_POINT)
# Code points close to each other and to where something changes, so that ranges touch, overlap and straddle.
NEARBY = sorted({edge + by for edge in EDGES for by in range(-4, 5) if 0 <= edge + by <= LAST_CODE_POINT})
range_lists = st.lists(st.tuples(st.sampled_from(NEARBY), st.sampled_from(NEARBY)), max_size=6)


def holds(ranges: Iterable[tuple[int, int]], point: int) -> bool:
    return any(first <= point <= last for first, last in ranges)


def is_surrogate(point: int) -> bool:
    return 0xD800 <= point < 0xE000


@settings(deadline=None)
@given(range_lists)
def test_ranges_in_any_order_become_the_same_characters_without_surrogates(ranges: list[tuple[int, int]]):
    tidy = Characters.of(ranges).ranges
    for point in NEARBY:
        assert holds(tidy, point) == (holds(ranges, point) and not is_surrogate(point))


@settings(deadline=None)
@given(range_lists)
def test_ranges_are_sorted_and_neither_overlap_nor_touch(ranges: list[tuple[int, int]]):
    tidy = Characters.of(ranges).ranges
    assert all(first <= last for first, last in tidy)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(tidy))


@settings(deadline=None)
@given(range_lists)
def test_the_complement_is_every_other_character_and_its_complement_the_set_again(ranges: list[tuple[int, int]]):
    characters = Characters.of(ranges)
    complement = characters.complement()
    assert complement.complement() == characters
    for point in NEARBY:
        assert holds(characters.ranges, point) + holds(complement.ranges, point) == (not is_surrogate(point))


@settings(deadline=None)
@given(st.text())
def test_among_is_exactly_the_characters_of_the_text(text: str):
    ranges = Characters.among(text).ranges
    assert {point for first, last in ranges for point in range(first, last + 1)} == set(map(ord, text))


def test_strings_in_the_short_forms_are_literals():
    digit = Characters.among("0123456789")
    assert joined("a", digit, EMPTY) == Sequence((Literal("a"), digit, EMPTY))
    assert any_of("a", digit) == AnyOf((Literal("a"), digit))
    assert optional(digit) == Repeat(digit, 0, 1)
