"""Patterns compared with Python's re on texts that match, texts that nearly do, and texts at random.

Where dialects read a pattern differently, a text has to match in each of them.
"""

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redraft.constrain.automaton.bytes import build
from redraft.constrain.expression import NOTHING, AnyOf, Characters, Literal, Sequence
from redraft.constrain.language.json.patterns import automaton as searched
from redraft.constrain.language.regex import parse
from redraft.errors import ConstraintError
from tests.constrain.judges import full_match

# One, two, three and four bytes of UTF-8; digits, spaces, and what \d and \w match in some dialects only.
DISPUTED = "é٣"
ALPHABET = "ab1_- \n]^.\u00b7€\ud7ff\uffff😀" + DISPUTED

# A pattern, and a text that may well match it.
Made = tuple[str, str]

characters = st.sampled_from(ALPHABET)
plain = characters.map(re.escape)
escapes = st.sampled_from([r"\d", r"\D", r"\w", r"\W", r"\s", r"\S"])
coded = st.sampled_from([r"\n", r"\x61", r"\xe9", r"\u20ac", r"\u0062", r"\-", r"\]", r"\^", r"\.", r"\ "])
ranges = st.tuples(characters, characters).map(lambda ends: "-".join(map(re.escape, sorted(ends))))
sets = st.tuples(
    st.sampled_from(["", "^"]),
    st.lists(plain | escapes | coded | ranges, min_size=1, max_size=4).map("".join),
    st.sampled_from(["", "-"]),
).map(lambda items: f"[{''.join(items)}]")
counts = st.sampled_from(["*", "+", "?", "{2}", "{0}", "{1,}", "{0,2}", "{2,3}", "{0,1}", "{2,}"])


@st.composite
def single(draw: st.DrawFn) -> Made:
    pattern = draw(plain | escapes | coded | sets | st.just("."))
    matching = [character for character in ALPHABET if re.fullmatch(pattern, character, re.ASCII)]
    return pattern, draw(st.sampled_from(matching or ["a"]))


def in_sequence(parts: list[Made]) -> Made:
    return "".join(pattern for pattern, _ in parts), "".join(text for _, text in parts)


def one_of(options: list[Made]) -> Made:
    return f"({'|'.join(pattern for pattern, _ in options)})", options[-1][1]


def repeated(part: Made, count: str, lazy: str, times: int) -> Made:
    return f"(?:{part[0]}){count}{lazy}", part[1] * times


def larger(part: st.SearchStrategy[Made]) -> st.SearchStrategy[Made]:
    return (
        st.lists(part, max_size=3).map(in_sequence)
        | st.lists(part, min_size=1, max_size=3).map(one_of)
        | st.builds(repeated, part, counts, st.sampled_from(["", "?"]), st.integers(0, 3))
    )


patterns = st.recursive(single(), larger, max_leaves=8)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Like re.fullmatch; a pattern that nothing matches is no automaton."""
    expression = parse(pattern)
    try:
        automaton = build(expression)
    except ConstraintError as error:
        if "contradicts itself" not in str(error):
            raise
        return lambda text: False
    return lambda text: automaton.matches(text.encode())


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(patterns, st.lists(st.text(ALPHABET, max_size=6), max_size=10), characters, st.integers(0, 12))
def test_a_pattern_matches_what_re_fullmatch_matches(made: Made, candidates: list[str], other: str, place: int):
    pattern, text = made[0], made[1][:12]
    ours, theirs = matcher(pattern), re.compile(pattern, re.ASCII)
    before, after = text[:place], text[place:]
    neighbours = {before + after[1:], before + other + after, before + other + after[1:], before, text + "\n"}
    for candidate in {"", text, *neighbours, *ALPHABET, *candidates}:
        if set(candidate) & set(DISPUTED):
            assert ours(candidate) <= full_match(pattern, candidate), candidate
        else:
            assert ours(candidate) == bool(theirs.fullmatch(candidate)), candidate


@cache
def every_character() -> str:
    return "".join(map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))))


def places(characters: str) -> NDArray[np.bool_]:
    """[code points]: True for those of the characters."""
    found = np.zeros(sys.maxunicode + 1, dtype=bool)
    found[np.frombuffer(characters.encode("utf-32-le"), dtype=np.uint32)] = True
    return found


def matching(pattern: str, flags: int = 0) -> NDArray[np.bool_]:
    return places("".join(re.findall(pattern, every_character(), flags)))


@cache
def of_category(names: str) -> NDArray[np.bool_]:
    """Characters whose category begins with one of the names."""
    return places("".join(c for c in every_character() if unicodedata.category(c).startswith(tuple(names.split()))))


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("letter", "dws")
def test_class_escapes_match_what_they_match_in_every_dialect(letter: str, negated: bool):
    """By ASCII, by Unicode and by JavaScript, whose classes are ASCII but for the white space."""
    every, escape = places(every_character()), f"\\{letter.upper() if negated else letter}"
    in_all = matching(escape) & matching(escape, re.ASCII)
    if letter == "s":
        of_javascript = of_category("Z") | places("\t\n\v\f\r\ufeff")
        # And RE2, which does not count the vertical tab.
        in_all &= ~of_javascript if negated else of_javascript & ~places("\v")
    if (letter, negated) == ("w", True):
        # Marks and what joins words are parts of words in Rust and .NET.
        in_all &= ~(of_category("Mn Mc Me Pc") | places("\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"))
    borders = np.flatnonzero(np.diff(np.concatenate([[0], in_all & every, [0]]).astype(np.int8))).reshape(-1, 2)
    expected = Characters.of([(first, beyond - 1) for first, beyond in borders.tolist()])
    assert parse(escape) == parse(f"[{escape}]") == expected
    opposite = escape.swapcase()
    assert parse(f"[^{opposite}]") == expected
    # In some dialect matches all that its opposite does not match in every one.
    assert parse(opposite, any_dialect=True) == parse(f"[^{escape}]", any_dialect=True) == expected.complement()


def test_the_dot_is_every_character_that_ends_no_line():
    assert parse(".") == Characters.among("\n\r\u2028\u2029").complement()
    assert parse(".", any_dialect=True) == Characters.among("\n").complement()


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("", ""),
        ("^abc$", "abc"),
        ("^$", ""),
        (r"a\$", "a$"),
        (r"\^a", "^a"),
        (r"\u{1F600}\u{61}", "😀a"),
        (r"\ud83d\ude00", "😀"),
        (r"\uD83D\uDE00", "😀"),
        (r"[\ud83d\ude00]", "😀"),
        (r"\0\x00[\0]", "\0\0\0"),
        (r"\f\v\t\r\n", "\f\v\t\r\n"),
        (r"[\b]", "\b"),
        (r"\/\"\'\{\}\ \€", "/\"'{} €"),
        ("{a}", "{a}"),
        ('{"a": [0-9]}', '{"a": 1}'),
        ("}", "}"),
        ("]", "]"),
        ("a{}", "a{}"),
        ("(?<year>1)(?P<month_2>2)", "12"),
        ("[a^]", "^"),
        ("[-a]", "-"),
        ("[a-]", "-"),
        ("[+--]", ","),
        ("[[]", "["),
        ("[.$|(){}*+?]", "*"),
        ("(|a)b", "b"),
        ("(a|)b", "b"),
        ("()", ""),
        ("a|", ""),
        ("a{0}", ""),
        ("a{002}", "aa"),
    ],
)
def test_common_syntax_beyond_the_fuzzed_matches_this_text_and_not_more(pattern: str, text: str):
    ours = matcher(pattern)
    assert ours(text)
    assert not ours(text + "\n")
    assert not ours("\n" + text)


def test_neighbouring_characters_become_one_literal():
    assert parse(r"a(b)\u{63}\.(?:)d|e") == AnyOf(
        (Sequence((Literal("abc."), Sequence(()), Literal("d"))), Literal("e"))
    )


@pytest.mark.parametrize(
    ("pattern", "position", "named"),
    [
        ("x(ab(?=c))", 4, "lookahead (?=...) inside a group is not supported"),
        ("(?:a(?!c))*", 4, "negative lookahead (?!...) inside a group is not supported"),
        ("(?!a(?!c))", 4, "negative lookahead (?!...) inside a group is not supported"),
        ("(?!a)*", 5, "has nothing to repeat"),
        ("(?<=a)b", 0, "lookbehind (?<=...) is not supported"),
        ("(?<!a)b", 0, "negative lookbehind (?<!...) is not supported"),
        ("a(?>b)", 1, "atomic group (?>...) is not supported"),
        ("(?i)a", 0, "inline flag group (?i) is not supported"),
        ("a(?i:b)", 1, "inline flag group (?i: is not supported"),
        ("(?-s:b)", 0, "inline flag group (?-s: is not supported"),
        ("(?P<a>b)(?P=a)", 8, "back-reference (?P=...) is not supported"),
        (r"(a)\1", 3, r"back-reference \1 is not supported"),
        (r"(?<a>b)\k<a>", 7, r"back-reference \k is not supported"),
        (r"a\b", 1, r"word boundary \b is not supported"),
        (r"\Ba", 0, r"word boundary \B is not supported"),
        (r"\Aa", 0, r"anchor \A is not supported"),
        (r"a\Z", 1, r"anchor \Z is not supported"),
        (r"\p{L}", 0, r"Unicode property \p is not supported"),
        (r"[\P{L}]", 1, r"Unicode property \P is not supported"),
        (r"\cA", 0, r"control character \c is not supported"),
        (r"\01", 0, r"octal escape"),
        ("ab*+", 2, "possessive repeat *+ is not supported"),
        ("ab{1,2}+", 2, "possessive repeat {1,2}+ is not supported"),
        ("(?(1)a)", 0, "conditional (?(...)...) is not supported"),
        ("(?#a)", 0, "comment (?#...) is not supported"),
        ("(?R)", 0, "recursion (?R) is not supported"),
        ("(?|a)", 0, "branch reset (?|...) is not supported"),
        ("[[:alpha:]]", 1, "POSIX class such as [:alpha:] is not supported"),
        ("(?P<1a>b)", 0, "group's name"),
        ("(?<a", 0, "group's name"),
        ("(?P<a>b)(?<a>c)", 8, "two groups have the name a"),
        ("(?", 0, "not known"),
        ("(?*a)", 0, "not known"),
        ("a^", 1, "only at the very start"),
        ("(^a)", 1, "only at the very start"),
        ("^^", 1, "only at the very start"),
        ("a$b", 1, "only at the very end"),
        ("(a$)", 2, "only at the very end"),
        ("a(b", 1, "never closed"),
        ("(a(b)", 0, "never closed"),
        ("ab)", 2, "closes no group"),
        ("a[bc", 1, "never closed"),
        ("a[b-", 1, "never closed"),
        ("[]a]", 1, "begins with ]"),
        ("[^]a]", 2, "begins with ]"),
        ("a[d-b]", 2, "range d-b ends below its start; write b-d"),
        (r"[a-\d]", 1, r"range a-\d has an end that is no single character"),
        (r"[\w-z]", 1, r"range \w-z has an end that is no single character"),
        ("*a", 0, "* has nothing to repeat"),
        ("a|+", 2, "+ has nothing to repeat"),
        ("(?:?)", 3, "? has nothing to repeat"),
        ("a**", 2, "* has nothing to repeat"),
        ("a{2}{3}", 4, "{ has nothing to repeat"),
        ("^*", 1, "* has nothing to repeat"),
        ("a???", 3, "? has nothing to repeat"),
        ("a{3,1}", 1, "count {3,1} ends below its start; write {1,3}"),
        ("a{,3}", 1, "none of {m}, {m,} and {m,n}"),
        ("a{3", 1, "none of {m}, {m,} and {m,n}"),
        ("a{3,x}", 1, "none of {m}, {m,} and {m,n}"),
        ("a{1000001}", 1, "too large"),
        ("a{1," + "9" * 5000 + "}", 1, "too large"),
        ("ab\\", 2, "a single \\ ends the pattern"),
        (r"\q", 0, r"escape \q is not known"),
        (r"[\q]", 1, r"escape \q is not known"),
        (r"a\x4", 1, "none of"),
        (r"\u12", 0, "none of"),
        (r"\u{}", 0, "none of"),
        (r"\u{110000}", 0, "above the last code point"),
        (r"\ud83d", 0, "half a surrogate pair"),
        (r"[\ude00]", 1, "half a surrogate pair"),
        (r"\ud83da", 0, "half a surrogate pair"),
        ("a\ud83d", 1, "half a surrogate pair"),
        ("[\ud83d]", 1, "half a surrogate pair"),
        ("\\\ud83d", 0, "half a surrogate pair"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_position(pattern: str, position: int, named: str):
    with pytest.raises(ConstraintError) as refusal:
        parse(pattern)
    assert f"position {position} " in str(refusal.value)
    assert named in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_deep_nesting_is_read_or_refused_and_never_overflows():
    for depth in (100, 101, 100_000):
        pattern = "(" * depth + "a" + ")?" * depth
        if depth > 100:
            with pytest.raises(ConstraintError, match=r"position 100 .* more than 100 deep"):
                parse(pattern)
        else:
            assert build(parse(pattern)).states == 2


@pytest.mark.filterwarnings("ignore:Possible nested set")
@given(st.text("(){}[]|*+?\\^$-,.12abdusxp<P=!:é\ud800", max_size=12))
@settings(deadline=None, max_examples=200)
def test_any_text_is_parsed_or_refused_and_what_re_reads_too_means_the_same(pattern: str):
    try:
        ours = matcher(pattern)
    except ConstraintError as error:
        if "position" not in str(error):
            raise
        return
    try:
        theirs = re.compile(pattern.removeprefix("^").removesuffix("$"), re.ASCII)
    except (re.error, OverflowError):
        return
    for text in ("", "a", "b", "1", "aa", "ab", "é", ",", "a1", "{", "-", pattern):
        if text.isprintable():
            assert ours(text) == bool(theirs.fullmatch(text)), (pattern, text)


def test_a_class_of_no_character_matches_nothing():
    with pytest.raises(ConstraintError, match="contradicts itself"):
        build(parse(r"a[^\d\D]"))
    assert build(AnyOf((parse(r"a[^\d\D]"), NOTHING, parse("b")))).shortest() == b"b"


LOOKAHEADS = [
    *("(?!ab)[abc]*", "(?!ab)c", "(?=.*b)[abc]{2,3}", "^(?!^a|b$).*", "a(?!b)(?!c).*", "(?=[^=]+$)(?!\\s+$)(.|\\n)+"),
    *(
        "a(?!b)[^a]|c(?=a).*",
        "(?!a$)[abc]*$",
        "(?![ab][ca])..?",
        "(?!.*(ab|ca)).{3}",
        "(?:ab)?(?=c)c",
        "(?=a)(?!ab)a.*",
    ),
]
SHORT_TEXTS = ["".join(letters) for size in range(5) for letters in product("abc", repeat=size)]
SHORT_TEXTS += ["=a", "a=", " ", "\n", "a\n", "b\n"]


@pytest.mark.parametrize("pattern", LOOKAHEADS)
def test_lookahead_is_that_of_python_on_every_short_text(pattern: str):
    """Both match the same texts: as a whole, and searched for as JSON schema does."""
    whole, found = build(parse(pattern)), searched(pattern, possibly=False)
    possibly = searched(pattern, possibly=True)
    for text in SHORT_TEXTS:
        assert whole.matches(text.encode()) == bool(re.fullmatch(pattern, text)), text
        # JavaScript's $ does not overlook a line feed at the end.
        in_all = bool(re.search(pattern, text)) and bool(re.search(pattern.replace("$", r"\Z"), text))
        assert found.matches(text.encode()) == in_all, text
        assert possibly.matches(text.encode()) or not re.search(pattern, text), text


def test_what_lookahead_excludes_in_any_dialect_is_excluded():
    """Arabic digits are digits to Python alone."""
    found, possibly = (searched(r"^(?!\d)", possibly=one) for one in (False, True))
    assert not found.matches("٣".encode())
    assert possibly.matches("٣".encode())
    assert not possibly.matches(b"3")
