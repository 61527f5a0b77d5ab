"""JSON texts (RFC 8259) as expressions: strings, numbers, fixed and free values, and how objects and arrays are laid
out."""

import json
import typing
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from redraft.constrain.expression import (
    EMPTY,
    LAST_CODE_POINT,
    AllOf,
    AnyOf,
    Characters,
    Expression,
    Literal,
    Marker,
    Network,
    Repeat,
    Sequence,
    Without,
    any_of,
    joined,
    optional,
)
from redraft.constrain.language.json.ways import Ways
from redraft.errors import ConstraintError

Whitespace = typing.Literal["compact", "one-space", "free"]

DIGIT = Characters.among("0123456789")
INTEGER = any_of("0", joined(optional(Literal("-")), Characters.among("123456789"), Repeat(DIGIT, 0, None)))
"""Integers without -0, which is no other number than 0."""
# Larger exponents overflow a double, and a reader then gets infinity.
_EXPONENT = joined(Characters.among("eE"), optional(Characters.among("+-")), Repeat(DIGIT, 1, 2))
NUMBER = joined(
    optional(Literal("-")),
    any_of("0", joined(Characters.among("123456789"), Repeat(DIGIT, 0, None))),
    optional(joined(".", Repeat(DIGIT, 1, None))),
    optional(_EXPONENT),
)
# So few digits that a double holds them all, and no two of these numbers are one to a reader of doubles.
_SHORT = joined(
    optional(Literal("-")), any_of("0", joined(Characters.among("123456789"), Repeat(DIGIT, 0, 8))), Literal(".")
)
PROPER_FRACTION = AllOf(
    (
        joined(_SHORT, Repeat(DIGIT, 1, 6)),
        joined(
            Repeat(Characters.among("-.0123456789"), 0, None),
            ".",
            Repeat(DIGIT, 0, None),
            Characters.among("123456789"),
            Repeat(DIGIT, 0, None),
        ),
    )
)
"""Numbers that are no integers, without an exponent and with few digits."""
DECIMAL = any_of(INTEGER, joined(_SHORT, Repeat(DIGIT, 1, 6)))
"""Numbers without an exponent, and with few digits before and after a point."""

ANY_CHARACTER = Characters.of([(0, LAST_CODE_POINT)])
IN_A_LINE = Characters.among("\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029").complement()
"""Any character that ends no line."""
_SHORT_ESCAPES = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_ESCAPED = Characters.of([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
_UNESCAPED = _ESCAPED.complement()

_HEX = Characters.among("0123456789abcdefABCDEF")
_HEX_BUT_D = Characters.among("0123456789abcefABCEF")
_D = Characters.among("dD")
_UNICODE_ESCAPE = joined(
    "\\u",
    any_of(
        joined(_HEX_BUT_D, _HEX, _HEX, _HEX),
        joined(_D, Characters.among("01234567"), _HEX, _HEX),
        joined(_D, Characters.among("89abAB"), _HEX, _HEX, "\\u", _D, Characters.among("cdefCDEF"), _HEX, _HEX),
    ),
)
CHARACTER = any_of(_UNESCAPED, joined("\\", Characters.among('"\\/bfnrt')), _UNICODE_ESCAPE)
"""Any character of a string's value in any spelling; the two halves of a surrogate pair are one character."""

# Further keys that begin with so many characters of a declared one are not written, which bounds the automaton.
_KEY_PREFIX = 64


STRING = joined('"', Repeat(CHARACTER, 0, None), '"')


def string(min_length: int, max_length: int | None) -> Expression:
    """A string whose value has from ``min_length`` to ``max_length`` characters."""
    # Where characters are counted, each more state for one is there as often as the count says.
    return STRING if (min_length, max_length) == (0, None) else string_of(Repeat(ANY_CHARACTER, min_length, max_length))


def string_of(value: Expression) -> Expression:
    """A string whose value matches ``value``. Only characters that must be escaped are."""
    return joined('"', _spelled(value), '"')


def _spelled(value: Expression) -> Expression:
    match value:
        case Characters():
            return _spelled_character(value)
        case Literal(text):
            return Sequence(tuple(_spelled_character(Characters.among(character)) for character in text))
        case Sequence(parts):
            return Sequence(tuple(_spelled(part) for part in parts))
        case AnyOf(options):
            return AnyOf(tuple(_spelled(option) for option in options))
        case AllOf(parts):
            return AllOf(tuple(_spelled(part) for part in parts))
        case Without(part, excluded):
            return Without(_spelled(part), _spelled(excluded))
        case Network(places, edges):
            return Network(places, tuple((source, _spelled(part), target) for source, part, target in edges))
        case Repeat(part, low, high):
            return Repeat(_spelled(part), low, high)
        case Marker():
            raise ValueError("a marker is no text, and cannot stand in a JSON string")


@lru_cache(1024)
def _spelled_character(characters: Characters) -> Expression:
    escaped = [chr(code) for first, last in _common(characters, _ESCAPED) for code in range(first, last + 1)]
    # All spellings with the same beginning are one option, so that the automaton has few branches.
    by_beginning: dict[str, str] = {}
    for character in escaped:
        code = f"{ord(character):02x}"
        short = _SHORT_ESCAPES.get(character)
        beginning, ending = ("\\", short) if short else (f"\\u00{code[0]}", code[1] + code[1].upper())
        by_beginning[beginning] = by_beginning.get(beginning, "") + ending
    options = [joined(beginning, Characters.among(endings)) for beginning, endings in by_beginning.items()]
    plain = Characters.of(_common(characters, _UNESCAPED))
    return any_of(plain, *options) if options else plain


def _common(left: Characters, right: Characters) -> list[tuple[int, int]]:
    pairs = ((max(a, c), min(b, d)) for a, b in left.ranges for c, d in right.ranges)
    return [(first, last) for first, last in pairs if first <= last]


def fixed(value: object, layout: "Layout") -> Expression:
    """Exactly this value, members in the order in which they are given."""
    if isinstance(value, Mapping):
        members = [Member(member(layout, fixed_key(key), fixed(item, layout)), True) for key, item in value.items()]
        return object_text(layout, members, None)
    if isinstance(value, list | tuple):
        return array_text(layout, [fixed(item, layout) for item in value], None, len(value), len(value))
    return Literal(json.dumps(value, ensure_ascii=False))


def spellings(number: int | float) -> Expression:
    """All texts of a number that have no exponent."""
    whole, _, after = f"{Decimal(str(number)).normalize():f}".partition(".")
    zeros = Repeat(Literal("0"), 0, None)
    text = joined(whole, joined(f".{after}", zeros) if after else optional(joined(".0", zeros)))
    return text if number else any_of(text, joined("-", text))


def fixed_key(key: str) -> Expression:
    """The key of a member."""
    return Literal(json.dumps(key, ensure_ascii=False))


def other_key(keys: Iterable[str], within: Expression | None = None) -> Expression:
    """A string that is none of ``keys``, so that it cannot overwrite a member that stands before it.

    Where ``within`` is given, its value matches that as well.
    """
    excluded = set(keys)
    if within is not None:
        return string_of(AllOf((within, other_text(excluded))) if excluded else within)
    return string_of(other_text(excluded)) if excluded else STRING


def other_text(excluded: set[str]) -> Expression:
    """Any text that is none of ``excluded``."""
    end, apart = 1, 2
    # From a place for each beginning of an excluded text another character leads apart, and a text may end there.
    ways: list[tuple[int, Expression, int]] = [(apart, Repeat(ANY_CHARACTER, 0, None), end)]
    waiting, places = [(0, excluded, 0)], 3
    for place, texts, length in waiting:
        by_first: dict[str, set[str]] = {}
        for text in texts - {""}:
            by_first.setdefault(text[0], set()).add(text[1:])
        ways.append((place, Characters.among("".join(sorted(by_first))).complement(), apart))
        if "" not in texts:
            ways.append((place, EMPTY, end))
        for first, rests in sorted(by_first.items()) if length + 1 < _KEY_PREFIX else ():
            ways.append((place, Literal(first), places))
            waiting.append((places, rests, length + 1))
            places += 1
    return Network(places, tuple(ways))


@dataclass(frozen=True)
class Layout:
    """The text around the members of an object and the items of an array."""

    inside: Expression
    """The text after an opening bracket and before a closing one."""
    comma: Expression
    colon: Expression

    @classmethod
    def of(cls, whitespace: Whitespace) -> "Layout":
        if whitespace == "compact":
            return cls(EMPTY, Literal(","), Literal(":"))
        if whitespace == "one-space":
            return cls(EMPTY, Literal(", "), Literal(": "))
        if whitespace == "free":
            space = Repeat(Characters.among(" \t\n\r"), 0, None)
            return cls(space, joined(space, ",", space), joined(space, ":", space))
        raise ConstraintError(f"whitespace {whitespace!r} is unknown; use 'compact', 'one-space' or 'free'")


@dataclass(frozen=True)
class Member:
    """A member of an object, key and value, and whether it must be there."""

    text: Expression
    required: bool


def member(layout: Layout, key: Expression, value: Expression) -> Expression:
    """Key and value."""
    return joined(key, layout.colon, value)


def object_text(layout: Layout, members: ListOf[Member], further: Expression | None) -> Expression:
    """An object with ``members`` in this order, then any number of ``further`` ones."""
    ways = Ways((0, False))
    # A place is how many members have been passed, and whether one of them was written; beside it, the place after the
    # comma, so that each member stands there once.
    for index, one in enumerate(members):
        ways.add((index, False), EMPTY, index)
        ways.add((index, True), layout.comma, index)
        ways.add(index, one.text, (index + 1, True))
        if not one.required:
            ways.add((index, False), EMPTY, (index + 1, False))
            ways.add((index, True), EMPTY, (index + 1, True))
    last = len(members)
    if further is not None:
        ways.add((last, False), EMPTY, last)
        ways.add((last, True), layout.comma, last)
        ways.add(last, further, (last, True))
    for begun in (False, True):
        ways.add((last, begun), EMPTY, None)
    return _bracketed(layout, "{", ways.network() if members or further is not None else EMPTY, "}")


def array_text(
    layout: Layout, prefix: ListOf[Expression], rest: Expression | None, min_items: int, max_items: int | None
) -> Expression:
    """An array of ``min_items`` to ``max_items`` items: first those of ``prefix``, then any number of ``rest``."""
    prefix = prefix if max_items is None else prefix[:max_items]
    further = None if max_items is None else max_items - len(prefix)
    if rest is None:
        further = 0
    texts = [] if min_items else [_bracketed(layout, "[", EMPTY, "]")]
    if not prefix and further != 0 and rest is not None:
        texts.append(_bracketed(layout, "[", _list(layout, rest, max(min_items, 1), further), "]"))
    elif prefix:
        after = [joined(layout.comma, item) for item in prefix]
        fixed_count = max(min_items, 1)
        tail: list[Expression] = list(after[fixed_count:])
        if rest is not None and further != 0:
            tail.append(Repeat(joined(layout.comma, rest), max(min_items - len(prefix), 0), further))
        ending = _beginnings(tail) if min_items < len(prefix) else joined(*tail)
        texts.append(_bracketed(layout, "[", joined(prefix[0], *after[1:fixed_count], ending), "]"))
    return any_of(*texts)


def _beginnings(parts: ListOf[Expression]) -> Expression:
    """The first n of the parts, for any n; the last of them may be left out like all others."""
    if len(parts) < 2:
        return optional(parts[0]) if parts else EMPTY
    half = len(parts) // 2
    return any_of(_beginnings(parts[:half]), joined(*parts[:half], _beginnings(parts[half:])))


def _list(layout: Layout, item: Expression, min_items: int, max_items: int | None) -> Expression:
    """``min_items`` (1 or more) to ``max_items`` items with commas between them."""
    following = joined(layout.comma, item)
    if max_items is not None:
        return joined(item, Repeat(following, min_items - 1, max_items - 1))
    # An item directly before the repeat of itself is what the automaton builder writes out once, not twice.
    return joined(Repeat(joined(item, layout.comma), min_items - 1, min_items - 1), item, Repeat(following, 0, None))


def _bracketed(layout: Layout, opening: str, content: Expression, closing: str) -> Expression:
    if content == EMPTY:
        return joined(opening, layout.inside, closing)
    return joined(opening, layout.inside, content, layout.inside, closing)


@lru_cache(64)
def any_value(layout: Layout, depth: int) -> Expression:
    """Any JSON value whose arrays and objects are nested at most ``depth`` deep."""
    value: Expression = any_of(STRING, NUMBER, "true", "false", "null")
    scalars = value
    for _ in range(depth):
        pair = member(layout, STRING, value)
        value = any_of(scalars, array_text(layout, [], value, 0, None), object_text(layout, [], pair))
    return value
