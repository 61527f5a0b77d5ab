"""Every field of OpenAI's chat request alone: honoured with an effect, or refused by its name."""

import json
import re
from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params

from redraft.api import Engine
from redraft.serve.wire.openai.chat_fields import ChatBody
from redraft.serve.wire.sampling import SAMPLING
from tests.serve.conftest import NAME, Served

BASE: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "seed": 1}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

# A value that asks for something, for every field that this server does not honour.
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {},
    "prediction": {"type": "content", "content": "x"},
    "safe_prompt": True,
    "prompt_mode": "reasoning",
    "guardrails": [{}],
    "service_tier": "flex",
    "store": True,
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
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "reasoning_summary": True,
    "reasoning_summary_wait": False,
    "realtime": True,
    "functions": [],
    "function_call": "none",
    "safe_prompt": False,
    "guardrails": [],
    "top_logprobs": 0,
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "safety_identifier": "s",
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
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "seed",
    "stop",
    "n",
    "stream",
    "stream_options",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "user",
    "safety_identifier",
    *SAMPLING,
}
# Fields that other servers' clients send besides OpenAI's.
OF_OTHERS = {
    "diffusing", "realtime", "reasoning_summary", "reasoning_summary_wait", "random_seed", "safe_prompt", "prompt_mode",
    "guardrails", "structured_outputs", "thinking_budget", "thinking_token_budget", "chat_template_kwargs", *SAMPLING,
}  # fmt: skip
OUT_OF_RANGE: dict[str, Any] = {
    "max_tokens": 0,
    "max_completion_tokens": -1,
    "temperature": 3,
    "seed": -2,
    "random_seed": -2,
    "structured_outputs": {"regex": "a", "choice": ["b"]},
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
    known = HONOURED | set(REFUSED) | set(NEUTRAL)
    assert fields <= known, "a new field of the client: honour it, accept it, or say that it is refused"
    assert set(ChatBody.model_fields) <= fields | OF_OTHERS


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
        {"role": "user", "content": "x", "mood": "good"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "not json"}}]},
    ],
)
def test_messages_that_cannot_be_are_refused(served: Served, message: Any) -> None:
    answer = ask(served, messages=[message])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")


def test_what_other_servers_clients_send_is_honoured(served: Served) -> None:
    plain = said(served)
    by_mistral = {name: value for name, value in BASE.items() if name != "seed"}
    answer = served.post("/v1/chat/completions", {**by_mistral, "random_seed": 1}).json()
    assert answer["choices"][0]["message"]["content"] == plain
    drawn = ask(served, seed=-1).json()["choices"][0]
    assert drawn["seed"] >= 0
    assert said(served, seed=drawn["seed"]) == drawn["message"]["content"]
    assert said(served, structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")
    assert re.fullmatch("[0-9]{3}", said(served, structured_outputs={"regex": "[0-9]{3}"}))
    schema = {"enum": [1, 2]}
    for wanted in (schema, json.dumps(schema)):
        assert json.loads(said(served, structured_outputs={"json": wanted})) in (1, 2)
    assert said(served, structured_outputs={"json_object": True}).startswith("{")
    grammar = ask(served, structured_outputs={"grammar": "root ::= x"}).json()["error"]
    assert grammar["param"] == "structured_outputs.grammar"
    both = ask(served, structured_outputs={"regex": "a"}, response_format={"type": "json_object"})
    assert both.json()["error"]["param"] == "structured_outputs"
    # A name, and lm-eval's "type", are beside the content.
    named = [{"role": "user", "content": "hi", "name": "bob", "type": "text"}]
    assert said(served, messages=named) == plain
    earlier = [*BASE["messages"], {"role": "assistant", "content": "a", "reasoning": "b"}, *BASE["messages"]]
    assert ask(served, messages=earlier).status_code == 200


def test_usage_comes_with_every_chunk_where_that_is_wanted(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for route, body in (
        ("/v1/chat/completions", BASE),
        ("/v1/completions", {"model": NAME, "prompt": "hi", "max_tokens": 40, "seed": 1}),
    ):
        events = served.post(route, {**body, "stream": True, "stream_options": options}).text.split("\n\n")
        usages = [json.loads(event[6:])["usage"] for event in events if event.startswith("data: {")]
        written = [usage["completion_tokens"] for usage in usages]
        assert written == sorted(written)
        assert usages[-2]["completion_tokens"] == usages[-1]["completion_tokens"] > 0
        assert len({usage["prompt_tokens"] for usage in usages}) == 1


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url", "file"])
def test_what_the_model_cannot_be_shown_is_one_sentence(served: Served, kind: str) -> None:
    parts = [{"type": "text", "text": "what is it?"}, {"type": kind, kind: {"url": "x"}}]
    error = ask(served, messages=[{"role": "user", "content": parts}]).json()["error"]
    assert "are not supported by this checkpoint or version" in error["message"]
    assert error["param"].startswith("messages.0.user.content.1")


def test_tools_of_other_kinds_are_left_out_unless_they_must_be_called(served: Served) -> None:
    other = {"type": "web_search", "web_search": {}}
    answer = ask(served, tools=[TOOL, other], tool_choice="required")
    assert answer.headers["x-redraft-warning"].endswith(": web_search")
    assert answer.json()["choices"][0]["message"]["tool_calls"]
    alone = ask(served, tools=[other], stream=True)
    assert (alone.status_code, "web_search" in alone.headers["x-redraft-warning"]) == (200, True)
    assert "x-redraft-warning" not in ask(served, tools=[TOOL]).headers
    # No header can be made of what a client calls it.
    strange = ask(served, tools=[{"type": "x\r\nset-cookie: a=b"}])
    assert strange.headers["x-redraft-warning"].endswith("(no name)")
    for choice, tools in (({"type": "web_search"}, [TOOL, other]), ("required", [other])):
        refused = ask(served, tools=tools, tool_choice=choice)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_choice")


def test_only_allowed_tools_are_called(served: Served) -> None:
    other = {"type": "function", "function": {"name": "g"}}
    named = [{"type": "function", "function": {"name": "g"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
    for seed in range(4):
        (call, *_) = ask(served, tools=[TOOL, other], tool_choice=choice, seed=seed, parallel_tool_calls=False).json()[
            "choices"
        ][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "g"
    any_of = ask(served, tools=[TOOL], tool_choice="any").json()["choices"][0]
    assert any_of["finish_reason"] == "tool_calls"


def test_a_stop_string_ends_the_text_beside_tools(served: Served) -> None:
    """The same answer as without it, up to there; in a call's arguments it may stand."""
    found = 0
    for seed in range(6):
        fields = {"tools": [TOOL], "seed": seed}
        whole = ask(served, **fields).json()["choices"][0]
        text = whole["message"]["content"] or ""
        if len(text) < 4:
            continue
        stop = text[2]
        cut = ask(served, **fields, stop=stop).json()["choices"][0]
        assert (cut["message"]["content"] or "", cut["finish_reason"]) == (text[: text.index(stop)], "stop")
        assert "tool_calls" not in cut["message"]
        events = ask(served, **fields, stop=stop, stream=True).text.split("\n\n")
        deltas = [json.loads(event[6:])["choices"][0] for event in events if event.startswith("data: {")]
        assert "".join(delta["delta"].get("content") or "" for delta in deltas) == text[: text.index(stop)]
        assert deltas[-1]["finish_reason"] == "stop"
        found += 1
    assert found
    called = ask(served, tools=[TOOL], tool_choice="required", stop=["{", "f"]).json()["choices"][0]
    assert called["finish_reason"] == "tool_calls"


# Whatever a route is told, the engine gets: the answer is that of the same parameters in Python.
ASKED: dict[str, Any] = {
    **{"top_p": 0.5, "top_k": 4, "min_p": 0.1, "logit_bias": {"40": 30.0}, "presence_penalty": 0.5},
    **{"frequency_penalty": 0.5, "repetition_penalty": 1.2, "min_tokens": 6, "ignore_eos": True, "stop_token_ids": [9]},
    **{"mode": "autoregressive", "quality": "fast", "deadline_ms": 1e9},
}


@pytest.mark.parametrize("field", SAMPLING)
def test_a_sampling_parameter_is_the_engines(served: Served, alone: Engine, field: str) -> None:
    answer = ask(served, **{field: ASKED[field]})
    assert answer.status_code == 200, answer.text
    expected = alone.generate(BASE["messages"], max_tokens=40, seed=1, **{field: ASKED[field]})
    assert answer.json()["choices"][0]["message"]["content"] == expected.text


def test_every_route_that_has_them_passes_them_on(served: Served, alone: Engine) -> None:
    own: dict[str, Any] = {"logit_bias": {"40": 100.0}, "ignore_eos": True}
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
