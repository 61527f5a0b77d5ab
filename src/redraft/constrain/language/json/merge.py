"""The keywords that hold at one place of a JSON schema, with those of every '$ref' and 'allOf' merged in."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.language.decimal_range import Bound
from redraft.constrain.language.json.keywords import (
    ForbiddenError,
    Schema,
    TooDeepError,
    Value,
    bounds,
    check,
    count,
    fail,
    joined_pointer,
)
from redraft.errors import ConstraintError

KINDS = frozenset({"array", "boolean", "fraction", "integer", "null", "object", "string"})
"""The kinds of values: JSON schema's types, with the numbers that are no integers as a kind of their own."""
_KINDS_OF_TYPE = {name: frozenset({name}) for name in KINDS} | {"number": frozenset({"integer", "fraction"})}
_KINDS_OF_KEYWORD = (
    (("properties", "additionalProperties", "required"), "object"),
    (("prefixItems", "items", "minItems", "maxItems"), "array"),
    (("minLength", "maxLength", "pattern", "format"), "string"),
    (("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"), "number"),
)

# Python's own stack must hold so many nested calls several times over.
_MAX_NESTED = 64
_MAX_MERGED = 40_000
# Steps are those that automata count; merging a schema, or an automaton however small, takes about as long as so many.
_MAX_STEPS = 20_000_000
_STEPS_A_SCHEMA = 100
_STEPS_AN_AUTOMATON = 2000


@dataclass(frozen=True)
class Place:
    """A schema in the document, and the way on which it was reached."""

    schema: Schema
    pointer: str
    opened: tuple[str, ...] = ()
    """All targets of '$ref' on the way, outermost first; one is there as often as the schema is nested in itself."""
    same_value: frozenset[str] = frozenset()
    """The schemas on the way that speak of the same value: being sent to one of them again would never end."""

    @classmethod
    def root(cls, schema: Schema) -> "Place":
        return cls(schema, "", ("",), frozenset({""}))

    def beside(self, schema: Schema, *names: str | int) -> "Place":
        """A schema inside this one that says something about the same value."""
        pointer = joined_pointer(self.pointer, *names)
        return Place(schema, pointer, self.opened, self.same_value | {pointer})

    def inside(self, schema: Schema, *names: str | int) -> "Place":
        """A schema inside this one that says something about a member or item."""
        pointer = joined_pointer(self.pointer, *names)
        return Place(schema, pointer, self.opened, frozenset({pointer}))

    def referring(self, schema: Schema, target: str) -> "Place":
        """The schema that '$ref' leads to."""
        return Place(schema, target, (*self.opened, target), self.same_value | {target})


Places = tuple[Place, ...]
"""Schemas that hold at once; none is anything at all."""


@dataclass(frozen=True)
class Alternatives:
    """An 'anyOf' or 'oneOf'."""

    keyword: str
    pointer: str
    options: Places


@dataclass
class Merged:
    """All that holds at a place; None stands for what no schema states."""

    pointer: str
    kinds: frozenset[str] | None = None
    implied_kinds: frozenset[str] = frozenset()
    """The kinds of keywords that speak of one type."""
    values: list[Any] | None = None
    lower: Bound | None = None
    upper: Bound | None = None
    length: tuple[int, int | None] = (0, None)
    patterns: list[tuple[str, str]] = field(default_factory=list)
    """(pattern, pointer)."""
    formats: list[str] = field(default_factory=list)
    properties: dict[str, Places] | None = None
    additional: Places | None = None
    required: list[str] = field(default_factory=list)
    prefix: list[Places] = field(default_factory=list)
    rest: Places | None = None
    items: tuple[int, int | None] = (0, None)
    alternatives: list[Alternatives] = field(default_factory=list)
    size: int = 0
    """Names, values and characters that the merged schemas list, with their values' parts."""

    def member(self, name: str) -> Places:
        """The schemas that hold for the member of that name."""
        if self.properties is not None and name in self.properties:
            return self.properties[name]
        return self.additional or ()

    def item(self, index: int) -> Places:
        return self.prefix[index] if index < len(self.prefix) else self.rest or ()

    def add(self, place: Place) -> None:
        """Add the keywords of one schema that are neither '$ref' nor 'allOf'."""
        schema = place.schema
        assert isinstance(schema, Mapping)
        self._add_kinds(schema)
        self._add_values(schema)
        self._add_bounds(schema)
        self._add_text(schema, place.pointer)
        self._add_members(schema, place)
        self._add_items(schema, place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                options = tuple(place.beside(part, keyword, n) for n, part in enumerate(schema[keyword]))
                self.alternatives.append(Alternatives(keyword, joined_pointer(place.pointer, keyword), options))

    def _add_kinds(self, schema: Mapping[str, Any]) -> None:
        if "type" in schema:
            names = schema["type"] if isinstance(schema["type"], list | tuple) else [schema["type"]]
            kinds = frozenset().union(*(_KINDS_OF_TYPE[name] for name in names))
            self.kinds = kinds if self.kinds is None else self.kinds & kinds
        for keywords, name in _KINDS_OF_KEYWORD:
            if any(keyword in schema for keyword in keywords):
                self.implied_kinds |= _KINDS_OF_TYPE[name]

    def _add_values(self, schema: Mapping[str, Any]) -> None:
        for keyword in ("enum", "const"):
            if keyword in schema:
                stated = list(schema["enum"]) if keyword == "enum" else [schema["const"]]
                allowed = {Value.of(value) for value in stated}
                before = stated if self.values is None else self.values
                self.values = [value for value in before if Value.of(value) in allowed]

    def _add_bounds(self, schema: Mapping[str, Any]) -> None:
        lower = [bound for _, bound in bounds(schema, "minimum", "exclusiveMinimum")]
        upper = [bound for _, bound in bounds(schema, "maximum", "exclusiveMaximum")]
        lower += [self.lower] if self.lower else []
        upper += [self.upper] if self.upper else []
        self.lower = max(lower, key=lambda bound: (bound.value, bound.exclusive), default=None)
        self.upper = min(upper, key=lambda bound: (bound.value, not bound.exclusive), default=None)

    def _add_text(self, schema: Mapping[str, Any], pointer: str) -> None:
        self.length = _narrowed(self.length, schema, "minLength", "maxLength")
        if "pattern" in schema:
            self.patterns.append((str(schema["pattern"]), pointer))
        if "format" in schema:
            self.formats.append(str(schema["format"]))

    def _add_members(self, schema: Mapping[str, Any], place: Place) -> None:
        declared = schema.get("properties", {})
        own = {name: place.inside(part, "properties", name) for name, part in declared.items()}
        additional = _part(schema, place, "additionalProperties")
        merged = {
            name: places + ((own[name],) if name in own else additional or ())
            for name, places in (self.properties or {}).items()
        }
        merged.update({name: (*(self.additional or ()), part) for name, part in own.items() if name not in merged})
        if "properties" in schema or self.properties is not None:
            self.properties = merged
        self.additional = _both(self.additional, additional)
        self.required = list(dict.fromkeys([*self.required, *schema.get("required", ())]))

    def _add_items(self, schema: Mapping[str, Any], place: Place) -> None:
        prefix = [(place.inside(part, "prefixItems", n),) for n, part in enumerate(schema.get("prefixItems", ()))]
        rest = _part(schema, place, "items")
        longest = max(len(prefix), len(self.prefix))
        own = prefix + [rest or ()] * (longest - len(prefix))
        self.prefix = [self.item(index) + own[index] for index in range(longest)]
        self.rest = _both(self.rest, rest)
        self.items = _narrowed(self.items, schema, "minItems", "maxItems")


def _part(schema: Mapping[str, Any], place: Place, keyword: str) -> Places | None:
    return (place.inside(schema[keyword], keyword),) if keyword in schema else None


def _both(left: Places | None, right: Places | None) -> Places | None:
    return None if left is None and right is None else (left or ()) + (right or ())


def _narrowed(
    counts: tuple[int, int | None], schema: Mapping[str, Any], lower: str, upper: str
) -> tuple[int, int | None]:
    highest = [bound for bound in (counts[1], count(schema, upper)) if bound is not None]
    return max(counts[0], count(schema, lower) or 0), min(highest, default=None)


class Document:
    """A checked schema document, and the effort spent on it: '$ref' can make a small one endless work."""

    def __init__(self, schema: Schema) -> None:
        self._schemas = check(schema)
        self._merged = 0
        self._nested = 0
        self._steps = 0
        self._sizes = {pointer: _size(part) for pointer, part in self._schemas.items()}
        self._automata: dict[Hashable, ByteAutomaton] = {}
        for pointer, part in self._schemas.items():
            if isinstance(part, Mapping) and "$ref" in part and _target(part) not in self._schemas:
                raise fail(pointer, f"'$ref' {part['$ref']!r} leads to no schema; define it under '$defs'")

    @property
    def root(self) -> Places:
        return (Place.root(self._schemas[""]),)

    def spend(self, steps: int) -> None:
        """Count work on the document; ConstraintError once it is too much."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise ConstraintError(
                f"schema: takes more than {_MAX_STEPS} steps to write out; write simpler patterns, fewer options or a "
                "smaller depth"
            )

    def automaton(self, key: Hashable, build: Callable[[], ByteAutomaton]) -> ByteAutomaton:
        """The automaton of a key, built and counted once for the document."""
        if key not in self._automata:
            self._automata[key] = self.counted(build())
        return self._automata[key]

    def counted(self, automaton: ByteAutomaton) -> ByteAutomaton:
        """An automaton that was built for the document, with its steps counted."""
        self.spend(_STEPS_AN_AUTOMATON + automaton.steps)
        return automaton

    @contextmanager
    def nested(self, pointer: str) -> Iterator[None]:
        """Guard work on a place inside another: it must not nest too deep."""
        if self._nested == _MAX_NESTED:
            raise fail(
                pointer, f"more than {_MAX_NESTED} schemas inside one another with '$ref' followed; write it flatter"
            )
        self._nested += 1
        try:
            yield
        finally:
            self._nested -= 1

    def merge(self, places: Places, depth: int | None = None) -> Merged:
        """All that holds where all ``places`` hold; ``depth`` is how deep a schema may be in itself."""
        self._merged += 1
        if self._merged > _MAX_MERGED:
            raise ConstraintError(
                f"schema: more than {_MAX_MERGED} places with '$ref' and choices written out; write fewer options, "
                "fewer '$ref' or a smaller depth"
            )
        merged = Merged(places[0].pointer if places else "")
        waiting = list(reversed(places))
        seen = set()
        while waiting:
            place = waiting.pop()
            if place.pointer in seen:
                continue
            seen.add(place.pointer)
            self._merged += 1
            if place.schema is False:
                raise fail(place.pointer, "false allows nothing", ForbiddenError)
            if isinstance(place.schema, Mapping):
                merged.size += self._sizes[place.pointer]
                self.spend(_STEPS_A_SCHEMA + merged.size)
                merged.add(place)
                waiting += reversed(list(self._same_value(place, depth)))
        return merged

    def _same_value(self, place: Place, depth: int | None) -> Iterator[Place]:
        """The schemas that hold where a schema holds."""
        assert isinstance(place.schema, Mapping)
        if "$ref" in place.schema:
            yield self._followed(place, _target(place.schema), depth)
        for index, part in enumerate(place.schema.get("allOf", ())):
            yield place.beside(part, "allOf", index)

    def _followed(self, place: Place, target: str, depth: int | None) -> Place:
        if target in place.same_value:
            raise fail(place.pointer, f"'$ref' to '#{target}' is circular: it leads back to itself and to no value")
        if depth is not None and place.opened.count(target) >= depth:
            raise fail(
                place.pointer,
                f"'$ref' to '#{target}' has no instance within a depth of {depth}; raise depth, or let it be left out",
                TooDeepError,
            )
        return place.referring(self._schemas[target], target)


def _size(schema: Schema) -> int:
    """Names, values and characters that the schema's own keywords list."""
    if isinstance(schema, bool):
        return 0
    listed = sum(len(schema.get(keyword, ())) for keyword in ("properties", "required", "prefixItems", "pattern"))
    return listed + sum(_value_size(schema[keyword]) for keyword in ("enum", "const") if keyword in schema)


def _value_size(value: object) -> int:
    """The parts of a JSON value, itself included."""
    if isinstance(value, Mapping):
        return 1 + sum(map(_value_size, value.values()))
    return 1 + sum(map(_value_size, value)) if isinstance(value, list | tuple) else 1


def _target(schema: Mapping[str, Any]) -> str:
    return unquote(schema["$ref"][1:])
