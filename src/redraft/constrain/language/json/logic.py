"""The logic of JSON schemas: it decides whether a value is valid, and whether any is, without writing a text.

Readers of a schema differ about some strings: dialects of patterns about characters, and 'format' is tested strictly,
loosely or not at all. A value is *certainly* valid if it is so to all readers, and *possibly* if it may be so to some.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache, partial
from typing import Any

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.expression import NOTHING, AllOf, Expression, Literal, Repeat, any_of, joined, optional
from redraft.constrain.language import decimal_range, regex
from redraft.constrain.language import string_formats as formats
from redraft.constrain.language.decimal_range import Bound
from redraft.constrain.language.json.keywords import ForbiddenError, Value, fail
from redraft.constrain.language.json.merge import KINDS, Document, Merged, Places
from redraft.constrain.language.json.text import ANY_CHARACTER
from redraft.errors import ConstraintError

# Members and items are searched so deep for a reason why two options of a 'oneOf' exclude each other.
_LEVELS = 6


def accepts(document: Document, places: Places, value: Any, *, possibly: bool = False) -> bool:
    """True if a value is certainly (or ``possibly``) valid where ``places`` hold."""
    try:
        merged = document.merge(places)
    except ForbiddenError:
        return False
    if merged.values is not None:
        document.spend(merged.size)
        if Value.of(value) not in map(Value.of, merged.values):
            return False
    return satisfies(document, merged, value, possibly=possibly)


def satisfies(
    document: Document,
    merged: Merged,
    value: Any,
    chosen: frozenset[str] = frozenset(),
    *,
    possibly: bool = False,
) -> bool:
    """True if a value is certainly (or ``possibly``) valid under all that is merged, ``chosen`` alternatives aside.

    Where there is an 'enum', the value must be of it already.
    """
    kind = _kind(value)
    if merged.kinds is not None and kind not in merged.kinds:
        return False
    with document.nested(merged.pointer):
        return _accepts_kind(document, merged, kind, value, possibly) and all(
            _accepts_alternatives(document, one.keyword, one.options, value, possibly)
            for one in merged.alternatives
            if one.pointer not in chosen
        )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Mapping):
        return "object"
    return "null" if value is None else "array"


def _accepts_alternatives(document: Document, keyword: str, options: Places, value: Any, possibly: bool) -> bool:
    valid = sum(accepts(document, (option,), value, possibly=possibly) for option in options)
    if keyword == "anyOf" or not valid:
        return bool(valid)
    # No other option may hold as well: to any reader, if this is to be certain.
    return sum(accepts(document, (option,), value, possibly=not possibly) for option in options) <= 1


def _accepts_kind(document: Document, merged: Merged, kind: str, value: Any, possibly: bool) -> bool:
    match kind:
        case "integer" | "fraction":
            number = Decimal(str(value))
            return _on_side(number, merged.lower, 1) and _on_side(number, merged.upper, -1)
        case "string":
            automata = _automata(document, merged, possibly)
            document.spend(len(value) * len(automata))
            return _within(len(value), merged.length) and all(one.matches(value.encode()) for one in automata)
        case "object":
            return all(name in value for name in merged.required) and all(
                accepts(document, merged.member(name), member, possibly=possibly) for name, member in value.items()
            )
        case "array":
            return _within(len(value), merged.items) and all(
                accepts(document, merged.item(index), item, possibly=possibly) for index, item in enumerate(value)
            )
    return True


def _on_side(number: Decimal, bound: Bound | None, sign: int) -> bool:
    """True if a number is not below (sign 1) or not above (sign -1) a bound."""
    if bound is None:
        return True
    return sign * number > sign * bound.value or (number == bound.value and not bound.exclusive)


def _within(count: int, counts: tuple[int, int | None]) -> bool:
    return counts[0] <= count and (counts[1] is None or count <= counts[1])


def impossible(
    document: Document,
    places: Places,
    chosen: frozenset[str] = frozenset(),
    possible: frozenset[str] = KINDS,
    levels: int = _LEVELS,
) -> bool:
    """True if it is certain that no value of the ``possible`` kinds is valid where ``places`` hold.

    The places already hold an option of each of the ``chosen`` alternatives.
    """
    if levels == 0:
        return False
    try:
        merged = document.merge(places)
    except ForbiddenError:
        return True
    with document.nested(merged.pointer):
        if merged.values is not None:
            values = [value for value in merged.values if _kind(value) in possible]
            return not any(satisfies(document, merged, value, chosen, possibly=True) for value in values)
        kinds = possible if merged.kinds is None else possible & merged.kinds
        if all(_impossible_kind(document, merged, kind, levels) for kind in kinds):
            return True
        alternatives = next((one for one in merged.alternatives if one.pointer not in chosen), None)
        if alternatives is None:
            return False
        chosen |= {alternatives.pointer}
        return all(impossible(document, (*places, option), chosen, possible, levels) for option in alternatives.options)


def _impossible_kind(document: Document, merged: Merged, kind: str, levels: int) -> bool:
    match kind:
        case "integer":
            return decimal_range.integers(merged.lower, merged.upper) == NOTHING
        case "fraction":
            low, high = merged.lower, merged.upper
            return low is not None and high is not None and low.value >= high.value
        case "string":
            return not _any_string(document, merged)
        case "object":
            return any(impossible(document, merged.member(name), levels=levels - 1) for name in merged.required)
        case "array":
            return not _within(merged.items[0], merged.items) or any(
                impossible(document, merged.item(index), levels=levels - 1)
                for index in range(min(merged.items[0], len(merged.prefix) + 1))
            )
    return False


def _any_string(document: Document, merged: Merged) -> bool:
    low, high = merged.length
    if high is not None and high < low:
        return False
    texts = languages(merged, possibly=True)
    return not texts or not is_empty(document, AllOf((*texts, Repeat(ANY_CHARACTER, low, high))))


def is_empty(document: Document, expression: Expression) -> bool:
    """True if no text matches."""
    # A mark before each text, so that the empty text, which is allowed beside them, is none of them.
    return document.counted(byte_automaton.build(optional(joined("-", expression)))).states == 1


def languages(merged: Merged, *, possibly: bool = False) -> list[Expression]:
    """The texts that 'pattern' and 'format' allow as a string's value, certainly (or ``possibly``)."""
    texts = [_searched(*pattern, possibly) for pattern in merged.patterns]
    return texts if possibly else texts + [formats.expression(name) for name in merged.formats]


def _searched(pattern: str, pointer: str, possibly: bool) -> Expression:
    try:
        return searched(pattern, possibly=possibly)
    except ConstraintError as error:
        raise fail(pointer, f"'pattern': {error}") from None


def _automata(document: Document, merged: Merged, possibly: bool) -> list[ByteAutomaton]:
    searched = [
        document.automaton((pattern, possibly), partial(_pattern_automaton, pattern, pointer, possibly))
        for pattern, pointer in merged.patterns
    ]
    if possibly:
        return searched
    return searched + [document.automaton(name, partial(_format_automaton, name)) for name in merged.formats]


def _pattern_automaton(pattern: str, pointer: str, possibly: bool) -> ByteAutomaton:
    return byte_automaton.build(_searched(pattern, pointer, possibly))


@cache
def _format_automaton(name: str) -> ByteAutomaton:
    return byte_automaton.build(formats.expression(name))


def searched(pattern: str, *, possibly: bool = False) -> Expression:
    """Texts in which ``pattern`` is found somewhere, certainly or ``possibly``.

    ^ and $ fix it to the ends, each of its options for itself.
    """
    around = Repeat(ANY_CHARACTER, 0, None)
    found = []
    for option in _options(pattern):
        parts = [regex.parse(option, any_dialect=possibly)]
        if not option.startswith("^"):
            parts.insert(0, around)
        if not _ends_anchored(option):
            parts.append(around)
        elif possibly:
            # Python's $ overlooks a line feed at the end.
            parts.append(optional(Literal("\n")))
        found.append(joined(*parts))
    return any_of(*found)


def _options(pattern: str) -> list[str]:
    """The pattern cut at each | that is in no group and no class."""
    options, start, groups, in_class, position = [], 0, 0, False, 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif in_class or character == "[":
            in_class = character != "]"
        elif character in "()":
            groups += 1 if character == "(" else -1
        elif character == "|" and groups == 0:
            options.append(pattern[start:position])
            start = position + 1
        position += 1
    return [*options, pattern[start:]]


def _ends_anchored(option: str) -> bool:
    before = option.removesuffix("$")
    escapes = len(before) - len(before.rstrip("\\"))
    return before != option and escapes % 2 == 0
