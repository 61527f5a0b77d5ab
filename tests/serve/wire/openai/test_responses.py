"""``/v1/responses`` with OpenAI's own client: answers, the order of events, and every field alone."""

import json
from typing import Any, get_type_hints

import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from openai.types.responses import response_create_params
from pydantic import BaseModel, Field

from redraft.api import Engine
from redraft.serve.wire.openai.responses_fields import ResponsesBody
from redraft.serve.wire.sampling import SAMPLING
from tests.serve.conftest import NAME, Served, wait_until

MESSAGES: list[Any] = [{"role": "user", "content": "say something"}]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "maxLength": 6},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["word", "count"],
}
TOOL: Any = {"type": "function", "name": "look_up", "description": "Looks up", "parameters": PARAMETERS}
SCHEMA: Any = {"type": "json_schema", "name": "x", "schema": PARAMETERS}

REFUSED: dict[str, Any] = {
    "access_programs": [],
    "background": True,
    "background_options": {},
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {},
    "include": ["message.output_text.logprobs"],
    "moderation": {},
    "previous_response_id": "resp_1",
    "prompt": {"id": "p"},
    "service_tier": "flex",
    "store": True,
    "top_logprobs": 2,
    "top_p": 1.5,
    "truncation": "auto",
    "never_heard_of": 1,
    # Of fields that are honoured, what cannot be.
    "input": [],
    "max_output_tokens": 0,
    "metadata": {str(number): "x" for number in range(17)},
    "reasoning": {"effort": "much"},
    "seed": -2,
    "stream_options": {"include_obfuscation": False},
    "temperature": 3,
    "text": {"verbosity": "low"},
    "tool_choice": "required",
    "tools": [{"type": "function"}],
}
NEUTRAL: dict[str, Any] = {
    "background": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "client_metadata": {"a": "b"},
    "context_management": [],
    "max_tool_calls": 3,
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "metadata": {},
    "reasoning": {"effort": "none", "summary": "none", "context": "auto"},
    "safety_identifier": "somebody",
    "service_tier": "auto",
    "store": False,
    "stream": False,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
    "user": "me",
}
OF_THINKING = {"thinking_budget", "chat_template_kwargs"}
# The tests below show their effects.
HONOURED = {
    "model", "input", "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "stream",
    "stream_options", "temperature", "text", "tool_choice", "tools", "safety_identifier", "user",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(served: Served) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def respond(client: OpenAI, seed: int = 5, **fields: Any) -> Any:
    given = {"model": NAME, "input": MESSAGES, "max_output_tokens": 60, "extra_body": {"seed": seed}, **fields}
    return client.responses.create(**given)


def test_an_answer_is_that_of_the_engine(client: OpenAI, alone: Engine) -> None:
    answer = respond(client, metadata={"a": "b"})
    expected = alone.generate(MESSAGES, seed=5, max_tokens=60)
    assert answer.output_text == expected.text
    assert answer.status == ("incomplete" if expected.finish_reason == "length" else "completed")
    assert answer.usage.input_tokens == expected.usage.prompt_tokens
    assert answer.usage.output_tokens == expected.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.model_extra == {
        "canvases": expected.usage.canvases,
        "denoising_steps": expected.usage.denoising_steps,
        "forwards": expected.usage.forwards,
        "accepted_drafts": 0,
    }
    assert (answer.metadata, answer.model, answer.model_extra["store"]) == ({"a": "b"}, NAME, False)
    plain = client.responses.create(model=NAME, input="say something", max_output_tokens=60)
    assert isinstance(plain.output_text, str)
    assert respond(client, input="say something").output_text == expected.text


def test_an_answer_that_is_cut_says_so(client: OpenAI) -> None:
    answer = respond(client, max_output_tokens=3)
    assert answer.status == answer.output[-1].status == "incomplete"
    assert (answer.incomplete_details.reason, answer.completed_at) == ("max_output_tokens", None)
    assert answer.usage.output_tokens == 3


def test_turns_of_all_kinds_go_through_the_chat_template(client: OpenAI, alone: Engine) -> None:
    given = [
        {
            "role": "developer",
            "content": [{"type": "input_text", "text": "be "}, {"type": "input_text", "text": "kind"}],
        },
        {"role": "user", "content": "one", "type": "message"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    shown = [
        {"role": "system", "content": "be short"},
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    answer = respond(client, input=given, instructions="be short")
    assert answer.output_text == alone.generate(shown, seed=5, max_tokens=60).text
    assert answer.instructions == "be short"


@pytest.mark.parametrize("fields", [{}, {"text": {"format": SCHEMA}}, {"reasoning": {"effort": "high"}}])
def test_a_stream_adds_up_to_the_whole(client: OpenAI, fields: dict[str, Any]) -> None:
    whole = respond(client, max_output_tokens=120, **fields)
    events = list(respond(client, max_output_tokens=120, stream=True, **fields))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1].response
    assert events[-1].type == f"response.{whole.status}"
    assert last.output_text == whole.output_text
    for number, item in enumerate(whole.output):
        own = [event for event in events if getattr(event, "output_index", None) == number]
        deltas = [event for event in own if event.type.endswith("text.delta")]
        before, after = own[: own.index(deltas[0])], own[own.index(deltas[-1]) + 1 :]
        name = deltas[0].type.removesuffix(".delta")
        assert [event.type for event in before] == ["response.output_item.added", "response.content_part.added"]
        assert [event.type for event in after] == [
            f"{name}.done", "response.content_part.done", "response.output_item.done"
        ]  # fmt: skip
        assert "".join(event.delta for event in deltas) == after[0].text == item.content[0].text
        assert {event.item_id for event in own if hasattr(event, "item_id")} == {last.output[number].id}


def test_the_clients_own_reader_of_streams_takes_them(client: OpenAI) -> None:
    fields: Any = {"model": NAME, "input": MESSAGES, "max_output_tokens": 120, "extra_body": {"seed": 3}}
    with client.responses.stream(**fields, tools=[TOOL]) as stream:
        for _ in stream:
            pass
    whole = client.responses.create(**fields, tools=[TOOL])
    if whole.status == "completed":
        assert stream.get_final_response().output_text == whole.output_text


def test_a_schema_holds_and_is_parsed(client: OpenAI) -> None:
    class Thing(BaseModel):
        word: str = Field(max_length=5)
        count: int = Field(ge=0, le=99)

    parsed = client.responses.parse(model=NAME, input="a thing", text_format=Thing, extra_body={"seed": 1})
    assert isinstance(parsed.output_parsed, Thing)
    answer = respond(client, text={"format": {"type": "json_object"}}, max_output_tokens=200)
    assert isinstance(json.loads(answer.output_text), dict)


def test_what_a_schema_makes_certain_is_sent_at_once(client: OpenAI) -> None:
    events = respond(client, text={"format": SCHEMA}, stream=True)
    first = next(event for event in events if event.type == "response.output_text.delta")
    assert first.delta == '{"word":"'
    events.close()


def test_calls_are_valid_and_the_loop_of_an_agent_goes_round(client: OpenAI) -> None:
    fields: Any = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "look_up"}}
    answer = respond(client, **fields)
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "look_up", "completed")
    jsonschema.validate(json.loads(call.arguments), PARAMETERS)
    events = list(respond(client, stream=True, **fields))
    # The name, which is certain, comes before any step.
    assert (events[2].type, events[2].item.name) == ("response.output_item.added", "look_up")
    deltas = events[3:-3]
    assert {event.type for event in deltas} == {"response.function_call_arguments.delta"}
    assert "".join(event.delta for event in deltas) == events[-3].arguments == call.arguments
    assert [event.type for event in events[-3:-1]] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    turns = [*MESSAGES, *answer.output]
    turns.append({"type": "function_call_output", "call_id": call.call_id, "output": "found it"})
    again = respond(client, input=turns, tools=[TOOL])
    assert again.usage.input_tokens > answer.usage.input_tokens
    # What the model said and thought, as this server writes it; free noise could hold the name of an image's token.
    said = respond(client, text={"format": SCHEMA}).output
    thought = {"type": "reasoning", "id": "rs_1", "status": "completed", "summary": [],
               "content": [{"type": "reasoning_text", "text": "hm"}]}  # fmt: skip
    longer = respond(client, input=[*MESSAGES, thought, *said, *MESSAGES])
    assert longer.usage.input_tokens > respond(client).usage.input_tokens


def test_a_thought_is_an_item_of_its_own(client: OpenAI, alone: Engine) -> None:
    answer = respond(client, seed=8, reasoning={"effort": "high"})
    expected = alone.generate(MESSAGES, seed=8, max_tokens=60, reasoning_effort="high")
    assert answer.output_text == expected.text
    thoughts = [item.content[0].text for item in answer.output if item.type == "reasoning"]
    assert "".join(thoughts) == (expected.thought or "")
    assert bool(answer.usage.output_tokens_details.reasoning_tokens) == bool(thoughts)


def test_a_connection_that_is_closed_ends_the_work(client: OpenAI, served: Served) -> None:
    events = respond(client, stream=True, max_output_tokens=900)
    next(iter(events))
    events.close()
    wait_until(lambda: served.idle)


def test_every_field_of_the_client_is_known_to_this_test() -> None:
    fields = set(get_type_hints(response_create_params.ResponseCreateParamsNonStreaming)) | {"stream"}
    known = HONOURED | set(REFUSED) | set(NEUTRAL)
    assert fields <= known, "a new field of the client: honour it, accept it, or say that it is refused"
    assert set(ResponsesBody.model_fields) <= fields | {"seed", "client_metadata", *OF_THINKING, *SAMPLING}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_honoured_is_refused_by_its_name(served: Served, field: str) -> None:
    body = {"model": NAME, "input": "hi", "max_output_tokens": 20, field: REFUSED[field]}
    answer = served.post("/v1/responses", body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"].split(".")[0] == field
    assert field in error["message"]


@pytest.mark.parametrize("field", NEUTRAL)
def test_a_field_that_asks_for_nothing_changes_nothing(served: Served, field: str) -> None:
    body = {"model": NAME, "input": "hi", "max_output_tokens": 20, "seed": 1}
    plain, given, null = (
        served.post("/v1/responses", body | more).json()["output"][0]["content"]
        for more in ({}, {field: NEUTRAL[field]}, {field: None})
    )
    assert plain == given == null


@pytest.mark.parametrize(
    "item",
    [
        {"role": "robot", "content": "x"},
        {"type": "web_search_call", "id": "w"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "not json"},
        {"role": "user", "content": "x", "name": "bob"},
    ],
)
def test_items_that_cannot_be_are_refused(client: OpenAI, item: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, input=[item])
    assert refused.value.param is not None
    assert refused.value.param.startswith("input")


def test_what_is_refused_is_named_wherever_it_is(client: OpenAI) -> None:
    for fields, said in (
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, r"content\.0.*images are not supported"),
        ({"input": [{"role": "user", "content": [{"type": "sound"}]}]}, "'sound' .* 'input_text', 'output"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "stores nothing.*store: false"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "items are of the type message, function_call"),
        ({"tools": [TOOL, {"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "'web_search' are not run"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            respond(client, **fields)


def test_arguments_that_nest_without_end_are_refused(client: OpenAI) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "[" * 100_000}
    with pytest.raises(openai.BadRequestError, match="the call c are not a JSON object"):
        respond(client, input=[call])


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_what_was_parsed_can_be_sent_back(client: OpenAI) -> None:
    class Thing(BaseModel):
        kind: str = Field(max_length=4)

    answer = client.responses.parse(model=NAME, input=MESSAGES, max_output_tokens=60, text_format=Thing)
    assert answer.usage is not None
    conversation: list[Any] = [*MESSAGES, *answer.output, *MESSAGES]
    assert respond(client, input=conversation).usage.input_tokens > answer.usage.input_tokens


def test_a_function_may_take_nothing(client: OpenAI) -> None:
    tool: Any = {"type": "function", "name": "stop-it"}
    (call,) = respond(client, tools=[tool], tool_choice="required", parallel_tool_calls=False).output
    assert (call.name, json.loads(call.arguments)) == ("stop-it", {})


def test_half_a_character_that_a_client_sent_comes_back_in_a_stream(served: Served) -> None:
    body = {"model": NAME, "input": "hi", "max_output_tokens": 5, "seed": 5, "stream": True}
    body["metadata"] = {"half": "\ud800"}
    route, sent = f"{served.url}/v1/responses", json.dumps(body)
    answer = httpx.post(route, content=sent, headers={"content-type": "application/json"}, timeout=600)
    last = json.loads(answer.text.strip().rpartition("data: ")[2])
    assert (last["response"]["status"], last["response"]["metadata"]) == ("incomplete", {"half": "\ud800"})
