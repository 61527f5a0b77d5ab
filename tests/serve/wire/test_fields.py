"""Every field of OpenAI's chat request alone: honoured with an effect, or refused by its name."""

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params

from redraft.api import Engine
from redraft.serve.wire.openai.chat import ChatBody
from tests.serve.conftest import NAME, Served

BASE: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "seed": 1}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

# A value that asks for something, for every field that this server does not honour.
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"5": 10},
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "moderation": {},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "flex",
    "store": True,
    "top_p": 0.5,
    "verbosity": "low",
    "web_search_options": {},
    "reasoning_effort": "much",
    "never_heard_of": 1,
}
# What asks for nothing, and is taken.
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "metadata": {},
    "modalities": ["text"],
    "service_tier": "auto",
    "store": False,
    "top_p": 1,
    "verbosity": "medium",
    "n": 1,
    "stream": False,
    "reasoning_effort": "none",
    "logprobs": False,
    "response_format": {"type": "text"},
    "user": "me",
    "tools": [],
}
HONOURED = {
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "seed", "stop", "n", "stream",
    "stream_options", "response_format", "tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs",
    "reasoning_effort", "user",
}  # fmt: skip
OUT_OF_RANGE: dict[str, Any] = {
    "max_tokens": 0,
    "max_completion_tokens": -1,
    "temperature": 3,
    "seed": -1,
    "n": 17,
    "stop": [""],
    "top_logprobs": 21,
    "messages": [],
    "stream_options": {"include_usage": True},
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}},
    "diffusing": True,
}


def ask(served: Served, **fields: Any) -> Any:
    return served.post("/v1/chat/completions", {**BASE, **fields})


def said(served: Served, **fields: Any) -> str:
    answer = ask(served, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_every_field_of_the_client_is_known_to_this_test() -> None:
    fields = set(get_type_hints(completion_create_params.CompletionCreateParamsNonStreaming)) | {"stream"}
    assert fields - HONOURED <= set(REFUSED), "a new field of the client: honour it, or say that it is refused"
    others = {"diffusing", "reasoning_summary", "thinking_budget", "thinking_token_budget", "chat_template_kwargs"}
    assert set(ChatBody.model_fields) <= fields | others


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_is_not_honoured_is_refused_by_its_name(served: Served, field: str) -> None:
    answer = ask(served, **{field: REFUSED[field]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]


@pytest.mark.parametrize("field", OUT_OF_RANGE)
def test_a_value_that_cannot_be_is_refused_by_its_field(served: Served, field: str) -> None:
    fields = {field: OUT_OF_RANGE[field]}
    body = {name: value for name, value in BASE.items() if name != "max_tokens"} if "max" in field else BASE
    answer = served.post("/v1/chat/completions", {**body, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("field", NEUTRAL)
def test_a_field_that_asks_for_nothing_changes_nothing(served: Served, field: str) -> None:
    assert said(served, **{field: NEUTRAL[field]}) == said(served)
    assert said(served, **{field: None}) == said(served)


def test_each_honoured_field_has_its_effect(served: Served, alone: Engine) -> None:
    plain = said(served)
    assert said(served, seed=2) != plain
    by_temperature = {scale: said(served, temperature=scale) for scale in (0, 0.5, 2)}
    assert len(set(by_temperature.values())) > 1
    for scale, text in by_temperature.items():
        assert text == alone.generate(BASE["messages"], seed=1, max_tokens=40, temperature=scale).text
    shorter = {**BASE, "max_completion_tokens": 5}
    del shorter["max_tokens"]
    answer = served.post("/v1/chat/completions", shorter).json()
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"
    stop = plain[3]
    assert said(served, stop=stop) == plain[: plain.index(stop)]
    assert len(ask(served, n=2).json()["choices"]) == 2
    assert ask(served, stream=True).headers["content-type"].startswith("text/event-stream")
    assert said(served, response_format={"type": "json_object"}).startswith("{")
    assert ask(served, tools=[TOOL], tool_choice="required").json()["choices"][0]["message"]["tool_calls"]
    assert len(ask(served, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]) > 0
    thinking = alone.generate(BASE["messages"], seed=1, max_tokens=40, reasoning_effort="high")
    assert said(served, reasoning_effort="high") == thinking.text


def test_a_user_has_a_place_of_their_own_in_the_queue(served: Served) -> None:
    assert ask(served, user="someone").status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "robot", "content": "x"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": "x", "name": "bob"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "not json"}}]},
    ],
)
def test_messages_that_cannot_be_are_refused(served: Served, message: Any) -> None:
    answer = ask(served, messages=[message])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")


def test_the_documentation_has_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()
    for field in ChatBody.model_fields:
        assert re.search(rf"`{field}`", page), field
