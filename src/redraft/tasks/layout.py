"""The fixed layout of a JSON schema: which values an answer has, in which order, after which keys, how wide each is.

The layout looks like YAML: ``name: Ada`` a line, members of objects indented, items of arrays after a dash.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal, get_args

from redraft.constrain.expression import NOTHING, Expression, Without, any_of
from redraft.constrain.language.json import raw
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import TooDeepError, fail, joined_pointer, read
from redraft.constrain.language.json.logic import satisfies
from redraft.constrain.language.json.merge import Merged, Places
from redraft.errors import GenerationError, RequestError
from redraft.models.base import ExtractLayout
from redraft.models.tokenizer import ChatTokenizer

WIDTH, LONG, LONGEST = 16, 24, 40
"""Tokens of a slot for text; a telephone number fits the first, a date with time the second, a UUID the third."""
NULL = "null"
_ALONE = (8, 12, 16, 24, 32, 48)
"""Tokens of a slot that is a canvas by itself."""

_LONG_FORMATS = frozenset({"date-time", "email", "hostname", "ipv4", "ipv6", "uri"})
_TIMES = frozenset({"date", "date-time", "duration", "time"})
CHARACTERS_A_TOKEN = 3
"""The number of characters, on average or more, that a token of text has where it is no number."""
_NUMBER_WIDTH = 12
_MAX_SLOTS = 256
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FORMS = {"date": "date as YYYY-MM-DD", "date-time": "date and time", "uri": "link"}

Type = Literal["string", "integer", "number", "boolean", "enum"]
_TYPES: dict[frozenset[str], Type] = {
    frozenset({"string"}): "string",
    frozenset({"integer"}): "integer",
    frozenset({"fraction"}): "number",
    frozenset({"integer", "fraction"}): "number",
    frozenset({"boolean"}): "boolean",
}


@dataclass(frozen=True)
class Slot:
    """The place of one value that holds no others."""

    pointer: str
    """The JSON pointer (RFC 6901) of the value in the answer."""
    key: str
    """The text that is pinned before it: its key, after those of containers that begin here."""
    type: Type
    width: int
    """Tokens, with the one that ends the text."""
    values: tuple[Any, ...] = ()
    """The values of an enum, without null."""
    nullable: bool = False
    """True if null is a value."""
    may_be_absent: bool = False
    """True if the text ``null`` says that there is no value, or that it is null; elsewhere it is text."""
    form: str = ""
    """A description of what may stand here."""
    about: str = ""
    """The schema's description."""
    rewritten: bool = False
    """True for a form that a text may say otherwise: a date, a time."""
    holds_all: bool = False
    """True if its width is enough for each of its values."""
    texts: Expression = field(default=NOTHING, repr=False, compare=False)
    """The texts of its values, each on one line and none of them that of an absent value."""

    def text(self, value: Any) -> str:
        """The text of a value; RequestError for one of another type."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        match self.type:
            case "string" if isinstance(value, str) and not (value == NULL and self.may_be_absent):
                return value
            case "boolean" if isinstance(value, bool):
                return plain(value)
            case "enum" if any(_same(value, one) for one in self.values):
                return plain(value)
            case "integer" if number and value == int(value):
                return plain(int(value))
            case "number" if number:
                return json.dumps(value, allow_nan=False)
        raise RequestError(f"value at {self.pointer}: {value!r} is not {self._expected}")

    def value(self, text: str) -> Any:
        """The value that a text says, which is not absent; GenerationError for one that is malformed."""
        match self.type:
            case "string":
                return text
            case "boolean" if text in ("true", "false"):
                return text == "true"
            case "enum" if text in (texts := [plain(value) for value in self.values]):
                return self.values[texts.index(text)]
            case "integer" if _INTEGER.fullmatch(text):
                return int(text)
            case "number" if _NUMBER.fullmatch(text):
                return json.loads(text)
        raise GenerationError(f"value at {self.pointer}: {text!r} is not {self._expected}")

    @property
    def _expected(self) -> str:
        if self.type == "enum":
            return f"one of {', '.join(map(repr, self.values))}"
        return f"a {self.type}" + (f" other than {NULL!r}, which stands for none" if self.may_be_absent else "")


@dataclass(frozen=True)
class Fields:
    """The place of an object."""

    pointer: str
    members: Mapping[str, "Part"]
    required: frozenset[str]
    nullable: bool = False
    may_be_absent: bool = False
    about: str = ""


@dataclass(frozen=True)
class Items:
    """The place of an array, which ends at the first item that is absent."""

    pointer: str
    items: tuple["Part", ...]
    min: int = 0
    nullable: bool = False
    may_be_absent: bool = False
    about: str = ""


Part = Slot | Fields | Items


def laid_out(schema: Mapping[str, Any] | str, tokenizer: ChatTokenizer | None = None) -> Fields:
    """Lay a schema out. Without a tokenizer, widths that depend on one are ``WIDTH``.

    Raises RequestError, naming the JSON pointer of the schema, for what has no fixed layout.
    """
    document = Document(read(schema))
    root = _Builder(document, tokenizer).part(document.root, "", 0)
    if not isinstance(root, Fields):
        raise RequestError("schema: the outermost value must be an object; its properties become the keys")
    return root


def slots(part: Part) -> Iterator[Slot]:
    """Slots of a part, in the order in which they stand on the canvas."""
    match part:
        case Slot():
            yield part
        case Fields():
            for member in part.members.values():
                yield from slots(member)
        case Items():
            for item in part.items:
                yield from slots(item)


def described(part: Fields, depth: int = 0) -> Iterator[str]:
    """A line for each member: its key, what it may be, its description; those inside below it."""
    for name, member in part.members.items():
        form, inner = _form(member)
        said = f": {member.about}" if member.about else ""
        yield "  " * depth + f"- {shown_key(name)}{f' ({form})' if form else ''}{said}"
        if isinstance(inner, Fields):
            yield from described(inner, depth + 1)


def widths_alone(tokens: int) -> list[int]:
    """Return the widths that hold a text of so many tokens on a canvas by itself and do not tell how long it is, the
    least first; training takes any of them."""
    return [width for width in _ALONE if width > tokens + 2][:2] or [tokens + 4]


def plain(value: Any) -> str:
    """A value as raw text: a string as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def shown_key(name: str) -> str:
    """A key as it is, quoted where it would not be read as one."""
    return name if name and name.isprintable() and name == name.strip() else json.dumps(name)


def check_layout(layout: object) -> None:
    """Refuse what is no layout of ``extract`` or ``choose``; None is the checkpoint's own."""
    if layout is not None and layout not in get_args(ExtractLayout):
        raise RequestError(f"layout {layout!r} must be 'slots' or 'text', or None for the checkpoint's own")


class _Builder:
    """Lays out the places of a document, one after the other."""

    def __init__(self, document: Document, tokenizer: ChatTokenizer | None) -> None:
        self._document, self._tokenizer = document, tokenizer
        self._count, self._keys = 0, ""

    def part(self, places: Places, pointer: str, depth: int, may_be_absent: bool = False, item: bool = False) -> Part:
        """The layout of a value for which all ``places`` hold, and whose own parts are so deep indented."""
        about = _description(places)
        places, merged, kinds, nullable = self._decided(places)
        may_be_absent |= nullable
        if kinds == {"object"} and merged.values is None:
            members = self._members(merged, pointer, depth, may_be_absent)
            return Fields(pointer, members, frozenset(merged.required), nullable, may_be_absent, about)
        if kinds == {"array"} and merged.values is None:
            # Items of a member stand as deep as its key.
            items = self._items(merged, pointer, depth if item else depth - 1)
            return Items(pointer, items, merged.items[0], nullable, may_be_absent, about)
        return self._slot(places, merged, kinds, pointer, nullable, may_be_absent, about)

    def _decided(self, places: Places) -> tuple[Places, Merged, frozenset[str], bool]:
        """All that holds, apart and together, the kinds of value beside null, and whether null is one. Of alternatives
        the only one holds that is not null."""
        decided: set[str] = set()
        nullable = False
        try:
            merged = self._document.merge(places, 1)
            while left := [one for one in merged.alternatives if one.pointer not in decided]:
                options = [option for option in left[0].options if not self._is_null(option)]
                if len(options) != 1:
                    problem = f"{left[0].keyword!r} has no fixed layout; give one option beside null, or an 'enum'"
                    raise fail(left[0].pointer, problem)
                nullable |= len(options) < len(left[0].options) and "null" in (merged.kinds or {"null"})
                decided.add(left[0].pointer)
                places = (*places, *options[0])
                merged = self._document.merge(places, 1)
        except TooDeepError:
            raise fail(places[0].pointer, "a schema inside itself has no fixed layout; write it out") from None
        if merged.unfixed:
            raise fail(merged.pointer, f"{merged.unfixed[0]!r} has no fixed layout; leave it out and check the result")
        kinds = merged.kinds if merged.kinds is not None else merged.implied_kinds
        if merged.values is not None:
            values = [value for value in merged.values if satisfies(self._document, merged, value)]
            merged = replace(merged, values=values)
            nullable |= None in values
        else:
            nullable |= "null" in kinds
        return places, merged, kinds - {"null"}, nullable

    def _is_null(self, places: Places) -> bool:
        merged = self._document.merge(places, 1)
        return merged.kinds == frozenset({"null"}) or merged.values == [None]

    def _members(self, merged: Merged, pointer: str, depth: int, may_be_absent: bool) -> dict[str, Part]:
        named = {
            name: places
            for name, places in (merged.properties or {}).items()
            if not any(place.schema is False for place in places)
        }
        if not named:
            raise fail(merged.pointer, "an object whose keys are open has no fixed layout; name its 'properties'")
        for name in merged.required:
            if name not in named:
                raise fail(merged.pointer, f"'required' names {name!r}, which 'properties' does not describe")
        members: dict[str, Part] = {}
        for name, places in named.items():
            self._begin(f"{shown_key(name)}:", depth)
            absent = may_be_absent or name not in merged.required
            members[name] = self.part(places, joined_pointer(pointer, name), depth + 1, absent)
        return members

    def _items(self, merged: Merged, pointer: str, depth: int) -> tuple[Part, ...]:
        most = merged.items[1]
        ends = merged.rest is None or any(place.schema is False for place in merged.rest)
        if merged.prefix and ends:
            most = min(len(merged.prefix), len(merged.prefix) if most is None else most)
        if not most or most > _MAX_SLOTS:
            problem = f"an array has no fixed layout without a 'maxItems' from 1 to {_MAX_SLOTS}"
            raise fail(merged.pointer, problem)
        items = []
        for index in range(most):
            self._begin("-", depth)
            item = self.part(merged.item(index), joined_pointer(pointer, index), depth + 1, True, item=True)
            if item.nullable:
                raise fail(merged.pointer, "items that may be null cannot be told from the array's end")
            items.append(item)
        return tuple(items)

    def _begin(self, key: str, depth: int) -> None:
        """Join what begins after a dash to its line."""
        self._keys += (" " if self._keys.endswith("-") else "\n" + "  " * depth) + key

    def _slot(
        self,
        places: Places,
        merged: Merged,
        kinds: frozenset[str],
        pointer: str,
        nullable: bool,
        may_be_absent: bool,
        about: str,
    ) -> Slot:
        values = tuple(value for value in merged.values or () if value is not None)
        type_ = _TYPES.get(kinds) if merged.values is None else "enum"
        simple = not any(isinstance(value, Mapping | list | tuple) for value in values)
        if type_ is None or not simple or (type_ == "enum" and not values):
            problem = (
                "has no fixed layout; give one type of string, integer, number, boolean, object and array, beside null"
            )
            raise fail(merged.pointer, problem)
        if len({NULL, *map(plain, values)}) <= len(values):
            raise fail(merged.pointer, "values of 'enum' have the same text, or that of null; change one")
        self._count += 1
        if self._count > _MAX_SLOTS:
            raise fail(merged.pointer, f"more than {_MAX_SLOTS} values; lower 'maxItems', or ask in several parts")
        key, self._keys = self._keys if self._count > 1 else self._keys.removeprefix("\n"), ""
        width, holds_all = self._width(merged, type_, values, may_be_absent)
        texts = any_of(*map(plain, values)) if type_ == "enum" else raw.texts(self._document, places, [type_])
        if type_ == "string" and may_be_absent:
            texts = Without(texts, any_of(NULL))
        said, rewritten = _said(type_, merged, values), not _TIMES.isdisjoint(merged.formats)
        return Slot(
            pointer, key, type_, width, values, nullable, may_be_absent, said, about, rewritten, holds_all, texts
        )

    def _width(self, merged: Merged, type_: Type, values: Sequence[Any], may_be_absent: bool) -> tuple[int, bool]:
        """The tokens of a slot, and whether they are enough for each of its values."""
        null = [NULL] if may_be_absent else []
        if type_ in ("enum", "boolean"):
            return self._longest([*map(plain, values or (True, False)), *null]), True
        if type_ == "integer" and merged.lower is not None and merged.upper is not None:
            # Every digit may be a token.
            longest = max(len(str(int(bound.value))) for bound in (merged.lower, merged.upper))
            return max(self._longest(["0"]) + longest - 1, self._longest(null or ["0"])), True
        return (_NUMBER_WIDTH if type_ != "string" else _text_width(merged)), False

    def _longest(self, texts: Iterable[str]) -> int:
        """The width that holds each of these."""
        if self._tokenizer is None:
            return WIDTH
        return 1 + max(len(self._tokenizer.encode_text(f" {text}", literal=True)) for text in texts)


def _text_width(merged: Merged) -> int:
    if "uuid" in merged.formats:
        return LONGEST
    if _LONG_FORMATS & set(merged.formats):
        return LONG
    characters = merged.length[1] or 0
    return next((width for width in (WIDTH, LONG) if characters <= CHARACTERS_A_TOKEN * width), LONGEST)


def _form(part: Part) -> tuple[str, Part]:
    """Describe what a member may be, and return the part whose own members are told below it."""
    match part:
        case Slot():
            return part.form, part
        case Fields():
            return "", part
        case Items():
            form, inner = _form(part.items[0])
            return f"up to {len(part.items)}{f': {form}' if form else ''}", inner


def _said(type_: Type, merged: Merged, values: Sequence[Any]) -> str:
    match type_:
        case "enum":
            return " | ".join(map(plain, values))
        case "boolean":
            return "true | false"
        case "integer" if merged.lower is not None and merged.upper is not None:
            return f"integer from {_digits(merged.lower.value)} to {_digits(merged.upper.value)}"
        case "string" if merged.formats:
            return _FORMS.get(merged.formats[0], merged.formats[0])
        case "string":
            return "text"
    return type_


def _digits(value: Decimal) -> str:
    return str(int(value)) if value == value.to_integral_value() else str(value)


def _description(places: Places) -> str:
    schemas = [place.schema for place in places if isinstance(place.schema, Mapping)]
    said = next((schema["description"] for schema in schemas if "description" in schema), "")
    return " ".join(str(said).split())


def _same(left: Any, right: Any) -> bool:
    """Equal in JSON, where true is not 1."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)
