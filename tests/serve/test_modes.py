"""The token modes on the wire: what they write, token by token, what they cost, and what they cannot be asked for."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from redraft.api import Engine
from redraft.record.recorder import RecordingFolder
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, serving

MESSAGES = [{"role": "user", "content": "one"}]
CHAT: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "max_tokens": 12, "seed": 5}
# Each route's body, the field of its limit, and where its answer's text stands.
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": NAME, "prompt": "one", "max_tokens": 12, "seed": 5},
    "/v1/responses": {"model": NAME, "input": "one", "max_output_tokens": 12, "seed": 5},
    "/v1/messages": {"model": NAME, "messages": MESSAGES, "max_tokens": 12},
}


def frames(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_a_chat_is_the_engines_answer_token_by_token_and_says_what_it_cost(served: Served, alone: Engine) -> None:
    expected = alone.generate(MESSAGES, mode="autoregressive", max_tokens=12, seed=5)
    whole = served.post("/v1/chat/completions", {**CHAT, "mode": "autoregressive"}).json()
    assert whole["choices"][0]["message"]["content"] == expected.text
    assert whole["usage"]["completion_tokens"] == expected.usage.completion_tokens
    assert whole["usage"]["forwards"] == expected.usage.forwards
    assert (whole["usage"]["denoising_steps"], whole["usage"]["accepted_drafts"]) == (0, 0)
    drafted = served.post("/v1/chat/completions", {**CHAT, "mode": "speculative"}).json()
    assert drafted["choices"][0]["message"]["content"] == expected.text
    assert drafted["usage"]["denoising_steps"] > 0
    body = {
        **CHAT,
        "mode": "autoregressive",
        "stream": True,
        "logprobs": True,
        "stream_options": {"include_usage": True},
    }
    told = frames(served.post("/v1/chat/completions", body))
    deltas = [one["choices"][0] for one in told if one["choices"]]
    assert "".join(one["delta"].get("content") or "" for one in deltas) == expected.text
    entries = [one["logprobs"]["content"] for one in deltas if one.get("logprobs")]
    assert sum(map(len, entries)) == len(expected.token_ids)
    assert max(map(len, entries)) == 1, "a chunk a token"


@pytest.mark.parametrize("route", ROUTES)
def test_every_format_takes_a_mode_and_refuses_one_that_there_is_not(served: Served, route: str) -> None:
    answer = served.post(route, {**ROUTES[route], "mode": "autoregressive"})
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert usage["forwards"] >= 1
    assert usage["denoising_steps"] == 0
    wrong = served.post(route, {**ROUTES[route], "mode": "fast"})
    assert wrong.status_code == 400
    assert "mode" in wrong.text


def test_constraints_tools_and_stops_hold_in_every_mode(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": {**schema, "additionalProperties": False}}}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    for mode in ("autoregressive", "speculative"):
        formed = served.post(
            "/v1/chat/completions", {**CHAT, "mode": mode, "max_tokens": 30, "response_format": format}
        )
        assert set(json.loads(formed.json()["choices"][0]["message"]["content"])) == {"a"}
        body = {**CHAT, "mode": mode, "max_tokens": 60, "tools": [tool], "tool_choice": "required"}
        called = served.post("/v1/chat/completions", body).json()["choices"][0]
        assert called["finish_reason"] == "tool_calls"
        assert all("a" in json.loads(call["function"]["arguments"]) for call in called["message"]["tool_calls"])
        streamed = frames(served.post("/v1/chat/completions", {**body, "stream": True}))
        parts = [part for one in streamed for part in one["choices"][0]["delta"].get("tool_calls") or []]
        arguments = "".join(part["function"].get("arguments") or "" for part in parts if part["index"] == 0)
        assert "a" in json.loads(arguments)


def test_redrafts_own_route_has_a_chunk_a_token_and_no_steps(served: Served, alone: Engine) -> None:
    expected = alone.generate("once", mode="autoregressive", max_tokens=9, seed=4)
    answer = served.post(
        "/v1/redraft/generate", {"prompt": "once", "mode": "autoregressive", "max_tokens": 9, "seed": 4}
    )
    kinds = [block.split("\n")[0].removeprefix("event: ") for block in answer.text.strip().split("\n\n")]
    assert kinds == ["start", *["chunk"] * expected.usage.forwards, "result"]
    told = frames(answer)
    assert told[0]["mode"] == "autoregressive"
    assert "".join(one["text"] for one in told[1:-1]) == told[-1]["text"] == expected.text
    assert told[-1]["usage"]["tokens_per_forward"] == expected.usage.tokens_per_forward


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/redraft/generate", {"prompt": "a", "mode": "autoregressive", "max_denoising_steps": 2},
         "max_denoising_steps"),
        ("/v1/redraft/generate", {"prompt": "a", "mode": "autoregressive", "entropy_bound": 0.2}, "entropy_bound"),
        ("/v1/redraft/generate", {"fill": {"prefix": "a", "suffix": "b"}, "mode": "autoregressive"}, "mode"),
        ("/v1/completions", {"model": NAME, "prompt": "a", "suffix": "b", "mode": "autoregressive"}, "mode"),
        ("/v1/chat/completions", {**CHAT, "mode": "speculative", "stream": True, "diffusing": True}, "diffusing"),
    ],
)  # fmt: skip
def test_what_a_mode_cannot_honour_is_refused_by_name(
    served: Served, route: str, body: dict[str, Any], param: str
) -> None:
    answer = served.post(route, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_the_modes_are_listed(served: Served) -> None:
    (model,) = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert model["modes"] == ["diffusion", "autoregressive", "speculative"]


def test_a_server_may_have_another_mode_and_one_that_records_has_none(engine: Engine, tmp_path: Path) -> None:
    with serving(engine, ServerSettings(NAME, mode="autoregressive")) as up:
        assert up.post("/v1/chat/completions", CHAT).json()["usage"]["denoising_steps"] == 0
        assert up.post("/v1/chat/completions", {**CHAT, "mode": "diffusion"}).json()["usage"]["denoising_steps"] > 0
    with serving(engine, ServerSettings(NAME, record=RecordingFolder(tmp_path))) as up:
        refused = up.post("/v1/chat/completions", {**CHAT, "mode": "autoregressive"})
        assert refused.status_code == 400
        assert "this server records every answer" in refused.json()["error"]["message"]
        assert not list(tmp_path.iterdir())
