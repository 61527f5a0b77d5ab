"""Where values stand in a text: the place is read back, and what is not written there has none."""

import json
from typing import Any

import pytest

from redraft.errors import GenerationError
from redraft.tasks.places import places_of

TEXT = "Ada Lovelace paid 1,250.50 for 3 lamps; ada\n lovelace kept 3. Café 12,5 %"


def found(value: Any) -> dict[str, str]:
    return {pointer: TEXT[slice(*place)] for pointer, place in places_of(TEXT, json.dumps(value)).items()}


def test_values_are_found_as_they_are_written() -> None:
    assert found({"who": "Ada Lovelace", "paid": 1250.5, "lamps": 3, "where": "café", "share": 12.5}) == {
        "/who": "Ada Lovelace",
        "/paid": "1,250.50",
        "/lamps": "3",
        "/where": "Café",
        "/share": "12,5",
    }
    assert found("lamps") == {"": "lamps"}


def test_values_that_are_alike_have_the_places_in_their_order() -> None:
    places = places_of(TEXT, json.dumps([3, 3, "Ada Lovelace", "Ada Lovelace", 3]))
    assert [TEXT[slice(*places[f"/{index}"])] for index in range(4)] == ["3", "3", "Ada Lovelace", "ada\n lovelace"]
    assert places["/0"] < places["/1"]
    assert places["/4"] == places["/0"], "there is no third one"


def test_what_is_not_written_has_no_place() -> None:
    assert found({"a": "amps", "b": None, "c": True, "d": "", "e": 4, "f": [], "g": "2024-01-02", "h": " "}) == {}


def test_what_is_no_json_is_an_error() -> None:
    with pytest.raises(GenerationError, match="no places can be told"):
        places_of(TEXT, "{")
