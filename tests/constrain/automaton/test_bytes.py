"""Automata compared with the definition of an expression, tried out on every short text, and against table filling."""

import re
from collections.abc import Iterator
from functools import reduce
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton, build
from redraft.constrain.automaton.limits import Limits
from redraft.constrain.expression import (
    EMPTY,
    NOTHING,
    AllOf,
    AnyOf,
    Characters,
    Expression,
    Literal,
    Marker,
    Repeat,
    Sequence,
    Without,
    any_of,
    joined,
    optional,
)
from redraft.constrain.language.regex import parse
from redraft.errors import ConstraintError
from tests.thorough import some

ALPHABET = "aé😀"
SHORT_TEXTS = ["".join(text) for length in range(5) for text in product(ALPHABET, repeat=length)]
BORDERS = (0x00, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF)
JSON_CHARACTER = r'([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})'


@pytest.fixture(autouse=True, scope="module")
def reference(compiled_code: None) -> None:
    """The reference is what these tests are about; of compiled code tests/kernels shows that it is the same."""
    byte_automaton.use(byte_automaton.build_reference)


def ends(part: Expression, text: str, start: int) -> set[int]:
    """Where ``part`` can end in ``text`` if it begins at ``start``: the definition, tried out."""
    match part:
        case Literal(literal):
            return {start + len(literal)} if text.startswith(literal, start) else set()
        case Characters(ranges):
            here = start < len(text) and any(a <= ord(text[start]) <= b for a, b in ranges)
            return {start + 1} if here else set()
        case Sequence(parts):
            return reduce(lambda at, one: {end for s in at for end in ends(one, text, s)}, parts, {start})
        case AnyOf(options):
            return {end for option in options for end in ends(option, text, start)}
        case AllOf(parts):
            return set.intersection(*(ends(one, text, start) for one in parts))
        case Repeat(repeated, low, high):
            reached, found = {start}, set[int]()
            # More rounds than the text has characters can only repeat the empty text.
            for count in range(min(high if high is not None else 99, low + len(text) + 1) + 1):
                found |= reached if count >= low else set()
                reached = {end for s in reached for end in ends(repeated, text, s)}
            return found
    raise AssertionError(f"{part} has no definition here")


def matches(expression: Expression, text: str) -> bool:
    return len(text) in ends(expression, text, 0)


def larger(part: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    counts = st.tuples(st.integers(0, 2), st.none() | st.integers(0, 3))
    return st.one_of(
        st.lists(part, max_size=3).map(lambda parts: Sequence(tuple(parts))),
        st.lists(part, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        st.lists(part, min_size=1, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.tuples(part, counts).map(lambda made: Repeat(made[0], *made[1])),
        st.tuples(part, part, part).map(lambda made: joined(made[0], Repeat(joined(made[1], made[2]), 0, None))),
        # A list as schemas make it, where one object stands twice.
        st.tuples(part, part).map(lambda made: joined(made[0], Repeat(joined(made[1], made[0]), 0, None), made[1])),
    )


expressions = st.recursive(
    st.sampled_from([EMPTY, Literal("a"), Literal("éa"), Literal("a😀"), Characters.among("é😀")])
    | st.sets(st.sampled_from(ALPHABET)).map(lambda chosen: Characters.among("".join(sorted(chosen)))),
    larger,
    max_leaves=8,
)


def built(expression: Expression) -> ByteAutomaton | None:
    try:
        return build(expression)
    except ConstraintError as error:
        if "contradicts itself" not in str(error):
            raise
        return None


def same(one: ByteAutomaton, other: ByteAutomaton) -> bool:
    return (
        one.start == other.start
        and np.array_equal(one.transitions, other.transitions)
        and np.array_equal(one.accepting, other.accepting)
    )


def equivalent_states(automaton: ByteAutomaton) -> set[tuple[int, int]]:
    """Myhill-Nerode by table filling, the textbook's way."""
    columns = np.unique(automaton.transitions, axis=1).tolist()
    pairs = set(combinations(range(len(columns)), 2))
    apart = {(p, q) for p, q in pairs if automaton.accepting[p] != automaton.accepting[q]}
    while True:
        more = {
            (p, q)
            for p, q in pairs - apart
            if any((min(a, b), max(a, b)) in apart for a, b in zip(columns[p], columns[q], strict=True))
        }
        if not more:
            return pairs - apart
        apart |= more


def reached(states: set[int], steps: set[tuple[int, int]]) -> set[int]:
    while more := {after for state, after in steps if state in states and after not in states}:
        states = states | more
    return states


@settings(deadline=None, max_examples=some(80, 50), suppress_health_check=[HealthCheck.too_slow])
@given(expressions)
def test_an_automaton_accepts_exactly_the_short_texts_that_the_expression_means(expression: Expression):
    automaton = built(expression)
    accepted = {text for text in SHORT_TEXTS if automaton and automaton.matches(text.encode())}
    assert accepted == {text for text in SHORT_TEXTS if matches(expression, text)}


@settings(deadline=None, max_examples=some(40, 20), suppress_health_check=[HealthCheck.too_slow])
@given(expressions)
def test_no_two_states_are_equivalent_and_none_is_unreachable_or_a_dead_end(expression: Expression):
    automaton = built(expression)
    if automaton is None:
        return
    assert not equivalent_states(automaton)
    forward = {(state, after) for state, row in enumerate(automaton.transitions.tolist()) for after in set(row)}
    backward = {(after, state) for state, after in forward}
    alive = set(range(automaton.states))
    assert reached({automaton.start}, forward) >= alive
    assert reached(set(np.flatnonzero(automaton.accepting).tolist()), backward) == alive


@pytest.mark.parametrize("seed", range(3))
def test_many_words_take_one_state_for_each_set_of_endings(seed: int):
    random = np.random.default_rng(seed)
    words = {"".join(random.choice(list("ab"), random.integers(1, 14))) for _ in range(1500)}
    endings: dict[str, set[str]] = {}
    for word in words:
        for cut in range(len(word) + 1):
            endings.setdefault(word[:cut], set()).add(word[cut:])
    automaton = build(any_of(*sorted(words)))
    assert automaton.states == len(set(map(frozenset, endings.values())))
    assert all(automaton.matches(word.encode()) for word in words)
    assert sum(accepted_by_length(automaton, 13)) == len(words)


@settings(deadline=None, max_examples=some(40, 20), suppress_health_check=[HealthCheck.too_slow])
@given(expressions)
def test_the_last_row_is_dead_and_arrays_have_the_stated_form(expression: Expression):
    automaton = built(expression)
    if automaton is None:
        return
    assert automaton.transitions.dtype == np.int32
    assert automaton.transitions.shape == (automaton.states + 1, 256)
    assert automaton.accepting.dtype == np.bool_
    assert automaton.accepting.shape == (automaton.states + 1,)
    assert (automaton.transitions[-1] == automaton.states).all()
    assert not automaton.accepting[-1]


@settings(deadline=None, max_examples=some(40, 20), suppress_health_check=[HealthCheck.too_slow])
@given(expressions, expressions)
def test_the_same_language_gives_the_same_arrays_however_it_is_written(one: Expression, other: Expression):
    plain = built(one)
    if plain is None:
        return
    everything = Repeat(Characters(()).complement(), 0, None)
    ways: list[Expression] = [
        AllOf((one, everything)),
        AnyOf((one, AllOf((other, one)))),
        Sequence((one, optional(NOTHING))),
    ]
    for way in ways:
        assert same(build(way), plain)


def test_states_are_numbered_in_the_order_in_which_bytes_reach_them():
    automaton = build(parse("(b|a)c|z|bd"))
    met = list(dict.fromkeys([0, *automaton.transitions[:-1].ravel().tolist()]))
    assert [state for state in met if state < automaton.states] == list(range(automaton.states))


@settings(deadline=None, max_examples=some(40, 20), suppress_health_check=[HealthCheck.too_slow])
@given(expressions)
def test_shortest_is_the_first_in_byte_order_of_the_shortest_texts(expression: Expression):
    automaton = built(expression)
    if automaton is None:
        return
    shortest = automaton.shortest()
    assert automaton.matches(shortest)
    if len(shortest) < 5:  # then it has at most four characters, and all such texts can be tried
        accepted = [text.encode() for text in SHORT_TEXTS if matches(expression, text)]
        assert shortest == min(accepted, key=lambda text: (len(text), text))
    else:
        assert not any(len(text.encode()) < 5 and matches(expression, text) for text in SHORT_TEXTS)


def accepted_by_length(automaton: ByteAutomaton, longest: int = 5) -> list[int]:
    """How many byte strings of 0 to ``longest`` bytes are accepted, counted as paths."""
    paths = np.zeros(automaton.states + 1, dtype=np.int64)
    paths[automaton.start] = 1
    counts = []
    for _ in range(longest + 1):
        counts.append(int(paths[automaton.accepting].sum()))
        following = np.zeros_like(paths)
        np.add.at(following, automaton.transitions, paths[:, None])
        paths = following
    return counts


def utf8_borders() -> Iterator[tuple[int, int]]:
    near = sorted({point + by for point in BORDERS for by in (-1, 0, 1) if 0 <= point + by <= 0x10FFFF})
    points = [point for point in near if not 0xD800 <= point < 0xE000]
    yield from ((first, last) for first in points for last in points if first <= last)


def test_ranges_between_all_borders_of_utf8_accept_their_characters_and_no_other_bytes():
    lengths = np.array([len(chr(point).encode("utf-8", "surrogatepass")) for point in range(0x110000)])
    lengths[0xD800:0xE000] = 0
    counted = np.stack([np.cumsum(lengths == length) for length in range(6)])
    for first, last in utf8_borders():
        automaton = build(Characters.of([(first, last)]))
        before = counted[1:, first - 1] if first else 0
        # As many byte strings of each length as the range has characters of it: with these below, no others.
        assert accepted_by_length(automaton)[1:] == (counted[1:, last] - before).tolist()
        for point in {first, last, (first + last) // 2} - set(range(0xD800, 0xE000)):
            assert automaton.matches(chr(point).encode())


def test_every_character_is_accepted_and_no_surrogate_or_overlong_form():
    automaton = build(Characters(()).complement())
    for point in range(0, 0x110000, 7):
        surrogate = 0xD800 <= point < 0xE000
        assert automaton.matches(chr(point).encode("utf-8", "surrogatepass")) != surrogate
    for wrong in (b"", b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80"):
        assert not automaton.matches(wrong)
    assert automaton.states == 9


@pytest.mark.parametrize("seed", range(4))
def test_scattered_characters_are_accepted_and_no_others(seed: int):
    random = np.random.default_rng(seed)
    chosen = {int(point) for point in random.integers(0, 0x10FFFF, 60)} | {
        int(p) for p in random.integers(0, 0x900, 60)
    }
    chosen -= set(range(0xD800, 0xE000))
    automaton = build(Characters.of([(point, point) for point in chosen]))
    for point in range(0x110000):
        if point in chosen or point - 1 in chosen or not point % 97:
            assert automaton.matches(chr(point).encode("utf-8", "surrogatepass")) == (point in chosen)
    assert sum(accepted_by_length(automaton)) == len(chosen)


@pytest.mark.parametrize(
    "pattern", ["(a|aa)*b", "(a*)*", "(a?){50}a{50}", "((a|b)*|(ab)*)*", "(a|b)*a(a|b){10}", "(x+x+)+y"]
)
def test_patterns_that_make_other_matchers_hang_take_few_steps(pattern: str):
    automaton = build(parse(pattern))
    assert automaton.steps < 200_000
    for text in ("", "a" * 50, "a" * 101, "aab", "ab" * 8, "xxy", "b" * 40 + "a" * 11):
        assert len(text) > 20 or automaton.matches(text.encode()) == bool(re.fullmatch(pattern, text))
    assert automaton.matches(automaton.shortest())


@pytest.mark.parametrize("most", [20, 200, 1000])
def test_a_long_counted_json_string_has_13_states_a_character(most: int):
    automaton = build(parse(f'"{JSON_CHARACTER}{{0,{most}}}"'))
    assert automaton.states == 13 * most + 3
    for length in (0, most - 1, most, most + 1):
        for character in ("a", "€", "😀", r"\n", r"\u00e9"):
            assert automaton.matches(f'"{character * length}"'.encode()) == (length <= most)


def any_json(depth: int) -> Expression:
    """Arrays in arrays and in objects, each item one object of the tree that stands twice in it."""
    scalar = any_of(parse(f'"{JSON_CHARACTER}*"'), parse(r"-?(0|[1-9]\d*)(\.\d+)?"), "true", "false", "null")
    if not depth:
        return scalar
    value = any_json(depth - 1)
    member = joined(parse(f'"{JSON_CHARACTER}*"'), ":", value)
    array, members = (joined(item, Repeat(joined(",", item), 0, None)) for item in (value, member))
    return any_of(scalar, joined("[", optional(array), "]"), joined("{", optional(members), "}"))


def test_a_list_of_shared_items_does_not_double_at_every_level():
    expression = any_json(5)
    with pytest.raises(ConstraintError, match="more than 1000 places"):
        build(expression, Limits(nfa_states=1000))
    automaton = build(expression, Limits(nfa_states=10_000))
    assert automaton.matches(b'{"a":[1,[],{"b":{"c":[true,"x",-0.5]}}],"\\u00e9":{}}')
    assert automaton.matches(b"[[[[[]]]]]")
    assert not automaton.matches(b"[[[[[[]]]]]]")
    assert not automaton.matches(b"[1,]")


def test_deep_trees_do_not_overflow_the_stack():
    expression: Expression = Literal("a")
    for _ in range(5000):
        expression = Repeat(Sequence((AnyOf((expression, NOTHING)), EMPTY)), 1, 1)
    assert build(expression).states == 2


@pytest.mark.parametrize(
    ("expression", "limits", "named"),
    [
        (parse("(.*a.{8})"), Limits(states=1000), "needs .* states .*leave out alternatives"),
        (parse("(a|b)*a(a|b){30}"), Limits(states=500), "1000 states before it is minimised.*leave out alternatives"),
        (parse("((a{0,100}){0,100}){0,100}"), Limits(nfa_states=9000), "9000 places.*leave out alternatives"),
        (Repeat(EMPTY, 10**12, 10**15), Limits(), "160000 places"),
        (Repeat(EMPTY, 10**12, None), Limits(), "160000 places"),
        (
            Repeat(any_of(*["x"] * 1000), 0, 9000),
            Limits(nfa_states=10_000),
            "40000 transitions.*leave out alternatives",
        ),
        (Literal("a" * 200_000), Limits(), "160000 places"),
        (parse("[a-w]{0,9}x"), Limits(states=9), "needs 11 states and may have 9;.*leave out alternatives"),
        (parse("(|){0,9000}"), Limits(steps=50_000), "more than 50000 steps .*leave out alternatives"),
        (parse("(a?){50}a{50}"), Limits(steps=10_000), "more than 10000 steps .*leave out alternatives"),
        (
            AllOf((parse("([ab]{30})*"), parse("([ab]{31})*"))),
            Limits(steps=5000),
            "more than 5000 steps .*leave out alternatives",
        ),
        (AllOf((parse("([ab]{30})*"), parse("([ab]{31})*"))), Limits(states=100), "before it is minimised"),
    ],
)
def test_a_limit_that_is_passed_is_named_with_what_would_help(expression: Expression, limits: Limits, named: str):
    with pytest.raises(ConstraintError, match=named):
        build(expression, limits)


def test_a_text_that_can_stand_at_too_many_places_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redraft.constrain.automaton.limits.MAX_MEMBERS", 50_000)
    with pytest.raises(ConstraintError, match="too many places of the constraint at once"):
        build(parse("a?" * 400))
    assert build(parse("a?" * 100)).states == 101


def test_steps_are_the_same_on_every_machine_and_grow_with_the_work():
    """What is within the limit here is within it everywhere."""
    steps = [build(parse(f"[a-w]{{0,{count}}}x")).steps for count in (10, 20, 40, 10)]
    assert steps[0] == steps[3]
    assert steps[2] - steps[1] == pytest.approx(2 * (steps[1] - steps[0]), rel=0.1)
    assert build(parse("[a-w]{0,40}x"), Limits(steps=steps[2])).steps == steps[2]
    with pytest.raises(ConstraintError, match=f"more than {steps[2] - 1} steps"):
        build(parse("[a-w]{0,40}x"), Limits(steps=steps[2] - 1))


@pytest.mark.parametrize("field", ["states", "nfa_states", "steps"])
def test_a_limit_of_nothing_is_refused(field: str):
    with pytest.raises(ValueError, match=f"{field}=0 "):
        Limits(**{field: 0})


@pytest.mark.parametrize(
    "expression",
    [
        NOTHING,
        Characters(()),
        Repeat(Literal("a"), 3, 2),
        AllOf((Literal("a"), Literal("b"))),
        AllOf((parse("a*"), parse("b+"), parse("[ab]*"))),
        AllOf((parse("(aa)*a"), parse("(aa)*"))),
        joined("x", AllOf((parse("[a-f]"), parse("[g-z]"))), "y"),
    ],
)
def test_what_no_text_satisfies_is_refused_as_a_contradiction(expression: Expression):
    with pytest.raises(ConstraintError, match="contradicts itself"):
        build(expression)


def test_an_intersection_is_numbered_like_what_it_amounts_to():
    both = AllOf((parse("[ad]x[1-4]|[bc]y[1-4]"), parse("a[xy]1|b[xy]2|c[xy]3|d[xy]4")))
    assert same(build(both), build(parse("ax1|by2|cy3|dx4")))


@pytest.mark.parametrize("others", [["ad", "bd"], ["adef", "bdef", "cdef"]])
def test_what_is_excluded_after_texts_that_go_on_makes_them_no_one_text(others: list[str]):
    """Dead ends, which an exclusion leaves, must not keep states from being told apart."""
    wanted = ["axp", "bxq", "cyp", "z"]

    automaton = build(Without(any_of(*wanted, *others), any_of(*others)))

    written = ["".join(letters) for letters in product("abc", "xyd", "pqe", ["", "f"])]
    assert [text for text in [*written, *others, "z"] if automaton.matches(text.encode())] == wanted


def test_a_contradiction_in_one_option_leaves_the_others():
    impossible = AllOf((Literal("a"), Literal("b")))
    assert same(build(AnyOf((joined("x", impossible), Literal("c")))), build(Literal("c")))


def test_all_of_counts_and_patterns_hold_together():
    automaton = build(AllOf((parse(".{3,5}"), parse(r"(\d|é)+"), parse(".*é.*"))))
    for text in map("".join, (t for n in range(7) for t in product("1é", repeat=n))):
        assert automaton.matches(text.encode()) == (3 <= len(text) <= 5 and "é" in text)


def test_one_all_of_in_many_places_is_one_language_in_each():
    part = AllOf((parse("[ab]+"), parse(".{2}")))
    automaton = build(joined(part, ",", Repeat(part, 2, 2)))
    assert automaton.matches(b"ab,aabb")
    assert not automaton.matches(b"ab,aab")


def test_all_of_inside_all_of_is_built_or_refused_and_never_overflows():
    expression: Expression = Literal("a")
    for _ in range(3000):
        expression = AllOf((joined(expression, EMPTY),))
    with pytest.raises(ConstraintError, match="AllOf stands inside AllOf more than 20 deep"):
        build(expression)
    assert build(AllOf((AllOf((AllOf((Literal("a"),)),)),))).states == 2


def test_all_of_nothing_and_half_a_surrogate_pair_are_refused():
    with pytest.raises(ConstraintError, match="AllOf has no parts"):
        build(AllOf(()))
    with pytest.raises(ConstraintError, match=r"'\\ud83d' at position 2"):
        build(Literal("ab\ud83d"))


@pytest.mark.parametrize(
    ("expression", "beginning"),
    [
        (any_of("yes", "yelp"), b"ye"),
        (any_of("yes", "no"), b""),
        (any_of("a", "ab"), b"a"),
        (joined("x", Repeat(Literal("y"), 0, None), "z"), b"x"),
        (any_of("é", "è"), b"\xc3"),
        (joined("a", Marker(3), "b"), b"a\xfbb"),
    ],
)
def test_the_beginning_is_what_all_texts_share(expression: Expression, beginning: bytes) -> None:
    assert build(expression).beginning() == beginning
