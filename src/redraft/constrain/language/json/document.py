"""A checked schema document: what holds at a place of it, and the effort that was spent on it."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import TooLargeError
from redraft.constrain.language.json import negation, patterns
from redraft.constrain.language.json.dialects import canonical
from redraft.constrain.language.json.keywords import (
    KNOWN,
    ForbiddenError,
    Schema,
    TooDeepError,
    check,
    fail,
    joined_pointer,
    schema_in,
    subschemas,
)
from redraft.constrain.language.json.merge import Alternatives, Merged, Place, Places
from redraft.constrain.language.json.references import References
from redraft.errors import ConstraintError

# Python's own stack must hold so many nested calls several times over.
_MAX_NESTED = 64
_MAX_SCHEMAS = 20_000
_MAX_PARTS = 1_000_000
_MAX_MERGED = 8_000
# Steps are those that automata count; merging a schema, or an automaton however small, takes about as long as so many.
_MAX_STEPS = 20_000_000
_STEPS_A_SCHEMA = 100
_STEPS_AN_AUTOMATON = 2000


class MissingDocumentError(ConstraintError):
    """A '$ref' leads to a document that is not there; ``uri`` says which."""

    def __init__(self, message: str, uri: str = "") -> None:
        super().__init__(message)
        self.uri = uri


class Document:
    """A schema document whose schemas, those that are in use, are checked and in the keywords of draft 2020-12."""

    def __init__(self, schema: Schema) -> None:
        self._references = References(schema, _MAX_PARTS)
        self._schemas: dict[str, Schema] = {}
        self._sizes: dict[int, int] = {}
        self.ignored: list[str] = []
        """The keywords and formats that change nothing, each with the JSON pointer of its schema."""
        self._merged = 0
        self._nested = 0
        self._steps = 0
        self._automata: dict[Hashable, ByteAutomaton] = {}
        self._merges: dict[Hashable, Merged | ForbiddenError] = {}
        self._refers: dict[str, list[str]] = {}
        self._read("", schema)
        self._recursive = self._targets_in_themselves()

    @property
    def root(self) -> Places:
        return (Place.root(self._schemas[""]),)

    def _read(self, pointer: str, schema: Any) -> None:
        """Check a schema, all inside it, and all that they refer to; ConstraintError, with its place, for a fault."""
        waiting = [(pointer, schema)]
        while waiting:
            at, raw = waiting.pop()
            if at not in self._schemas:
                waiting += self._read_whole(at, raw)

    def _read_whole(self, pointer: str, schema: Any) -> Iterator[tuple[str, Any]]:
        """Read a schema and all inside it; yield the pointers that they refer to, and what stands there."""
        inner: list[tuple[str, Any, Callable[[Schema], None]]] = [(pointer, schema, lambda _: None)]
        while inner:
            at, raw, put = inner.pop()
            checked = schema_in(raw, at)
            if isinstance(checked, Mapping):
                checked = self._canonical(checked, at)
                if "$ref" in checked:
                    checked["$ref"], target = self._target(checked["$ref"], at)
                    self._refers.setdefault(at, []).append(checked["$ref"][1:])
                    yield checked["$ref"][1:], target
                parts = list(subschemas(checked, at))
                for keyword in {keyword for _, keyword, _, _ in parts}:
                    # The containers are the user's own.
                    checked[keyword] = _copied(checked[keyword], keyword)
                inner += [(below, part, _putting(checked, keyword, name)) for below, keyword, name, part in parts]
                self._sizes[id(checked)] = _size(checked)
            put(checked)
            self._schemas[at] = checked
            if len(self._schemas) > _MAX_SCHEMAS:
                raise ConstraintError(f"schema: more than {_MAX_SCHEMAS} schemas inside one another; write less")

    def _targets_in_themselves(self) -> set[str]:
        """The targets of '$ref' inside which a '$ref' leads back to them: depth is counted for these alone."""
        targets = {target for found in self._refers.values() for target in found}
        within: dict[str, set[str]] = {target: set() for target in targets}
        for source, found in self._refers.items():
            # A schema is inside all that its pointer begins with.
            around = source
            while True:
                if around in within:
                    within[around].update(found)
                if not around:
                    break
                around = around.rpartition("/")[0]
        return {target for target in targets if target in _reached(within, target)}

    def _canonical(self, schema: Mapping[str, Any], pointer: str) -> dict[str, Any]:
        draft = self._references.resource(pointer).draft
        if draft < 4:
            raise fail(pointer, "'$schema' names draft 3, which is not supported; write draft 4 or a later one")
        found, ignored = canonical(schema, draft, KNOWN)
        self.ignored += [f"{name} at {pointer}" if pointer else name for name in ignored]
        check(found, pointer)
        return found

    def _target(self, reference: str, pointer: str) -> tuple[str, Any]:
        """The '$ref' into this document that a reference is, and the schema there."""
        try:
            target = self._references.target(reference, pointer)
            return f"#{target}", self._references.at(target)
        except ValueError:
            raise fail(pointer, f"'$ref' {reference!r} is no URI reference") from None
        except LookupError as error:
            if error.args:
                problem = (
                    f"'$ref' {reference!r} leads to another document, {error.args[0]}; give it in a registry, "
                    "JSONSchema(schema, registry={uri: ...})"
                )
                said = str(fail(pointer, problem))
                raise MissingDocumentError(said, str(error.args[0])) from None
            raise fail(pointer, f"'$ref' {reference!r} leads to no schema; define it under '$defs'") from None

    def spend(self, steps: int) -> None:
        """Count work on the document; ConstraintError once it is too much."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise TooLargeError(
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

    def pattern(self, pattern: str, pointer: str, possibly: bool) -> ByteAutomaton:
        """The automaton of the texts in which a pattern is found, certainly or ``possibly``."""

        def build() -> ByteAutomaton:
            try:
                return patterns.automaton(pattern, possibly)
            except ConstraintError as error:
                raise fail(pointer, f"'pattern': {error}") from None

        return self.automaton((pattern, possibly), build)

    def matches(self, pattern: str, pointer: str, text: str, possibly: bool) -> bool:
        """True if a pattern is certainly, or ``possibly``, found in a text."""
        self.spend(len(text))
        return self.pattern(pattern, pointer, possibly).matches(text.encode())

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
        key = tuple(place.key for place in places), depth
        found = self._merges.get(key)
        if found is None:
            try:
                found = self._merge(places, depth)
            except ForbiddenError as error:
                found = error
            self._merges[key] = found
        if isinstance(found, ForbiddenError):
            raise found
        return found

    def _merge(self, places: Places, depth: int | None) -> Merged:
        self._merged += 1
        if self._merged > _MAX_MERGED:
            raise TooLargeError(
                f"schema: more than {_MAX_MERGED} places with '$ref' and choices written out; write fewer options, "
                "fewer '$ref' or a smaller depth"
            )
        merged = Merged(places[0].pointer if places else "", self.matches)
        waiting = list(reversed(places))
        seen = set()
        while waiting:
            place = waiting.pop()
            if (place.pointer, place.negated) in seen:
                continue
            seen.add((place.pointer, place.negated))
            self._merged += 1
            if place.schema is place.negated:
                raise fail(place.pointer, f"{'not true' if place.negated else 'false'} allows nothing", ForbiddenError)
            if isinstance(place.schema, Mapping):
                merged.size += self._sizes.get(id(place.schema)) or _size(place.schema)
                self.spend(_STEPS_A_SCHEMA + merged.size)
                if place.negated:
                    waiting += self._contrary(merged, place, depth)
                else:
                    merged.add(place)
                    waiting += reversed(list(self._same_value(place, depth)))
        return merged

    def _contrary(self, merged: Merged, place: Place, depth: int | None) -> Places:
        """The schemas that hold where a schema does not: one, or one of several, which are added to ``merged``."""
        assert isinstance(place.schema, Mapping)
        positive = place.contrary()
        try:
            stated = negation.options(place.schema, place.pointer)
        except ConstraintError as error:
            raise _at(error, place.pointer) from None
        options = [positive.beside(part, "~not", n) for n, part in enumerate(stated)]
        if "$ref" in place.schema:
            options.append(self._followed(positive, place.schema["$ref"][1:], depth).contrary())
        if not options:
            raise fail(place.pointer, "the contrary of what is always valid allows nothing", ForbiddenError)
        if len(options) == 1:
            return (options[0],)
        at = joined_pointer(place.pointer, "~not")
        merged.alternatives.append(Alternatives("anyOf", at, tuple((option,) for option in options)))
        return ()

    def _same_value(self, place: Place, depth: int | None) -> Iterator[Place]:
        """The schemas that hold where a schema holds."""
        assert isinstance(place.schema, Mapping)
        if "$ref" in place.schema:
            yield self._followed(place, place.schema["$ref"][1:], depth)
        for index, part in enumerate(place.schema.get("allOf", ())):
            yield place.beside(part, "allOf", index)
        if "not" in place.schema:
            yield place.beside(place.schema["not"], "not").contrary()

    def _followed(self, place: Place, target: str, depth: int | None) -> Place:
        if target in place.same_value:
            raise fail(place.pointer, f"'$ref' to '#{target}' is circular: it leads back to itself and to no value")
        if depth is not None and place.opened.count(target) >= depth:
            raise fail(
                place.pointer,
                f"'$ref' to '#{target}' has no instance within a depth of {depth}; raise depth, or let it be left out",
                TooDeepError,
            )
        return place.referring(self._schemas[target], target, target in self._recursive)


def _reached(within: Mapping[str, set[str]], start: str) -> set[str]:
    """The targets that '$ref' inside ``start`` lead to, one after the other."""
    reached = set(within[start])
    waiting = list(reached)
    while waiting:
        new = within[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def _at(error: ConstraintError, pointer: str) -> ConstraintError:
    """An error of a part, with its place where it has none."""
    said = str(error)
    return fail(pointer, said.removeprefix("schema: ")) if said.startswith("schema: ") else error


def _copied(container: Any, keyword: str) -> Any:
    if isinstance(container, Mapping):
        return dict(container)
    return list(container) if isinstance(container, list | tuple) else container


def _putting(schema: dict[str, Any], keyword: str, name: str | int | None) -> Callable[[Schema], None]:
    """Make a function that puts a schema into the place of the one that it was made of."""

    def put(part: Schema) -> None:
        if name is None:
            schema[keyword] = part
        else:
            schema[keyword][name] = part

    return put


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
