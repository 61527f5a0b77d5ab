"""The items of a response and their events, for answers that a model of noise hardly ever gives."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest
from openai.types.responses import ResponseStreamEvent

from redraft.api import Engine
from redraft.models.tools import CallPart
from redraft.serve.deltas import Piece
from redraft.serve.errors import ApiError
from redraft.serve.wire.openai.events import ResponseEvents
from tests.serve.conftest import NAME

# Of the client's types: what they demand of an event is checked, as the client itself does not.
EVENTS: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
DESCRIBED = {"model": NAME, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
# The first comes in two parts.
CALLS = [CallPart(0, "f", '{"a"'), CallPart(0, None, ":1}", last=True), CallPart(1, "g", "{}", last=True)]


def read(frame: str) -> Any:
    kind, data = frame.strip().split("\n")
    event = EVENTS.validate_python(json.loads(data.removeprefix("data: ")))
    assert kind == f"event: {event.type}"
    return event


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([Piece()], [("message", "")]),
        ([Piece("a"), Piece(), Piece("b")], [("message", "ab")]),
        ([Piece(thought="x"), Piece("a", "y"), Piece("b")], [("reasoning", "xy"), ("message", "ab")]),
        ([Piece(thought="x")], [("reasoning", "x")]),
        ([Piece("a", "x", parts=CALLS)], [("reasoning", "x"), ("message", "a"), ("f", '{"a":1}'), ("g", "{}")]),
        ([Piece(parts=CALLS[:1]), Piece(parts=CALLS[1:])], [("f", '{"a":1}'), ("g", "{}")]),
        # What was held back may come after a call.
        ([Piece("a", parts=CALLS[:2]), Piece("b")], [("message", "a"), ("f", '{"a":1}'), ("message", "b")]),
    ],
)
def test_items_are_told_one_after_the_other_as_they_are_in_the_end(
    alone: Engine, pieces: list[Piece], expected: list[tuple[str, str]]
) -> None:
    prepared: Any = SimpleNamespace(request=SimpleNamespace(constraint=None), runtime=alone.runtime)
    result = alone.generate([{"role": "user", "content": "x"}], seed=1, max_tokens=1)
    events = ResponseEvents(DESCRIBED)
    frames = [
        *events.begin(Piece()),
        *(one for piece in pieces for one in events.add(piece)),
        *events.end(prepared, result),
    ]
    told = [read(frame) for frame in frames]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    output = told[-1].response.output
    assert list(items_of(told[2:-1])) == output
    assert [text_of(item) for item in output] == expected
    assert len({item.id for item in output}) == len(output)


def items_of(events: list[Any]) -> Iterator[Any]:
    """The items as the deltas have them; each is told from its beginning to its end before the next begins."""
    steps = iter(events)
    for index, added in enumerate(steps):
        assert (added.type, added.output_index) == ("response.output_item.added", index)
        item, text = added.item, ""
        assert item.status == "in_progress"
        if item.type != "function_call":
            assert item.content == []
            assert next(steps).type == "response.content_part.added"
        event = next(steps)
        while event.type.endswith(".delta"):
            text += event.delta
            assert (event.item_id, event.output_index) == (item.id, index)
            event = next(steps)
        assert event.type.endswith(".done")
        assert text == (event.arguments if item.type == "function_call" else event.text)
        if item.type != "function_call":
            part = next(steps)
            assert (part.type, part.part.text) == ("response.content_part.done", text)
        done = next(steps)
        assert (done.type, done.item.id, done.output_index) == ("response.output_item.done", item.id, index)
        assert text_of(done.item)[1] == text
        yield done.item


def text_of(item: Any) -> tuple[str, str]:
    return (item.name, item.arguments) if item.type == "function_call" else (item.type, item.content[0].text)


def test_what_there_was_when_an_answer_failed_is_shown() -> None:
    events = ResponseEvents(DESCRIBED)
    list(events.begin(Piece()))
    list(events.add(Piece("a", "x")))
    response = read(events.fail(ApiError(500, "broken"))).response
    assert (response.status, response.error.message) == ("failed", "broken")
    assert [(item.type, item.status) for item in response.output] == [
        ("reasoning", "completed"),
        ("message", "incomplete"),
    ]
