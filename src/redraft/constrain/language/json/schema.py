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
from functools import partial
from typing import Any

from redraft.constrain.expression import Expression, any_of
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json.arrays import ArrayWriter
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import (
    ForbiddenError,
    ImpossibleError,
    TooDeepError,
    fail,
    joined_pointer,
    read,
)
from redraft.constrain.language.json.merge import KINDS, Alternatives, Merged, Places
from redraft.constrain.language.json.numbers import NumberWriter
from redraft.constrain.language.json.objects import ObjectWriter
from redraft.constrain.language.json.text import Layout, Whitespace
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


class SchemaWriter(NumberWriter, ObjectWriter, ArrayWriter):
    """Writes the expression of one document, place by place. How strings and keys are spelled can be overridden."""

    def __init__(self, document: Document, layout: Layout, depth: int) -> None:
        super().__init__(document, layout, depth)
        self._overlaps: dict[tuple[str, ...], list[list[int]]] = {}
        self._written: dict[Hashable, Expression | ImpossibleError] = {}

    @classmethod
    def write_whole(cls, schema: Mapping[str, Any] | bool | str, layout: Layout, depth: int) -> Expression:
        """The values that are valid under a schema, as this writer spells them."""
        document = Document(read(schema))
        return cls(document, layout, depth).write(document.root)

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
        kinds = merged.written_kinds
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
