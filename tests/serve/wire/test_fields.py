"""Every field of OpenAI's chat request alone: honoured with an effect, or refused by its name."""

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params

from redraft.api import Engine
from redraft.serve.wire.openai.chat import ChatBody
from redraft.serve.wire.sampling import SAMPLING
from tests.serve.conftest import NAME, Served

BASE: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "seed": 1}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

# A value that asks for something, for every field that this server does not honour.
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
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
    "verbosity": "low",
    "web_search_options": {},
    "reasoning_effort": "low",
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
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
    "stop_token_ids": [],
}
HONOURED = {
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "seed", "stop", "n", "stream",
    "stream_options", "response_format", "tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs",
    "reasoning_effort", "user", *SAMPLING,
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
    "top_p": 1.5,
    "top_k": -2,
    "presence_penalty": 2.5,
    "repetition_penalty": 0,
    "logit_bias": {"x": 1},
    "min_tokens": 41,
    "stop_token_ids": [-1],
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
    assert set(ChatBody.model_fields) <= fields | {"diffusing", *SAMPLING}


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
    thinking = alone.generate(BASE["messages"], seed=1, max_tokens=40, thinking=True)
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


# Whatever a route is told, the engine gets: the answer is that of the same parameters in Python.
ASKED: dict[str, Any] = {
    **{"top_p": 0.5, "top_k": 4, "min_p": 0.1, "logit_bias": {"40": 30.0}, "presence_penalty": 0.5},
    **{"frequency_penalty": 0.5, "repetition_penalty": 1.2, "min_tokens": 6, "ignore_eos": True, "stop_token_ids": [9]},
}


@pytest.mark.parametrize("field", SAMPLING)
def test_a_sampling_parameter_is_the_engines(served: Served, alone: Engine, field: str) -> None:
    answer = ask(served, **{field: ASKED[field]})
    assert answer.status_code == 200, answer.text
    expected = alone.generate(BASE["messages"], max_tokens=40, seed=1, **{field: ASKED[field]})
    assert answer.json()["choices"][0]["message"]["content"] == expected.text


def test_every_route_that_has_them_passes_them_on(served: Served, alone: Engine) -> None:
    own = {"logit_bias": {"40": 100.0}, "ignore_eos": True}
    forced = alone.generate(BASE["messages"], max_tokens=10, seed=1, **own).text
    assert forced != alone.generate(BASE["messages"], max_tokens=10, seed=1).text
    prompt = [20, 21, 22]
    raw = alone.generate(prompt, max_tokens=10, seed=1, **own).text
    short = {"model": NAME, "seed": 1, **own}
    completion = served.post("/v1/completions", {**short, "prompt": prompt, "max_tokens": 10}).json()
    assert completion["choices"][0]["text"] == raw
    response = served.post("/v1/responses", {**short, "input": "hi", "max_output_tokens": 10, "top_p": 0.9}).json()
    assert response["top_p"] == 0.9
    assert response["output"][0]["content"][0]["text"] == forced
    events = served.post("/v1/redraft/generate", {**short, "messages": BASE["messages"], "max_tokens": 10}).text
    assert json.dumps(forced, ensure_ascii=False) in events
    message = {"model": NAME, "messages": BASE["messages"], "max_tokens": 10, "top_k": 1, "top_p": 0.3}
    assert served.post("/v1/messages", message).status_code == 200
    for path, body in (
        ("/v1/messages", {**message, "top_p": 2}),
        ("/v1/fim/completions", {"model": NAME, "prompt": "a", "suffix": "b", "top_p": -1}),
        ("/v1/completions", {"model": NAME, "prompt": "a", "suffix": "b", "top_p": -1}),
    ):
        assert served.post(path, body).status_code == 400
    filled = {"model": NAME, "prompt": "in the ", "suffix": " on", "max_tokens": 8, "seed": 3, "top_p": 0.01}
    expected = alone.fill("in the ", " on", max_tokens=8, seed=3, top_p=0.01).middle
    assert served.post("/v1/fim/completions", filled).json()["choices"][0]["text"] == expected
    tokens = served.post("/v1/completions", {**filled, "min_tokens": 2})
    assert (tokens.status_code, tokens.json()["error"]["param"]) == (400, "min_tokens")
