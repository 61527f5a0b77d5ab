"""Slots: a schema's values keep their place on a canvas and come back; what has no place, or does not fit, is named."""

import json
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jsonschema
import pytest

from redraft.errors import GenerationError, RequestError
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.slots import Canvas, Filled, Pinned, Slots, asked
from tests.random_checkpoint import write_letters_tokenizer

END = 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("letters")
    write_letters_tokenizer(folder, 400)
    return ChatTokenizer.from_folder(folder)


def object_of(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def slot_tokens(canvas: Canvas, slots: Slots) -> list[list[int]]:
    """What stands in each slot, found by the pinned positions between them alone."""
    runs = re.finditer("1+", "".join(str(int(free)) for free in canvas.free))
    found = [list(canvas.tokens[run.start() : run.end()]) for run in runs]
    assert [len(own) for own in found] == [slot.width for slot in slots.slots]
    return found


class Drawn:
    """Schemas with a fixed layout, each with a value in the form in which values are read."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def whole(self) -> tuple[dict[str, Any], Any]:
        return self.object(2, True)

    def any(self, depth: int, item: bool = False) -> tuple[dict[str, Any], Any]:
        kinds: list[Callable[[], tuple[dict[str, Any], Any]]] = [
            self.text,
            self.integer,
            self.number,
            self.boolean,
            self.options,
        ]
        if depth:
            kinds += [partial(self.object, depth - 1, not item), partial(self.array, depth - 1, item)]
        return self.chance.choice(kinds)()

    def text(self) -> tuple[dict[str, Any], Any]:
        letters = 'ab é:-\n"{}0null日'
        text = "".join(self.chance.choice(letters) for _ in range(self.chance.randint(0, 3)))
        return {"type": "string"}, "x" + text.rstrip()

    def integer(self) -> tuple[dict[str, Any], Any]:
        if self.chance.random() < 0.5:
            return {"type": "integer"}, self.chance.randint(-1000, 100000)
        low, high = sorted(self.chance.sample(range(-2000, 2000), 2))
        return {"type": "integer", "minimum": low, "maximum": high}, self.chance.randint(low, high)

    def number(self) -> tuple[dict[str, Any], Any]:
        return {"type": "number"}, self.chance.choice([0.5, -12.25, 7, 1e-07, 3.0e20])

    def boolean(self) -> tuple[dict[str, Any], Any]:
        return {"type": "boolean"}, self.chance.random() < 0.5

    def options(self) -> tuple[dict[str, Any], Any]:
        values = self.chance.sample(
            ["red", "a rather long one of these", "", 3, 2.5, True, "é"], self.chance.randint(1, 5)
        )
        return {"enum": values}, self.chance.choice(values)

    def array(self, depth: int, item: bool) -> tuple[dict[str, Any], Any]:
        schema, value = self.any(depth, item=True)
        least = 1 if item else self.chance.choice([0, 0, 1])
        most = self.chance.randint(1, 3)
        count = self.chance.randint(least, most)
        return {"type": "array", "items": schema, "minItems": least, "maxItems": most}, [value] * count

    def object(self, depth: int, may_be_silent: bool) -> tuple[dict[str, Any], Any]:
        """Where ``may_be_silent`` is false, it says something: as an item it would else be its array's end."""
        properties: dict[str, Any] = {}
        value: dict[str, Any] = {}
        required = []
        for name in self.chance.sample(["a", "b", "a key", "é", "c/d", "~"], self.chance.randint(1, 3)):
            schema, own = self.any(depth, item=not may_be_silent)
            fate = self.chance.choice(["there", "required", "left out", "null"])
            if silent(own) or not may_be_silent or "enum" in schema:
                fate = "required"
            if fate == "null" and schema.get("minItems") != 0:
                null = [{"anyOf": [schema, {"type": "null"}]}, {**schema, "type": [schema["type"], "null"]}]
                schema, own = self.chance.choice(null), None
            elif fate == "left out" and schema.get("minItems") != 0:
                own = ...
            if fate in ("required", "null"):
                required.append(name)
            properties[name] = schema
            if own is not ...:
                value[name] = own if fate != "left out" else []
        return {"type": "object", "properties": properties, "required": required}, value


def silent(value: Any) -> bool:
    """Whether slots that say nothing are all there is of it."""
    if isinstance(value, dict):
        return all(map(silent, value.values()))
    return value is None or value == []


@pytest.mark.parametrize("seed", range(80))
def test_what_is_written_into_slots_is_read_from_them(tokenizer: ChatTokenizer, seed: int) -> None:
    schema, value = Drawn(seed).whole()
    jsonschema.validate(value, schema)
    slots = Slots.of(schema, tokenizer, END)
    canvas = slots.canvas(value)
    assert len(canvas.tokens) == len(canvas.free) == len(slots.empty.tokens)
    read = slots.decode(slot_tokens(canvas, slots))
    assert read == value
    assert json.dumps(read, sort_keys=True) == json.dumps(value, sort_keys=True)


NOTHING = {"type": "null"}
SCHEMA = object_of(
    {
        "name": {"type": "string", "description": "Who\n  writes"},
        "address": object_of({"city": {"type": "string"}, "zip": {"anyOf": [{"type": "string"}, NOTHING]}}, "city"),
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
        "rows": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/row"}},
        "stars": {"type": ["integer", "null"], "minimum": 1, "maximum": 10},
        "ok": {"type": "boolean"},
    },
    *("name", "stars", "ok"),
    **{"$defs": {"row": object_of({"what": {"type": "string"}, "cost": {"type": "number"}}, "what")}},
)  # fmt: skip
VALUE = {
    "name": "Ada", "address": {"city": "Ulm", "zip": None}, "tags": ["blue"], "rows": [{"what": "tea", "cost": 1.5}],
    "stars": None, "ok": True,
}  # fmt: skip
CANVAS = """\
name: Ada
address:
  city: Ulm
  zip: null
tags:
- blue
- null
rows:
- what: tea
  cost: 1.5
- what: null
  cost: null
stars: null
ok: true"""


def test_a_canvas_looks_like_yaml_with_its_keys_pinned(tokenizer: ChatTokenizer) -> None:
    slots = Slots.of(SCHEMA, tokenizer, END)
    pieces = slots.pieces(VALUE)
    assert "".join(piece.text for piece in pieces) == CANVAS
    pinned = [token for token, free in zip(*_parts(slots.canvas(VALUE)), strict=True) if not free]
    empty = [token for token, free in zip(*_parts(slots.empty), strict=True) if not free]
    expected = [tokenizer.encode_text(piece.text) for piece in pieces if isinstance(piece, Pinned)]
    assert pinned == empty == [token for own in expected for token in own]
    assert slots.decode(slot_tokens(slots.canvas(VALUE), slots)) == VALUE
    assert [slot.pointer for slot in slots.slots][:5] == [
        "/name",
        "/address/city",
        "/address/zip",
        "/tags/0",
        "/tags/1",
    ]


def _parts(canvas: Canvas) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return canvas.tokens, canvas.free


def test_a_width_holds_all_that_a_bounded_type_may_say_and_one_end_token(tokenizer: ChatTokenizer) -> None:
    schema = object_of(
        {
            "enum": {"enum": ["a", "a long value", None]},
            "whole": {"type": "integer", "minimum": -99, "maximum": 7},
            "truth": {"type": "boolean"},
            "text": {"type": "string"},
            "mail": {"type": "string", "format": "email"},
            "essay": {"type": "string", "maxLength": 400},
        },
        *("enum", "whole", "truth", "text", "mail", "essay"),
    )
    slots = Slots.of(schema, tokenizer, END)
    widths = {slot.pointer[1:]: slot.width for slot in slots.slots}

    def longest(*texts: str) -> int:
        return max(len(tokenizer.encode_text(f" {text}")) for text in texts)

    assert widths["enum"] == longest("a", "a long value", "null") + 1
    assert widths["truth"] == longest("true", "false") + 1
    assert widths["whole"] >= longest(*map(str, range(-99, 8))) + 1
    assert widths["text"] < widths["mail"] < widths["essay"]


def test_the_prompt_names_every_field_with_its_type_its_values_and_its_description() -> None:
    assert asked(SCHEMA, "Read.") == (
        "Read.\n"
        "- name (text): Who writes\n"
        "- address\n"
        "  - city (text)\n"
        "  - zip (text)\n"
        "- tags (up to 2: red | blue)\n"
        "- rows (up to 2)\n"
        "  - what (text)\n"
        "  - cost (number)\n"
        "- stars (integer from 1 to 10)\n"
        "- ok (true | false)"
    )
    assert "- day (date as YYYY-MM-DD)" in asked(object_of({"day": {"type": "string", "format": "date"}}))


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"type": "array", "items": {"type": "string"}}, "/properties/x"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, "/properties/x"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 999}, "/properties/x"),
        ({"type": "array", "items": {"type": ["string", "null"]}, "maxItems": 2}, "/properties/x"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "/properties/x/anyOf"),
        (
            {"anyOf": [object_of({"a": {"type": "string"}}), object_of({"b": {"type": "string"}})]},
            "/properties/x/anyOf",
        ),
        ({"type": ["string", "integer"]}, "/properties/x"),
        ({}, "/properties/x"),
        ({"type": "object"}, "/properties/x"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "/properties/x"),
        ({"enum": [["a"], ["b"]]}, "/properties/x"),
        ({"enum": ["1", 1]}, "/properties/x"),
        ({"enum": ["null", None]}, "/properties/x"),
        ({"$ref": "#"}, "schema"),
        (object_of({"a": {"type": "string"}}, "b"), "/properties/x"),
    ],
)
def test_what_has_no_fixed_layout_is_refused_with_its_place(
    tokenizer: ChatTokenizer, part: dict[str, Any], place: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(place)):
        Slots.of(object_of({"x": part}), tokenizer, END)


def test_what_is_no_object_is_refused(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(RequestError, match="outermost"):
        Slots.of({"type": "string"}, tokenizer, END)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": "x" * 40}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": None}, "/name"),
        ({"ok": "true"}, "/ok"),
        ({"ok": 1}, "/ok"),
        ({"stars": 2.5}, "/stars"),
        ({"tags": ["green"]}, "/tags/0"),
        ({"tags": ["red"] * 3}, "/tags"),
        ({"tags": "red"}, "/tags"),
        ({"rows": [{"cost": 1}]}, "/rows/0/what"),
        ({"address": {"zip": "1"}}, "/address/city"),
        ({"address": {"city": "null"}}, "/address/city"),
        ({"address": "Ulm"}, "/address"),
        ({"colour": "red"}, "/colour"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tokenizer: ChatTokenizer, change: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestError, match=rf"at {place}[: ]"):
        Slots.of(SCHEMA, tokenizer, END).canvas({**VALUE, **change})
    with pytest.raises(RequestError, match="at /stars is missing"):
        Slots.of(SCHEMA, tokenizer, END).canvas({"name": "Ada", "ok": True})


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("/stars", "ten"), ("/stars", "01"), ("/stars", "1.0"), ("/ok", "yes"), ("/ok", "null"), ("/tags/0", "green"),
        ("/rows/0/cost", "1,5"), ("/rows/0/cost", "NaN"),
    ],
)  # fmt: skip
def test_a_leaf_that_is_malformed_is_named(tokenizer: ChatTokenizer, place: str, text: str) -> None:
    slots = Slots.of(SCHEMA, tokenizer, END)
    texts = {slot.pointer: piece.text for slot, piece in zip(slots.slots, slots.pieces(VALUE)[1::2], strict=True)}
    with pytest.raises(GenerationError, match=f"at {place}"):
        slots.decode([tokenizer.encode_text(own) for own in (texts | {place: f" {text}"}).values()])


def test_a_hole_in_an_array_and_a_value_that_must_be_there_are_named(tokenizer: ChatTokenizer) -> None:
    slots = Slots.of(SCHEMA, tokenizer, END)
    texts = {slot.pointer: piece.text for slot, piece in zip(slots.slots, slots.pieces(VALUE)[1::2], strict=True)}

    def read(**changed: str) -> Any:
        return slots.decode([tokenizer.encode_text(own) for own in (texts | changed).values()])

    with pytest.raises(GenerationError, match="at /tags/1 comes after the end"):
        read(**{"/tags/0": " null", "/tags/1": " red"})
    with pytest.raises(GenerationError, match="at /rows/0/what is missing"):
        read(**{"/rows/0/what": " null"})
    with pytest.raises(GenerationError, match="at /address/city is missing"):
        read(**{"/address/city": " null", "/address/zip": " 89"})
    absent = read(**{"/address/city": " null", "/tags/0": " null", "/rows/0/what": " null", "/rows/0/cost": " null"})
    assert absent == {"name": "Ada", "tags": [], "rows": [], "stars": None, "ok": True}
    # A string that must be there is text, whatever it is.
    assert read(**{"/name": " null"})["name"] == "null"


def test_pieces_are_encoded_each_by_itself_and_a_slot_keeps_an_end(tokenizer: ChatTokenizer) -> None:
    canvas = Canvas.of([Pinned("a "), Filled("true", 3), Pinned("th"), Filled("", 2)], tokenizer, END)
    one, two, three = (tuple(tokenizer.encode_text(text)) for text in ("a ", "true", "th"))
    assert canvas.tokens == (*one, *two, *[END] * (3 - len(two)), *three, END, END)
    assert canvas.free == (*[False] * len(one), True, True, True, *[False] * len(three), True, True)
    with pytest.raises(RequestError, match="holds 1 and an end token"):
        Canvas.of([Filled("truefalse", 2)], tokenizer, END)


def test_a_schema_may_be_given_as_text(tokenizer: ChatTokenizer) -> None:
    assert Slots.of(json.dumps(SCHEMA), tokenizer, END).slots == Slots.of(SCHEMA, tokenizer, END).slots
