"""JSON schemas (draft 2020-12) as expressions: the JSON texts that are valid, and of these the ones worth writing.

Every text that matches is valid. Not every valid text matches:

- Without 'type', keywords that speak of one type imply it: a schema with 'properties' is that of an object.
- Members come in declared order. Without 'additionalProperties' only the declared ones are written, or, where
  'properties' is not there at all, any members. An array with 'prefixItems' and no 'items' likewise ends with these.
- Nothing keeps two further members from having the same key.
- Integers are written without a point and an exponent; bounded numbers without an exponent and with a limited number of
  decimal places; other numbers with an exponent of at most two digits.
- A string with 'pattern', 'format' or a length, and a further key beside declared ones, has only the escapes that JSON
  requires, so each value has one spelling.
- A 'pattern' matches in every dialect of regular expressions. A 'format' is always tested, and leaves out what is rare:
  leap seconds, more than six decimals of a second, quoted or bracketed parts of addresses.
- Options of 'oneOf' must exclude each other to readers with any dialect, and to those that do not test formats.
- Recursion, and nesting in free values, ends at a stated depth.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from redraft.constrain.expression import NOTHING, AllOf, Expression, Repeat, any_of
from redraft.constrain.language import decimal_range
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.keywords import ForbiddenError, ImpossibleError, TooDeepError, fail, read
from redraft.constrain.language.json.merge import KINDS, Alternatives, Document, Merged, Places
from redraft.constrain.language.json.text import ANY_CHARACTER, Layout, Member, Whitespace
from redraft.errors import ConstraintError

_MAX_DEPTH = 16


def expression(
    schema: Mapping[str, Any] | bool | str, *, whitespace: Whitespace = "compact", depth: int = 4
) -> Expression:
    """The JSON texts that are valid under a schema, given as an object or as JSON text.

    ``whitespace`` is none ("compact"), one space after each comma and colon ("one-space"), or any amount wherever JSON
    allows it inside the value ("free"). ``depth`` is how deep a schema may be in itself by '$ref', and how deep arrays
    and objects may be in one another where the schema does not say what they hold. Raise ConstraintError, naming the
    keyword and its JSON pointer, for what is not supported, malformed or contradicts itself.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= _MAX_DEPTH:
        raise ConstraintError(f"depth {depth!r} must be an integer from 1 to {_MAX_DEPTH}")
    return SchemaWriter.write_whole(schema, Layout.of(whitespace), depth)


class SchemaWriter:
    """Writes the expression of one document, place by place. How strings and keys are spelled can be overridden."""

    def __init__(self, document: Document, layout: Layout, depth: int) -> None:
        self._document = document
        self._layout = layout
        self._depth = depth
        self._exclusive: set[tuple[str, ...]] = set()

    @classmethod
    def write_whole(cls, schema: Mapping[str, Any] | bool | str, layout: Layout, depth: int) -> Expression:
        """The values that are valid under a schema, as this writer spells them."""
        document = Document(read(schema))
        return cls(document, layout, depth).write(document.root)

    def any_value(self, depth: int) -> Expression:
        """Any value nested at most ``depth`` deep."""
        return json_text.any_value(self._layout, depth)

    def fixed_value(self, value: object) -> Expression:
        """Exactly this value."""
        return json_text.fixed(value, self._layout)

    def string(self, min_length: int, max_length: int | None) -> Expression:
        """A string of ``min_length`` to ``max_length`` characters."""
        return json_text.string(min_length, max_length)

    def string_of(self, value: Expression) -> Expression:
        """A string whose value matches ``value``."""
        return json_text.string_of(value)

    def key(self, name: str) -> Expression:
        """The key of a declared member."""
        return json_text.fixed_key(name)

    def other_key(self, names: Iterable[str]) -> Expression:
        """A key that is none of ``names``."""
        return json_text.other_key(names)

    def ordered(self, names: Iterable[str]) -> list[str]:
        """The order in which declared members are written."""
        return list(dict.fromkeys(names))

    def write(self, places: Places, chosen: frozenset[str] = frozenset()) -> Expression:
        """The values that are valid where all ``places`` hold; they include an option of each of ``chosen``."""
        merged = self._document.merge(places, self._depth)
        with self._document.nested(merged.pointer):
            if merged.values is not None:
                return self._fixed(merged)
            for alternatives in merged.alternatives:
                if alternatives.pointer not in chosen:
                    return self._one_of(alternatives, places, chosen)
            if merged.kinds is None and not merged.implied_kinds:
                return self._any_value
            return self._kinds(merged)

    @cached_property
    def _any_value(self) -> Expression:
        return self.any_value(self._depth)

    @cached_property
    def _any_part(self) -> Expression:
        """Any value in a free array or object."""
        return self.any_value(self._depth - 1)

    def _fixed(self, merged: Merged) -> Expression:
        values = [value for value in merged.values or () if schema_logic.satisfies(self._document, merged, value)]
        if not values:
            raise fail(
                merged.pointer, "no value of 'enum' or 'const' satisfies the other keywords here", ImpossibleError
            )
        return any_of(*(self.fixed_value(value) for value in values))

    def _one_of(self, alternatives: Alternatives, places: Places, chosen: frozenset[str]) -> Expression:
        chosen |= {alternatives.pointer}
        if alternatives.keyword == "oneOf":
            self._check_exclusive(alternatives, places, chosen)
        return _union(partial(self.write, (*places, option), chosen) for option in alternatives.options)

    def _check_exclusive(self, alternatives: Alternatives, places: Places, chosen: frozenset[str]) -> None:
        key = (alternatives.pointer, *(place.pointer for place in places))
        if key in self._exclusive:
            return
        self._exclusive.add(key)
        for index, option in enumerate(alternatives.options):
            for other_index, other in enumerate(alternatives.options[:index]):
                written = self._written_kinds((*places, option), chosen) | self._written_kinds((*places, other), chosen)
                if not schema_logic.impossible(self._document, (*places, other, option), chosen, written):
                    raise fail(
                        alternatives.pointer,
                        f"options {other_index} and {index} of 'oneOf' may both hold for a value; write 'anyOf', or "
                        "make them exclude each other, by 'type' or a required property with another 'const' in each",
                    )

    def _written_kinds(self, places: Places, chosen: frozenset[str]) -> frozenset[str]:
        """The kinds of values that are written where ``places`` hold, or more."""
        try:
            merged = self._document.merge(places)
        except ForbiddenError:
            return frozenset()
        decided = merged.values is None and all(one.pointer in chosen for one in merged.alternatives)
        return merged.implied_kinds if decided and merged.kinds is None and merged.implied_kinds else KINDS

    def _kinds(self, merged: Merged) -> Expression:
        kinds = merged.kinds if merged.kinds is not None else merged.implied_kinds
        if not kinds:
            raise fail(merged.pointer, "the types that must hold together exclude each other", ImpossibleError)
        # Integers are among the numbers.
        written = kinds - {"integer"} if "fraction" in kinds else kinds
        return _union(partial(self._kind, merged, kind) for kind in sorted(written))

    def _kind(self, merged: Merged, kind: str) -> Expression:
        match kind:
            case "null":
                return any_of("null")
            case "boolean":
                return any_of("true", "false")
            case "string":
                return self._string(merged)
            case "object":
                return self._object(merged)
            case "array":
                return self._array(merged)
        return self._number(merged, kind)

    def _number(self, merged: Merged, kind: str) -> Expression:
        if merged.lower is None and merged.upper is None:
            return json_text.INTEGER if kind == "integer" else json_text.NUMBER
        within = decimal_range.integers if kind == "integer" else decimal_range.decimals
        result = within(merged.lower, merged.upper)
        if result == NOTHING:
            raise fail(merged.pointer, "no number lies within 'minimum' and 'maximum'", ImpossibleError)
        return result

    def _string(self, merged: Merged) -> Expression:
        low, high = merged.length
        if high is not None and high < low:
            raise fail(merged.pointer, f"'minLength' {low} is above 'maxLength' {high}", ImpossibleError)
        texts = schema_logic.languages(merged)
        if not texts:
            return self.string(low, high)
        if (low, high) != (0, None):
            texts.append(Repeat(ANY_CHARACTER, low, high))
        value = texts[0] if len(texts) == 1 else AllOf(tuple(texts))
        if schema_logic.is_empty(self._document, value):
            raise fail(
                merged.pointer, "no string satisfies 'pattern', 'format' and the lengths together", ImpossibleError
            )
        return self.string_of(value)

    def _object(self, merged: Merged) -> Expression:
        names = self.ordered([*(merged.properties or ()), *merged.required])
        members = []
        for name in names:
            required = name in merged.required
            value = self._unless_forbidden(merged.member(name))
            if isinstance(value, ForbiddenError):
                if required:
                    raise _needed(value, merged, f"the required property {name!r} is not possible")
                continue
            text = json_text.member(self._layout, self.key(name), value)
            members.append(Member(text, required))
        further = self._further_value(merged)
        if further is None:
            return json_text.object_text(self._layout, members, None)
        pair = json_text.member(self._layout, self.other_key(names), further)
        return json_text.object_text(self._layout, members, pair)

    def _further_value(self, merged: Merged) -> Expression | None:
        """The value of members that are not declared."""
        if merged.additional is None:
            return self._any_part if merged.properties is None else None
        value = self._unless_forbidden(merged.additional)
        return None if isinstance(value, ForbiddenError) else value

    def _array(self, merged: Merged) -> Expression:
        low, high = merged.items
        if high is not None and high < low:
            raise fail(merged.pointer, f"'minItems' {low} is above 'maxItems' {high}", ImpossibleError)
        prefix: list[Expression] = []
        for places in merged.prefix[:high]:
            item = self._unless_forbidden(places)
            if isinstance(item, ForbiddenError):
                if len(prefix) < low:
                    raise _needed(item, merged, f"item {len(prefix)} is not possible, 'minItems' is {low}")
                return json_text.array_text(self._layout, prefix, None, low, len(prefix))
            prefix.append(item)
        if high is not None and high == len(prefix):
            return json_text.array_text(self._layout, prefix, None, low, high)
        return self._array_with_rest(merged, prefix, low, high)

    def _array_with_rest(self, merged: Merged, prefix: list[Expression], low: int, high: int | None) -> Expression:
        if merged.rest is None:
            # After declared items only as many are written as 'minItems' asks for.
            high = max(low, len(prefix)) if prefix else high
            return json_text.array_text(self._layout, prefix, self._any_part, low, high)
        rest = self._unless_forbidden(merged.rest)
        if not isinstance(rest, ForbiddenError):
            return json_text.array_text(self._layout, prefix, rest, low, high)
        if low > len(prefix):
            raise _needed(rest, merged, f"item {len(prefix)} is not possible, 'minItems' is {low}")
        return json_text.array_text(self._layout, prefix, None, low, len(prefix))

    def _unless_forbidden(self, places: Places) -> Expression | ForbiddenError:
        try:
            return self.write(places)
        except ForbiddenError as error:
            return error


def _needed(error: ForbiddenError, merged: Merged, problem: str) -> ConstraintError:
    """The error of a part that is forbidden and must be there. At the end of recursion, the whole may be left out."""
    return error if isinstance(error, TooDeepError) else fail(merged.pointer, problem, ImpossibleError)


def _union(options: Iterable[Callable[[], Expression]]) -> Expression:
    """Any of the options that are possible; there must be one."""
    texts, errors = [], []
    for write in options:
        try:
            texts.append(write())
        except ImpossibleError as error:
            errors.append(error)
    if texts:
        return any_of(*texts)
    raise next((error for error in errors if isinstance(error, TooDeepError)), errors[0])
