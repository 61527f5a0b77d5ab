"""The logic of JSON schemas: it decides whether a value is valid, and whether any is, without writing a text.

Readers of a schema differ about some strings: dialects of patterns about characters, and 'format' is tested strictly,
loosely or not at all. A value is *certainly* valid if it is so to all readers, and *possibly* if it may be so to some.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import fitting
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.expression import NOTHING, AllOf, Expression, Repeat, Without, any_of, joined, optional
from redraft.constrain.language import decimal_range
from redraft.constrain.language import string_formats as formats
from redraft.constrain.language.decimal_range import Bound
from redraft.constrain.language.json import patterns
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import ForbiddenError, Value, fail
from redraft.constrain.language.json.merge import KINDS, Merged, Place, Places
from redraft.constrain.language.json.negation import BREAKS
from redraft.constrain.language.json.text import ANY_CHARACTER
from redraft.errors import ConstraintError

# Members and items are searched so deep for a reason why two options of a 'oneOf' exclude each other.
_LEVELS = 6
_SHORT = 32


def accepts(document: Document, places: Places, value: Any, *, possibly: bool = False) -> bool:
    """True if a value is certainly (or ``possibly``) valid where ``places`` hold."""
    try:
        merged = document.merge(places)
    except ForbiddenError:
        return False
    if merged.allowed is not None:
        document.spend(merged.size)
        if Value.of(value) not in merged.allowed:
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
    if merged.excluded and Value.of(value) in map(Value.of, merged.excluded):
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


def _accepts_alternatives(
    document: Document, keyword: str, options: tuple[Places, ...], value: Any, possibly: bool
) -> bool:
    valid = sum(accepts(document, option, value, possibly=possibly) for option in options)
    if keyword == "anyOf" or not valid:
        return bool(valid)
    # No other option may hold as well: to any reader, if this is to be certain.
    return sum(accepts(document, option, value, possibly=not possibly) for option in options) <= 1


def _accepts_kind(document: Document, merged: Merged, kind: str, value: Any, possibly: bool) -> bool:
    match kind:
        case "integer" | "fraction":
            number = Decimal(str(value))
            within = _on_side(number, merged.lower, 1) and _on_side(number, merged.upper, -1)
            return within and all(number % multiple == 0 for multiple in merged.multiples)
        case "string":
            return _accepts_text(document, merged, value, possibly)
        case "object":
            return _accepts_members(document, merged, value, possibly)
        case "array":
            return _accepts_items(document, merged, value, possibly)
    return True


def _accepts_text(document: Document, merged: Merged, value: str, possibly: bool) -> bool:
    if not _within(len(value), merged.length):
        return False
    if not all(document.matches(*pattern, value, possibly) for pattern in merged.patterns):
        return False
    if any(document.matches(*pattern, value, not possibly) for pattern in merged.unlike_patterns):
        return False
    # To some readers a format says nothing, so that no text is certain to lack one.
    if merged.unlike_formats and not possibly:
        return False
    tested = merged.unlike_formats if possibly else merged.formats
    document.spend(len(value) * len(tested))
    return all(_has_format(document, name, value) is not possibly for name in tested)


def _accepts_members(document: Document, merged: Merged, value: Mapping[str, Any], possibly: bool) -> bool:
    return (
        all(name in value for name in merged.required)
        and _within(len(value), merged.counts)
        and all(
            accepts(document, merged.member(name, possibly=possibly), member, possibly=possibly)
            for name, member in value.items()
        )
        and (not merged.keys or all(accepts(document, merged.keys, name, possibly=possibly) for name in value))
        and all(
            any(
                accepts(document, breach, member, possibly=possibly)
                for name, member in value.items()
                for breach in breaches(document, place.schema, place, name, possibly=possibly)
            )
            for place in merged.broken
        )
    )


def _accepts_items(document: Document, merged: Merged, value: Any, possibly: bool) -> bool:
    if not _within(len(value), merged.items):
        return False
    if merged.unique and len({Value.of(item) for item in value}) < len(value):
        return False
    if not all(accepts(document, merged.item(n), item, possibly=possibly) for n, item in enumerate(value)):
        return False
    for one in merged.contains:
        found = sum(accepts(document, one.places, item, possibly=possibly) for item in value)
        others = sum(accepts(document, one.places, item, possibly=not possibly) for item in value)
        if found < one.min or (one.max is not None and others > one.max):
            return False
    return True


def breaches(document: Document, schema: Any, place: Place, name: str, *, possibly: bool = False) -> list[Places]:
    """The schemas of which one holds for the member of that name where it breaks what ``BREAKS`` of a schema says."""
    stated = schema[BREAKS]
    found: list[Places] = []
    known = name in stated.get("properties", {})
    for pattern, part in stated.get("patternProperties", {}).items():
        if document.matches(pattern, place.pointer, name, possibly):
            found.append((place.inside(part, BREAKS, name, pattern).contrary(),))
        known |= document.matches(pattern, place.pointer, name, not possibly)
    if not known and "additionalProperties" in stated:
        found.append((place.inside(stated["additionalProperties"], BREAKS, name).contrary(),))
    if "propertyNames" in stated:
        key = place.inside(stated["propertyNames"], BREAKS, name, "~key").contrary()
        if accepts(document, (key,), name, possibly=possibly):
            found.append(())
    return found


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
        return all(
            impossible(document, (*places, *option), chosen, possible, levels) for option in alternatives.options
        )


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
            fewest = max(merged.counts[0], len(merged.required))
            return not _within(fewest, merged.counts) or any(
                impossible(document, merged.member(name, possibly=True), levels=levels - 1) for name in merged.required
            )
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
    texts, others = languages(merged, possibly=True), unlike(merged, possibly=True)
    if not texts and not others:
        return True
    value: Expression = AllOf((*texts, Repeat(ANY_CHARACTER, low, high)))
    return not is_empty(document, Without(value, any_of(*others)) if others else value)


def is_empty(document: Document, expression: Expression) -> bool:
    """True if no text matches."""
    # Where a short text matches, no long ones need be looked at.
    shorter = fitting.lowered(expression, _SHORT)
    return (shorter is expression or _matches_nothing(document, shorter)) and _matches_nothing(document, expression)


def _matches_nothing(document: Document, expression: Expression) -> bool:
    # A mark before each text, so that the empty text, which is allowed beside them, is none of them.
    return document.counted(byte_automaton.build(optional(joined("-", expression)))).states == 1


def languages(merged: Merged, *, possibly: bool = False) -> list[Expression]:
    """The texts that 'pattern' and 'format' allow as a string's value, certainly (or ``possibly``)."""
    texts = [searched(*pattern, possibly=possibly) for pattern in merged.patterns]
    return texts if possibly else texts + [formats.expression(name) for name in merged.formats]


def unlike(merged: Merged, *, possibly: bool = False) -> list[Expression]:
    """The texts of patterns that are not to be found in a string's value."""
    return [searched(*pattern, possibly=not possibly) for pattern in merged.unlike_patterns]


def searched(pattern: str, pointer: str, *, possibly: bool = False) -> Expression:
    """The texts in which a pattern is found; ConstraintError with its place for one that is not supported."""
    try:
        return patterns.searched(pattern, possibly=possibly)
    except ConstraintError as error:
        raise fail(pointer, f"'pattern': {error}") from None


def _has_format(document: Document, name: str, value: str) -> bool:
    return document.automaton(name, lambda: _format_automaton(name)).matches(value.encode())


@cache
def _format_automaton(name: str) -> ByteAutomaton:
    return byte_automaton.build(formats.expression(name))
