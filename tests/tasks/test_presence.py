"""Which slots may say nothing together: exactly the ways that are read back to a value of the schema."""

from collections.abc import Iterator
from itertools import product

import pytest

from redraft.errors import GenerationError
from redraft.tasks.layout import laid_out, slots
from redraft.tasks.presence import END, Fork, levels, presence
from redraft.tasks.slots import _read
from tests.tasks.test_slots import object_of

TEXT = {"type": "string"}
ARRAY = {"type": "array", "items": TEXT, "maxItems": 3}
INNER = object_of({"a": TEXT, "b": {"type": ["string", "null"]}}, "a", "b")
OPEN = object_of({"a": TEXT, "b": TEXT})
SCHEMAS = {
    "required": object_of({"a": TEXT, "b": TEXT}, "a"),
    "nullable": object_of({"a": {"type": ["string", "null"]}, "b": TEXT}, "a", "b"),
    "an array": object_of({"a": ARRAY}),
    "an array that is required": object_of({"a": {**ARRAY, "minItems": 2}, "b": TEXT}, "a"),
    "an array with a minimum": object_of({"a": {**ARRAY, "minItems": 2}, "b": TEXT}),
    "an array that may be empty": object_of({"a": ARRAY, "b": TEXT}, "a", "b"),
    "an object that may be absent": object_of({"a": INNER, "b": TEXT}),
    "an object that is required": object_of({"a": INNER, "b": TEXT}, "a"),
    "an object whose members all may be absent": object_of({"a": OPEN, "b": OPEN}, "a"),
    "an array of objects": object_of({"a": {"type": "array", "items": INNER, "maxItems": 2}, "b": TEXT}, "b"),
    "an array of open objects": object_of({"a": {"type": "array", "items": OPEN, "minItems": 1, "maxItems": 3}}, "a"),
    "arrays in arrays": object_of({"a": {"type": "array", "items": object_of({"b": ARRAY}, "b"), "maxItems": 2}}, "a"),
}


def ways(fork: Fork | None) -> Iterator[tuple[bool, ...]]:
    """Every way from a place to the end: whether each slot says something."""
    if fork is END:
        yield ()
    elif fork is not None:
        for said, after in ((True, fork.said), (False, fork.silent)):
            yield from ((said, *rest) for rest in ways(after))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_the_ways_are_those_that_are_read_back(schema: dict[str, object]) -> None:
    root = laid_out(schema)
    own = list(slots(root))

    def readable(said: tuple[bool, ...]) -> bool:
        if any(not one and not slot.may_be_absent for one, slot in zip(said, own, strict=True)):
            return False  # Null would be a text there.
        try:
            _read(root, iter("x" if one else "null" for one in said))
        except GenerationError:
            return False
        return True

    expected = {said for said in product((True, False), repeat=len(own)) if readable(said)}
    found = list(ways(presence(root)))
    assert set(found) == expected
    assert len(found) == len(set(found))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_slots_in_which_no_value_may_stand_are_silent_or_there_is_no_way(schema: dict[str, object]) -> None:
    root = laid_out(schema)
    own, all_ways = list(slots(root)), list(ways(presence(root)))
    for number, empty in enumerate(own):
        left = [said for said in all_ways if not said[number]]
        assert list(ways(presence(root, lambda slot, empty=empty: slot is not empty))) == left  # type: ignore[misc]


def test_places_from_which_the_same_ways_lead_on_are_one() -> None:
    many = object_of({f"m{number}": TEXT for number in range(60)})
    start = presence(laid_out(many))
    assert start is not None
    assert [len(places) for places in levels(start, 60)] == [1] * 61
