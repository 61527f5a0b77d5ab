"""The keywords that hold at one place of a JSON schema, with those of every '$ref' and 'allOf' merged in."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from redraft.constrain.language.decimal_range import Bound
from redraft.constrain.language.json.keywords import Schema, Value, bounds, count, joined_pointer
from redraft.constrain.language.json.negation import BREAKS, KINDS, KINDS_OF_TYPE, NOT_FORMAT, NOT_PATTERN, NOT_VALUES

__all__ = ["KINDS", "Alternatives", "Contains", "Members", "Merged", "Place", "Places"]

# The keywords that each step of merging reads: most schemas have few of them.
_VALUES = frozenset({"enum", "const", NOT_VALUES})
_BOUNDS = frozenset({"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"})
_STRINGS = frozenset({"minLength", "maxLength", "pattern", "format"})
_TEXT = _STRINGS | {NOT_PATTERN, NOT_FORMAT}
_DEPENDENT = frozenset({"dependentRequired", "dependentSchemas"})
_OBJECTS = frozenset({"properties", "additionalProperties", "required", "patternProperties", "propertyNames"}) | {
    *("minProperties", "maxProperties")
}
_MEMBERS = _OBJECTS | {BREAKS}
_ITEMS = frozenset({"prefixItems", "items", "minItems", "maxItems", "contains", "uniqueItems"})
_CHOICES = _DEPENDENT | {"anyOf", "oneOf", "if"}
_TYPE_OF_KEYWORD = {
    **dict.fromkeys(_OBJECTS | _DEPENDENT, "object"),
    **dict.fromkeys(_ITEMS, "array"),
    **dict.fromkeys(_STRINGS, "string"),
    **dict.fromkeys(_BOUNDS, "number"),
}
"""The type that a keyword implies, of which alone it speaks."""


@dataclass(frozen=True)
class Place:
    """A schema in the document, and the way on which it was reached."""

    schema: Schema
    pointer: str
    opened: tuple[str, ...] = ()
    """Targets of '$ref' on the way that are in themselves, outermost first; one is there as often as it is nested."""
    same_value: frozenset[str] = frozenset()
    """The schemas on the way that speak of the same value: being sent to one of them again would never end."""
    negated: bool = False
    """True if what holds is that the schema does not."""
    derived: bool = False
    """True for what a condition says: it neither implies a type nor declares what is written."""

    @classmethod
    def root(cls, schema: Schema) -> "Place":
        return cls(schema, "", ("",), frozenset({""}))

    def beside(self, schema: Schema, *names: str | int, derived: bool = False) -> "Place":
        """A schema inside this one that says something about the same value."""
        pointer = joined_pointer(self.pointer, *names)
        return Place(schema, pointer, self.opened, self.same_value | {pointer}, derived=self.derived or derived)

    def inside(self, schema: Schema, *names: str | int) -> "Place":
        """A schema inside this one that says something about a member or item."""
        pointer = joined_pointer(self.pointer, *names)
        return Place(schema, pointer, self.opened, frozenset({pointer}), derived=self.derived)

    def referring(self, schema: Schema, target: str, recursive: bool) -> "Place":
        """The schema that '$ref' leads to, which may be ``recursive``: in itself."""
        opened = (*self.opened, target) if recursive else self.opened
        return replace(self, schema=schema, pointer=target, opened=opened, same_value=self.same_value | {target})

    @cached_property
    def options(self) -> Mapping[str, "tuple[Places, ...]"]:
        """The schemas of 'anyOf' and 'oneOf', made once: a place is in many combinations."""
        schema = self.schema
        assert isinstance(schema, Mapping)
        return {
            keyword: tuple((self.beside(part, keyword, n),) for n, part in enumerate(schema[keyword]))
            for keyword in ("anyOf", "oneOf")
            if keyword in schema
        }

    @cached_property
    def key(self) -> Hashable:
        """Equal for places where the same is written."""
        return self.pointer, self.negated, self.derived, tuple(sorted(self.opened)), self.same_value

    def contrary(self) -> "Place":
        """The place where the schema does not hold, or does again."""
        return replace(self, negated=not self.negated, derived=True)


# Keywords of a condition that hold for some values of every type, or of one type without implying it.
_SAYING = frozenset(_TYPE_OF_KEYWORD) | {NOT_VALUES, NOT_PATTERN, NOT_FORMAT, BREAKS}

Places = tuple[Place, ...]
"""Schemas that hold at once; none is anything at all."""


@dataclass(frozen=True)
class Alternatives:
    """Schemas of which one holds: an 'anyOf' or 'oneOf', or what else is said in this way."""

    keyword: str
    pointer: str
    options: tuple[Places, ...]
    tag: str | None = None
    """The property that tells the options of a 'oneOf' apart, by its 'discriminator'."""


@dataclass(frozen=True)
class Members:
    """All that one schema says about the members of an object."""

    pointer: str
    named: Mapping[str, Places]
    patterned: tuple[tuple[str, Places], ...]
    """Each pattern of keys, and what holds for their values."""
    additional: Places | None
    declaring: bool
    """True if members that it does not name need not be written."""


@dataclass(frozen=True)
class Contains:
    """A count of items for which schemas hold."""

    pointer: str
    places: Places
    min: int
    max: int | None


Matcher = Callable[[str, str, str, bool], bool]
"""(pattern, its pointer, text, possibly) -> True if the pattern is certainly, or possibly, found in the text."""


@dataclass
class Merged:
    """All that holds at a place; None stands for what no schema states."""

    pointer: str
    matches: Matcher
    kinds: frozenset[str] | None = None
    implied_kinds: frozenset[str] = frozenset()
    """The kinds of keywords that speak of one type."""
    conditional: bool = False
    """True if a condition says something about values of any type."""
    values: list[Any] | None = None
    excluded: list[Any] = field(default_factory=list)
    """Values that are none."""
    lower: Bound | None = None
    upper: Bound | None = None
    multiples: list[int] = field(default_factory=list)
    length: tuple[int, int | None] = (0, None)
    patterns: list[tuple[str, str]] = field(default_factory=list)
    """(pattern, pointer)."""
    formats: list[str] = field(default_factory=list)
    unlike_patterns: list[tuple[str, str]] = field(default_factory=list)
    """(pattern, pointer) of those that are not found."""
    unlike_formats: list[str] = field(default_factory=list)
    members: list[Members] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    counts: tuple[int, int | None] = (0, None)
    """Members, at least and at most."""
    keys: Places = ()
    """All that holds for every key."""
    broken: list[Place] = field(default_factory=list)
    """Schemas of which some member does not keep to what is said about members."""
    prefix: list[Places] = field(default_factory=list)
    rest: Places | None = None
    items: tuple[int, int | None] = (0, None)
    unique: bool = False
    contains: list[Contains] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)
    size: int = 0
    """Names, values and characters that the merged schemas list, with their values' parts."""

    @cached_property
    def allowed(self) -> frozenset[Value] | None:
        """The ``values`` as they compare."""
        return None if self.values is None else frozenset(map(Value.of, self.values))

    @property
    def written_kinds(self) -> frozenset[str]:
        """The kinds of values that are written."""
        return self.kinds if self.kinds is not None else self.implied_kinds or KINDS

    @property
    def properties(self) -> dict[str, Places]:
        """The schemas that hold for each member that some schema names."""
        return {name: self.member(name) for one in self.members for name in one.named}

    @property
    def declares(self) -> bool:
        """True if members that no schema names need not be written."""
        return any(one.declaring for one in self.members)

    @property
    def additional(self) -> Places | None:
        """The schemas that hold for members that are neither named nor have a key of a pattern."""
        return self.further(frozenset())

    def member(self, name: str, *, possibly: bool = False) -> Places:
        """The schemas that hold for the member of that name, to all readers, or ``possibly``, to some."""
        return tuple(place for one in self.members for place in self._of(one, name, possibly))

    def _of(self, one: Members, name: str, possibly: bool) -> Places:
        found = one.named.get(name, ())
        by_pattern = False
        for pattern, places in one.patterned:
            if self.matches(pattern, one.pointer, name, not possibly):
                found += places
            by_pattern |= self.matches(pattern, one.pointer, name, possibly)
        return found if name in one.named or by_pattern else found + (one.additional or ())

    @property
    def unfixed(self) -> list[str]:
        """The keywords here that are about members, items and values together, which slots for each cannot keep."""
        held = {
            "not": bool(self.excluded or self.unlike_patterns or self.unlike_formats or self.broken),
            "multipleOf": bool(self.multiples),
            "patternProperties": any(one.patterned for one in self.members),
            "propertyNames": bool(self.keys),
            "minProperties": self.counts[0] > 0,
            "maxProperties": self.counts[1] is not None,
            "uniqueItems": self.unique and self.items[1] != 1,
            "contains": bool(self.contains),
        }
        return [keyword for keyword, holds in held.items() if holds]

    def key_patterns(self) -> list[tuple[str, str]]:
        """All patterns of keys, with a pointer."""
        return list({pattern: (pattern, one.pointer) for one in self.members for pattern, _ in one.patterned}.values())

    def further(self, found: frozenset[str]) -> Places | None:
        """The schemas that hold for members that are not named and in whose keys these patterns are found."""
        stated: Places | None = None
        for one in self.members:
            own = [places for pattern, places in one.patterned if pattern in found]
            if own or one.additional is not None:
                stated = (stated or ()) + (sum(own, ()) if own else one.additional or ())
        return stated

    def item(self, index: int) -> Places:
        return self.prefix[index] if index < len(self.prefix) else self.rest or ()

    def add(self, place: Place) -> None:
        """Add the keywords of one schema that are not about the same value as a whole: '$ref', 'allOf', 'not'."""
        schema = place.schema
        assert isinstance(schema, Mapping)
        stated = schema.keys()
        self._add_kinds(schema, place.derived)
        if not _VALUES.isdisjoint(stated):
            self._add_values(schema)
        if not _BOUNDS.isdisjoint(stated):
            self._add_bounds(schema)
        if not _TEXT.isdisjoint(stated):
            self._add_text(schema, place.pointer)
        if not _MEMBERS.isdisjoint(stated):
            self._add_members(schema, place)
        if not _ITEMS.isdisjoint(stated):
            self._add_items(schema, place)
        if not _CHOICES.isdisjoint(stated):
            self._add_alternatives(schema, place)

    def _add_alternatives(self, schema: Mapping[str, Any], place: Place) -> None:
        for keyword, options in place.options.items():
            self._alternate(place, keyword, (keyword,), options, _tag(schema))
        if "if" in schema and ("then" in schema or "else" in schema):
            condition = place.beside(schema["if"], "if", derived=True)
            held = (condition, place.beside(schema.get("then", True), "then"))
            failed = (condition.contrary(), place.beside(schema.get("else", True), "else"))
            self._alternate(place, "anyOf", ("if",), [held, failed])
        for name, others in schema.get("dependentRequired", {}).items():
            needed = {"required": list(dict.fromkeys([name, *others]))}
            self._depend(place, ("dependentRequired", name), name, needed, True)
        for name, part in schema.get("dependentSchemas", {}).items():
            self._depend(place, ("dependentSchemas", name), name, {"required": [name]}, part)

    def _depend(self, place: Place, at: tuple[str, ...], name: str, needed: Schema, part: Schema) -> None:
        """Add that a member is absent, or ``needed`` and ``part`` hold."""
        absent = place.beside({"properties": {name: False}}, *at, "~absent", derived=True)
        present = place.beside(needed, *at, "~present", derived=True)
        self._alternate(place, "anyOf", at, [(absent,), (present, place.beside(part, *at))])

    def _alternate(
        self, place: Place, keyword: str, at: tuple[str, ...], options: Iterable[Places], tag: str | None = None
    ) -> None:
        self.alternatives.append(Alternatives(keyword, joined_pointer(place.pointer, *at), tuple(options), tag))

    def _add_kinds(self, schema: Mapping[str, Any], derived: bool) -> None:
        if "type" in schema:
            names = schema["type"] if isinstance(schema["type"], list | tuple) else [schema["type"]]
            kinds = frozenset().union(*(KINDS_OF_TYPE[name] for name in names))
            self.kinds = kinds if self.kinds is None else self.kinds & kinds
        if derived:
            self.conditional |= not _SAYING.isdisjoint(schema.keys())
            return
        for keyword, value in schema.items():
            name = _TYPE_OF_KEYWORD.get(keyword)
            if name is not None and (keyword, value) != ("uniqueItems", False):
                self.implied_kinds |= KINDS_OF_TYPE[name]

    def _add_values(self, schema: Mapping[str, Any]) -> None:
        for keyword in ("enum", "const"):
            if keyword in schema:
                stated = list(schema["enum"]) if keyword == "enum" else [schema["const"]]
                allowed = {Value.of(value) for value in stated}
                before = stated if self.values is None else self.values
                self.values = [value for value in before if Value.of(value) in allowed]
        self.excluded += schema.get(NOT_VALUES, ())

    def _add_bounds(self, schema: Mapping[str, Any]) -> None:
        lower = [bound for _, bound in bounds(schema, "minimum", "exclusiveMinimum")]
        upper = [bound for _, bound in bounds(schema, "maximum", "exclusiveMaximum")]
        lower += [self.lower] if self.lower else []
        upper += [self.upper] if self.upper else []
        self.lower = max(lower, key=lambda bound: (bound.value, bound.exclusive), default=None)
        self.upper = min(upper, key=lambda bound: (bound.value, not bound.exclusive), default=None)

        if "multipleOf" in schema:
            self.multiples.append(int(schema["multipleOf"]))

    def _add_text(self, schema: Mapping[str, Any], pointer: str) -> None:
        self.length = _narrowed(self.length, schema, "minLength", "maxLength")
        if "pattern" in schema:
            self.patterns.append((str(schema["pattern"]), pointer))
        if "format" in schema:
            self.formats.append(str(schema["format"]))
        if NOT_PATTERN in schema:
            self.unlike_patterns.append((str(schema[NOT_PATTERN]), pointer))
        if NOT_FORMAT in schema:
            self.unlike_formats.append(str(schema[NOT_FORMAT]))

    def _add_members(self, schema: Mapping[str, Any], place: Place) -> None:
        named = {name: (place.inside(part, "properties", name),) for name, part in schema.get("properties", {}).items()}
        patterned = tuple(
            (pattern, (place.inside(part, "patternProperties", pattern),))
            for pattern, part in schema.get("patternProperties", {}).items()
        )
        additional = _part(schema, place, "additionalProperties")
        declaring = not place.derived and ("properties" in schema or "patternProperties" in schema)
        if named or patterned or additional is not None or declaring:
            self.members.append(Members(place.pointer, named, patterned, additional, declaring))
        self.required = list(dict.fromkeys([*self.required, *schema.get("required", ())]))
        self.counts = _narrowed(self.counts, schema, "minProperties", "maxProperties")
        self.keys += _part(schema, place, "propertyNames") or ()
        if BREAKS in schema:
            self.broken.append(place)

    def _add_items(self, schema: Mapping[str, Any], place: Place) -> None:
        prefix = [(place.inside(part, "prefixItems", n),) for n, part in enumerate(schema.get("prefixItems", ()))]
        rest = _part(schema, place, "items")
        longest = max(len(prefix), len(self.prefix))
        own = prefix + [rest or ()] * (longest - len(prefix))
        self.prefix = [self.item(index) + own[index] for index in range(longest)]
        self.rest = _both(self.rest, rest)
        self.items = _narrowed(self.items, schema, "minItems", "maxItems")
        self.unique |= schema.get("uniqueItems", False)
        if "contains" in schema:
            low, high = count(schema, "minContains"), count(schema, "maxContains")
            places = (place.inside(schema["contains"], "contains"),)
            self.contains.append(Contains(place.pointer, places, 1 if low is None else low, high))


def _tag(schema: Mapping[str, Any]) -> str | None:
    said = schema.get("discriminator")
    name = said.get("propertyName") if isinstance(said, Mapping) else None
    return name if isinstance(name, str) else None


def _part(schema: Mapping[str, Any], place: Place, keyword: str) -> Places | None:
    return (place.inside(schema[keyword], keyword),) if keyword in schema else None


def _both(left: Places | None, right: Places | None) -> Places | None:
    return None if left is None and right is None else (left or ()) + (right or ())


def _narrowed(
    counts: tuple[int, int | None], schema: Mapping[str, Any], lower: str, upper: str
) -> tuple[int, int | None]:
    highest = [bound for bound in (counts[1], count(schema, upper)) if bound is not None]
    return max(counts[0], count(schema, lower) or 0), min(highest, default=None)
