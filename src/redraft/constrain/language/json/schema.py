"""JSON schemas (drafts 4 to 2020-12) as expressions: the valid JSON texts, and of these the ones worth writing.

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
- What two options of a 'oneOf' may both allow, to readers with any dialect or that test no formats, is left out; with
  a 'discriminator', so are options without its property.
- What 'not' and conditions want broken is broken by declared members.
- Recursion, and nesting in free values, ends at a stated depth.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from redraft.constrain.expression import NOTHING, AllOf, Expression, Literal, Repeat, Without, any_of
from redraft.constrain.language import decimal_range, multiples
from redraft.constrain.language.json import containers
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import (
    ForbiddenError,
    ImpossibleError,
    TooDeepError,
    Value,
    fail,
    joined_pointer,
    read,
)
from redraft.constrain.language.json.merge import KINDS, Alternatives, Merged, Place, Places
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


def ignored(schema: Mapping[str, Any] | bool | str) -> tuple[str, ...]:
    """The keywords and formats of a schema that change nothing, as "nullable at /properties/a"; errors as above."""
    return tuple(Document(read(schema)).ignored)


class SchemaWriter:
    """Writes the expression of one document, place by place. How strings and keys are spelled can be overridden."""

    def __init__(self, document: Document, layout: Layout, depth: int) -> None:
        self._document = document
        self._layout = layout
        self._depth = depth
        self._overlaps: dict[tuple[str, ...], list[list[int]]] = {}
        self._written: dict[Hashable, Expression | ImpossibleError] = {}
        self._keys: dict[Hashable, tuple[Expression | None, Expression | None]] = {}

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

    def other_key(self, names: Iterable[str], within: Expression | None = None) -> Expression:
        """A key that is none of ``names`` and, where that is given, matches ``within``."""
        return json_text.other_key(names, within)

    def ordered(self, names: Iterable[str]) -> list[str]:
        """The order in which declared members are written."""
        return list(dict.fromkeys(names))

    def write(self, places: Places, chosen: frozenset[str] = frozenset()) -> Expression:
        """The values that are valid where all ``places`` hold; they include an option of each of ``chosen``."""
        key = (tuple(place.key for place in places), chosen)
        if key not in self._written:
            try:
                self._written[key] = self._write(places, chosen)
            except ImpossibleError as error:
                self._written[key] = error
        found = self._written[key]
        if isinstance(found, ImpossibleError):
            raise found
        return found

    def _write(self, places: Places, chosen: frozenset[str]) -> Expression:
        merged = self._document.merge(places, self._depth)
        with self._document.nested(merged.pointer):
            if merged.values is not None:
                return self._fixed(merged)
            for alternatives in (*merged.alternatives, *self._breaches(merged)):
                if alternatives.pointer not in chosen:
                    return self._one_of(alternatives, places, chosen)
            if merged.kinds is None and not merged.implied_kinds and not merged.conditional:
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

    def _breaches(self, merged: Merged) -> Iterable[Alternatives]:
        """The ways in which a member that is named breaks what must be broken."""
        names = dict.fromkeys([*merged.properties, *merged.required]) if merged.broken else ()
        for place in merged.broken:
            options: list[Places] = []
            for name in names:
                present = place.beside({"type": "object", "required": [name]}, "~breaks", name)
                for n, breach in enumerate(schema_logic.breaches(self._document, place.schema, place, name)):
                    value = [{"properties": {name: {"not": one.schema}}} for one in breach]
                    broken = tuple(place.beside(one, "~breaks", name, n) for one in value)
                    options.append((present, *broken))
            yield Alternatives("anyOf", joined_pointer(place.pointer, "~breaks"), tuple(options))

    def _one_of(self, alternatives: Alternatives, places: Places, chosen: frozenset[str]) -> Expression:
        chosen |= {alternatives.pointer}
        if not alternatives.options:
            problem = "no member that is named here breaks what 'not', 'if' or 'oneOf' wants broken"
            raise fail(alternatives.pointer, problem, ImpossibleError)
        if alternatives.keyword == "oneOf":
            return self._exactly_one(alternatives, places, chosen)
        return _union(partial(self.write, (*places, *option), chosen) for option in alternatives.options)

    def _exactly_one(self, alternatives: Alternatives, places: Places, chosen: frozenset[str]) -> Expression:
        """The values of each option that no other option allows."""
        options = alternatives.options
        overlaps = self._overlapping(alternatives.pointer, options, places, chosen)
        if any(overlaps) and alternatives.tag is not None:
            # A 'discriminator' must be there (OpenAPI 3.1, 4.8.25), even where the schema gives it a default.
            tagged = [option[0].beside({"required": [alternatives.tag]}, "~tag", derived=True) for option in options]
            options = tuple((*option, tag) for option, tag in zip(options, tagged, strict=True))
            overlaps = self._overlapping(f"{alternatives.pointer}~", options, places, chosen)
        contraries = [
            tuple(alternatives.options[other][0].contrary() for other in others if other != index)
            for index, others in enumerate(overlaps)
        ]
        return _union(
            partial(self.write, (*places, *option, *contrary), chosen)
            for option, contrary in zip(options, contraries, strict=True)
        )

    def _overlapping(
        self, pointer: str, options: tuple[Places, ...], places: Places, chosen: frozenset[str]
    ) -> list[list[int]]:
        """For each option, the others that may hold for a value for which it holds."""
        key = (pointer, *(place.pointer for place in places))
        if key not in self._overlaps:
            found: list[list[int]] = [[] for _ in options]
            for index, option in enumerate(options):
                for other, further in enumerate(options[:index]):
                    written = self._written_kinds((*places, *option), chosen)
                    written |= self._written_kinds((*places, *further), chosen)
                    if not schema_logic.impossible(self._document, (*places, *further, *option), chosen, written):
                        found[index].append(other)
                        found[other].append(index)
            self._overlaps[key] = found
        return self._overlaps[key]

    def _written_kinds(self, places: Places, chosen: frozenset[str]) -> frozenset[str]:
        """The kinds of values that are written where ``places`` hold, or more."""
        try:
            merged = self._document.merge(places)
        except ForbiddenError:
            return frozenset()
        decided = merged.values is None and all(one.pointer in chosen for one in merged.alternatives)
        return merged.implied_kinds if decided and merged.kinds is None and merged.implied_kinds else KINDS

    def _kinds(self, merged: Merged) -> Expression:
        kinds = _written_kinds(merged)
        if not kinds:
            raise fail(merged.pointer, "the types that must hold together exclude each other", ImpossibleError)
        # Integers are among the numbers.
        written = kinds - {"integer"} if "fraction" in kinds else kinds
        return _union(partial(self._kind, merged, kind) for kind in sorted(written))

    def _kind(self, merged: Merged, kind: str) -> Expression:
        match kind:
            case "null" | "boolean":
                values = [None] if kind == "null" else [True, False]
                left = [value for value in values if not any(value is one for one in merged.excluded)]
                if not left:
                    raise fail(merged.pointer, f"no {kind} is left", ImpossibleError)
                return any_of(*(json.dumps(value) for value in left))
            case "string":
                return self._string(merged)
            case "object":
                return self._object(merged)
            case "array":
                return self._array(merged)
        return self._number(merged, kind)

    def _number(self, merged: Merged, kind: str) -> Expression:
        kinds = _written_kinds(merged)
        whole = kind == "integer" or bool(merged.multiples)
        excluded = [value for value in merged.excluded if _is_number(value)]
        if kind == "fraction" and "integer" not in kinds:
            if whole:
                raise fail(merged.pointer, "no multiple of an integer is a fraction", ImpossibleError)
            return self._proper_fraction(merged, excluded)
        if merged.lower is None and merged.upper is None:
            result: Expression = json_text.INTEGER if whole else json_text.NUMBER
            if excluded and not whole:
                result = json_text.DECIMAL
        else:
            within = decimal_range.integers if whole else decimal_range.decimals
            result = within(merged.lower, merged.upper)
            if result == NOTHING:
                raise fail(merged.pointer, "no number lies within 'minimum' and 'maximum'", ImpossibleError)
        for multiple in merged.multiples:
            result = AllOf((result, multiples.integers(multiple)))
        if excluded:
            result = Without(result, any_of(*map(json_text.spellings, excluded)))
        if not isinstance(result, AllOf | Without):
            return result
        return self._possible(result, merged, "no number satisfies all that holds here")

    def _proper_fraction(self, merged: Merged, excluded: list[Any]) -> Expression:
        """Numbers that are no integers, without an exponent."""
        result: Expression = json_text.PROPER_FRACTION
        if merged.lower is not None or merged.upper is not None:
            result = AllOf((result, decimal_range.decimals(merged.lower, merged.upper)))
        if excluded:
            result = Without(result, any_of(*map(json_text.spellings, excluded)))
        return self._possible(result, merged, "no number satisfies all that holds here")

    def _possible(self, result: Expression, merged: Merged, problem: str) -> Expression:
        if schema_logic.is_empty(self._document, result):
            raise fail(merged.pointer, problem, ImpossibleError)
        return result

    def _string(self, merged: Merged) -> Expression:
        value = self._text(merged)
        return self.string(*merged.length) if value is None else self.string_of(value)

    def _text(self, merged: Merged) -> Expression | None:
        """The values of strings; None where nothing but their length is stated."""
        low, high = merged.length
        if high is not None and high < low:
            raise fail(merged.pointer, f"'minLength' {low} is above 'maxLength' {high}", ImpossibleError)
        if merged.unlike_formats:
            raise fail(merged.pointer, "no string is known to every reader not to be of a 'format'", ImpossibleError)
        texts, unlike = schema_logic.languages(merged), schema_logic.unlike(merged)
        unlike += [Literal(value) for value in merged.excluded if isinstance(value, str)]
        if not texts and not unlike:
            return None
        if (low, high) != (0, None) or not texts:
            texts.append(Repeat(ANY_CHARACTER, low, high))
        value = texts[0] if len(texts) == 1 else AllOf(tuple(texts))
        return self._possible(
            Without(value, any_of(*unlike)) if unlike else value,
            merged,
            "no string satisfies 'pattern', 'format' and the lengths together",
        )

    def texts(self, places: Places) -> Expression | None:
        """The values of the strings for which ``places`` hold; None for all strings."""
        return self._texts((*places, Place({"type": "string"}, "~key", derived=True)), frozenset())

    def _texts(self, places: Places, chosen: frozenset[str]) -> Expression | None:
        merged = self._document.merge(places, self._depth)
        with self._document.nested(merged.pointer):
            if not merged.kinds:
                raise fail(merged.pointer, "no key is a string here", ForbiddenError)
            if merged.values is not None:
                values = [one for one in merged.values if schema_logic.satisfies(self._document, merged, one)]
                return any_of(*values)
            for one in merged.alternatives:
                if one.pointer not in chosen:
                    if one.keyword == "oneOf":
                        raise fail(one.pointer, "'oneOf' for keys is not supported; write 'anyOf'")
                    found = [self._texts((*places, *option), chosen | {one.pointer}) for option in one.options]
                    return None if None in found else any_of(*(text for text in found if text is not None))
            value = self._text(merged)
            if value is None and merged.length != (0, None):
                value = Repeat(ANY_CHARACTER, *merged.length)
            return value

    def _object(self, merged: Merged) -> Expression:
        if any(isinstance(value, Mapping) and value for value in merged.excluded):
            raise fail(merged.pointer, "the contrary of an object that is given whole is not supported")
        low, high = merged.counts
        low = max(low, 1) if {} in merged.excluded else low
        names = self.ordered([*merged.properties, *merged.required])
        members = []
        for name in names:
            required = name in merged.required
            value = self._member_value(merged, name)
            if isinstance(value, ImpossibleError):
                if required:
                    raise _needed(value, merged, f"the required property {name!r} is not possible")
                continue
            text = json_text.member(self._layout, self.key(name), value)
            members.append(Member(text, required))
        further = self._further(merged, names)
        return containers.object_text(self._layout, members, further, (low, high), merged.pointer)

    def _member_value(self, merged: Merged, name: str) -> Expression | ImpossibleError:
        if merged.keys and not schema_logic.accepts(self._document, merged.keys, name):
            return ForbiddenError(str(fail(merged.pointer, f"'propertyNames' does not allow {name!r}")))
        places = merged.member(name)
        try:
            return self.write(places)
        except ForbiddenError as error:
            return error
        except ImpossibleError as error:
            # A condition may rule out what is stated elsewhere; the member is then left out.
            if len(places) > 1 and any(place.derived for place in places):
                return error
            raise

    def _further(self, merged: Merged, names: list[str]) -> Expression | None:
        """Members that are not named, key and value; None for none."""
        try:
            within = self.texts(merged.keys) if merged.keys else None
        except ImpossibleError:
            # No key is allowed.
            return None
        patterns = merged.key_patterns()
        pairs = []
        for found in containers.pattern_sets(patterns):
            value = self._further_value(merged, frozenset(pattern for pattern, _ in found))
            if value is None:
                continue
            key = self._further_key(patterns, found, names, within)
            if key is not None:
                pairs.append(json_text.member(self._layout, key, value))
        return None if not pairs else pairs[0] if len(pairs) == 1 else any_of(*pairs)

    def _further_key(
        self,
        patterns: list[tuple[str, str]],
        found: tuple[tuple[str, str], ...],
        names: list[str],
        within: Expression | None,
    ) -> Expression | None:
        """The keys in which these of the ``patterns`` are found and no others; None where there are none.

        The same ones are one expression wherever they stand, so that they become an automaton once.
        """
        asked = (tuple(patterns), found, frozenset(names), id(within))
        if asked not in self._keys:
            text = self._key_text(patterns, found, names, within) if patterns else None
            if text is None:
                key: Expression | None = self.other_key(names, within)
            else:
                key = None if schema_logic.is_empty(self._document, text) else self.other_key((), text)
            # What is known by its identity must stay there.
            self._keys[asked] = key, within
        return self._keys[asked][0]

    def _key_text(
        self,
        patterns: list[tuple[str, str]],
        found: tuple[tuple[str, str], ...],
        names: list[str],
        within: Expression | None,
    ) -> Expression:
        document, excluded = self._document, set(names)
        held: list[Expression] = [schema_logic.searched(*pattern) for pattern in found]
        held += [json_text.other_text(excluded)] if excluded else []
        held += [] if within is None else [within]
        others = [schema_logic.searched(*one, possibly=True) for one in patterns if one not in found]
        value = held[0] if len(held) == 1 else AllOf(tuple(held)) if held else Repeat(ANY_CHARACTER, 0, None)
        document.spend(sum(len(pattern) for pattern, _ in patterns))
        return Without(value, any_of(*others)) if others else value

    def _further_value(self, merged: Merged, found: frozenset[str]) -> Expression | None:
        """The value of members that are not named and in whose keys these patterns are found."""
        places = merged.further(found)
        if places is None:
            return None if merged.declares else self._any_part
        try:
            return self.write(places)
        except ForbiddenError:
            return None
        except ImpossibleError:
            # What two patterns say may exclude each other; then no key has both.
            if found:
                return None
            raise

    def _array(self, merged: Merged) -> Expression:
        low, high = merged.items
        if any(isinstance(value, list | tuple) and value for value in merged.excluded):
            raise fail(merged.pointer, "the contrary of an array that is given whole is not supported")
        low = max(low, 1) if [] in merged.excluded else low
        if high is not None and high < low:
            raise fail(merged.pointer, f"'minItems' {low} is above 'maxItems' {high}", ImpossibleError)
        if merged.unique and (high is None or high > 1):
            return self._unique(merged, low, high)
        if any(one.min > 0 or one.max is not None for one in merged.contains):
            return self._containing(merged, low, high)
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

    def _unique(self, merged: Merged, low: int, high: int | None) -> Expression:
        """Arrays whose items differ, of a few values."""
        values = None if merged.prefix or merged.contains else self._few_values(merged.rest or ())
        if values is None:
            raise fail(
                merged.pointer,
                "'uniqueItems' is supported for items of a few values, such as an 'enum', or with 'maxItems' 1; leave "
                "it out and check the result",
            )
        high = len(values) if high is None else min(high, len(values))
        if low > high:
            raise fail(merged.pointer, f"'minItems' {low} is above the {len(values)} different items", ImpossibleError)
        texts = [self.fixed_value(value) for value in values]
        return containers.different(self._layout, texts, low, high, merged.pointer)

    def _few_values(self, places: Places) -> list[Any] | None:
        """All values for which ``places`` hold, where they are listed or of a type with few."""
        merged = self._document.merge(places, self._depth)
        values = merged.values
        if values is None:
            if merged.kinds is None or not merged.kinds <= {"boolean", "null", "integer"}:
                return None
            values = [False, True] * ("boolean" in merged.kinds) + [None] * ("null" in merged.kinds)
            if "integer" in merged.kinds:
                listed = decimal_range.listed(merged.lower, merged.upper, containers.MAX_DIFFERENT)
                if listed is None:
                    return None
                values += listed
        values = list({Value.of(value): value for value in values}.values())
        return [value for value in values if schema_logic.satisfies(self._document, merged, value)]

    def _containing(self, merged: Merged, low: int, high: int | None) -> Expression:
        """Arrays with so many items for which a schema holds."""
        one = merged.contains[0]
        if len(merged.contains) > 1 or merged.prefix or merged.unique or (one.max or 0) > containers.MAX_COUNTED:
            raise fail(
                merged.pointer, "'contains' is supported once, without 'prefixItems', 'uniqueItems' and high counts"
            )
        rest = merged.rest or ()
        held = self._unless_impossible((*rest, *one.places))
        if held is None and one.min > 0:
            raise fail(merged.pointer, "no item satisfies 'contains' and 'items' together", ImpossibleError)
        if one.max is None:
            other = self._unless_impossible(rest)
        else:
            other = self._unless_impossible((*rest, *(place.contrary() for place in one.places)))
        return containers.containing(self._layout, held, other, one, (low, high))

    def _unless_impossible(self, places: Places) -> Expression | None:
        try:
            return self.write(places) if places else self._any_part
        except ImpossibleError:
            return None

    def _unless_forbidden(self, places: Places) -> Expression | ForbiddenError:
        try:
            return self.write(places)
        except ForbiddenError as error:
            return error


def _needed(error: ImpossibleError, merged: Merged, problem: str) -> ConstraintError:
    """The error of a part that is forbidden and must be there. At the end of recursion, the whole may be left out."""
    return error if isinstance(error, TooDeepError) else fail(merged.pointer, problem, ImpossibleError)


def _written_kinds(merged: Merged) -> frozenset[str]:
    return merged.kinds if merged.kinds is not None else merged.implied_kinds or KINDS


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
