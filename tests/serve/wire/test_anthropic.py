"""Anthropic's own client against the server."""

import json
from itertools import count
from typing import Any

import anthropic
import jsonschema
import pytest
from anthropic import Anthropic

from redraft.api import Engine
from redraft.serve import prepare
from tests.serve.conftest import NAME, Served

MESSAGES: list[Any] = [{"role": "user", "content": "say something"}]
TOOL: Any = {
    "name": "look_up",
    "description": "Looks up",
    "input_schema": {
        "type": "object",
        "properties": {"word": {"type": "string", "maxLength": 6}, "tags": {"type": "array", "maxItems": 2,
                       "items": {"enum": ["a", "b"]}}},
        "required": ["word"],
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format has no seed; those that the server draws are the same in every run."""
    monkeypatch.setattr(prepare, "new_seed", count(1).__next__)


@pytest.fixture(scope="module")
def client(served: Served) -> Anthropic:
    return Anthropic(base_url=served.url, api_key="none", max_retries=0)


EVENTS = (
    *("message_start", "message_delta", "message_stop"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
)


def ask(client: Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": NAME, "messages": MESSAGES, "max_tokens": 60, **fields})


def test_an_answer_is_that_of_the_engine(client: Anthropic, alone: Engine) -> None:
    message = ask(client, system="be brief")
    assert message.role == "assistant"
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert 0 < message.usage.output_tokens <= 60
    whole = [{"role": "system", "content": "be brief"}, *MESSAGES]
    expected = alone.generate(whole, seed=1, max_tokens=60)
    assert message.content[0].text == expected.text
    assert message.usage.output_tokens == expected.usage.completion_tokens
    prompt = len(alone.runtime.tokenize(whole))
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens == prompt


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    stops = ["\ufffd", "e", "n", "th"]
    message = ask(client, stop_sequences=stops, max_tokens=200)
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence in stops
    assert not any(stop in message.content[0].text for stop in stops)


def events_of(client: Anthropic, **fields: Any) -> list[Any]:
    return list(ask(client, stream=True, **fields))


def check_order(events: list[Any]) -> None:
    """message_start, then whole blocks in order, message_delta, message_stop."""
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    opened, count = None, 0
    for event in events[1:-2]:
        if event.type == "content_block_start":
            assert opened is None
            assert event.index == count
            opened, count = event.index, count + 1
        else:
            assert event.index == opened
            if event.type == "content_block_stop":
                opened = None
            else:
                assert event.type == "content_block_delta"
    assert opened is None
    assert count > 0


def test_a_stream_is_in_order_and_adds_up(client: Anthropic) -> None:
    events = events_of(client, max_tokens=150)
    check_order(events)
    assert events[0].message.type == "message"
    assert events[-2].usage.output_tokens > 0
    with client.messages.stream(model=NAME, messages=MESSAGES, max_tokens=60) as stream:
        text = "".join(stream.text_stream)
        (block,) = stream.get_final_message().content
        assert block.type == "text"
        assert block.text == text


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "look_up"}])
def test_a_forced_tool_is_used_and_its_input_is_valid(client: Anthropic, choice: Any) -> None:
    fields: Any = {"tools": [TOOL], "tool_choice": {**choice, "disable_parallel_tool_use": True}}
    message = ask(client, **fields)
    assert message.stop_reason == "tool_use"
    (block,) = message.content
    jsonschema.validate(block.input, TOOL["input_schema"])
    events = events_of(client, **fields)
    check_order(events)
    assert events[1].content_block.type == "tool_use"
    assert events[1].content_block.name == "look_up"
    pieces = [event.delta.partial_json for event in events if event.type == "content_block_delta"]
    jsonschema.validate(json.loads("".join(pieces)), TOOL["input_schema"])
    assert events[-2].delta.stop_reason == "tool_use"


def test_a_long_input_is_streamed_canvas_by_canvas(client: Anthropic) -> None:
    schema = {"type": "object", "properties": {"body": {"type": "string", "minLength": 120}}, "required": ["body"]}
    tools = [{"name": "write", "input_schema": schema}, TOOL]
    for _ in range(4):
        with client.messages.stream(
            model=NAME, messages=MESSAGES, max_tokens=400, tools=tools, tool_choice={"type": "any"}
        ) as stream:
            events = list(stream)
            message = stream.get_final_message()
        check_order([event for event in events if event.type in EVENTS])
        for block in message.content:
            assert block.type == "tool_use"
            jsonschema.validate(block.input, schema if block.name == "write" else TOOL["input_schema"])
        written = [event for event in events if event.type == "input_json"]
        if any(block.type == "tool_use" and block.name == "write" for block in message.content):
            assert len(written) > len(message.content)


def test_results_of_tools_go_back_to_the_model(client: Anthropic) -> None:
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "found"}]},
    ]
    assert ask(client, messages=turns, tools=[TOOL]).type == "message"


def test_a_thought_is_a_block_of_its_own(client: Anthropic, alone: Engine) -> None:
    thinking: Any = {"type": "adaptive"}
    for attempt in range(8):
        events = events_of(client, thinking=thinking, max_tokens=150 + attempt)
        check_order(events)
        starts = [event.content_block.type for event in events if event.type == "content_block_start"]
        assert starts in (["text"], ["thinking"], ["thinking", "text"])
    with pytest.raises(anthropic.BadRequestError, match="adaptive"):
        ask(client, thinking={"type": "enabled"})
    assert ask(client, thinking={"type": "enabled", "budget_tokens": 59}).type == "message"


def test_errors_come_in_anthropics_envelope(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        ask(client, model="other")
    assert unknown.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": f"the model 'other' is not served here; this is {NAME!r}"},
    }
    wrong = (
        {"top_k": -2},
        {"top_p": 1.5},
        {"temperature": 2},
        {"max_tokens": 100_000},
        {"tool_choice": {"type": "any"}},
    )
    for fields in wrong:
        with pytest.raises(anthropic.BadRequestError) as refused:
            ask(client, extra_body=fields)
        assert next(iter(fields)) in str(refused.value)


def test_there_is_no_seed_and_a_greedy_answer(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="seed"):
        ask(client, extra_body={"seed": 1})
    assert ask(client, extra_body={"temperature": 0}).type == "message"
