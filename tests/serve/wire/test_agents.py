"""What coding agents send, whole: Claude Code 2.1 to ``/v1/messages``, Codex 0.171 to ``/v1/responses``; a tool turn.

The shapes are those that each was seen to send; the words are ours.
"""

import json
from typing import Any

import httpx
import pytest

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, serving

SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"command": {"type": "string", "description": "What to run.", "maxLength": 12}},
    "required": ["command"],
    "additionalProperties": False,
}
EPHEMERAL = {"type": "ephemeral", "ttl": "1h"}
CLAUDE_CODE: dict[str, Any] = {
    "model": NAME,
    "max_tokens": 100,
    "stream": True,
    "system": [{"type": "text", "text": "be brief"}, {"type": "text", "text": "be kind", "cache_control": EPHEMERAL}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "say hi", "cache_control": EPHEMERAL}]},
        {"role": "system", "content": "<reminder>be brief</reminder>"},
    ],
    "tools": [
        {"name": "Bash", "description": "Runs.", "input_schema": SCHEMA, "eager_input_streaming": True},
        {"name": "Read", "input_schema": SCHEMA, "defer_loading": False, "input_examples": [{"command": "ls"}],
         "cache_control": EPHEMERAL},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "metadata": {"user_id": '{"device_id":"1"}'},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "cache_control": EPHEMERAL,
}  # fmt: skip
FUNCTION = {"name": "exec_command", "description": "Runs.", "strict": False, "parameters": SCHEMA}
SPAWN = {"type": "function", "name": "spawn", "description": "Spawns.", "strict": False, "parameters": SCHEMA}
CODEX: dict[str, Any] = {
    "model": NAME,
    "instructions": "be brief",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "say hi"}]},
    ],
    "tools": [
        {"type": "function", **FUNCTION},
        {"type": "namespace", "name": "agents", "description": "Other agents.", "tools": [SPAWN]},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a22ab9-5bd9-7fc1-bf33-38905d1711fc",
    "client_metadata": {"session": "1"},
    "max_output_tokens": 100,
    "seed": 3,
}


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def test_claude_code_and_its_tool_turn(served: Served) -> None:
    route = "/v1/messages?beta=true"
    answer = served.post(route, CLAUDE_CODE)
    assert "web_search_20250305" in answer.headers["x-redraft-warning"]
    assert events(answer)[-1]["type"] == "message_stop"
    for event in events(answer):
        assert event.get("delta", {}).get("type") != "thinking_delta"
    forced = {**CLAUDE_CODE, "tool_choice": {"type": "tool", "name": "Bash"}, "thinking": {"type": "disabled"}}
    (start, *_) = [event for event in events(served.post(route, forced)) if event["type"] == "content_block_start"]
    assert start["content_block"]["name"] == "Bash"
    turns = [
        *CLAUDE_CODE["messages"],
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "redacted_thinking", "data": "secret"},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}, "caller": {"type": "direct"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": False, "cache_control": EPHEMERAL,
             "content": [{"type": "text", "text": "a"}, {"type": "tool_reference", "tool_name": "Read"}]},
        ]},
    ]  # fmt: skip
    assert events(served.post(route, {**CLAUDE_CODE, "messages": turns}))[-1]["type"] == "message_stop"
    named = served.post(route, {**CLAUDE_CODE, "tool_choice": {"type": "tool", "name": "web_search"}})
    assert (named.status_code, "does not run" in named.json()["error"]["message"]) == (400, True)


def test_the_tokens_of_a_message_are_those_that_it_costs(served: Served) -> None:
    asked = {name: CLAUDE_CODE[name] for name in ("model", "messages", "system", "tools", "thinking", "output_config")}
    counted = served.post("/v1/messages/count_tokens?beta=true", asked).json()["input_tokens"]
    usage = served.post("/v1/messages", {**CLAUDE_CODE, "stream": False}).json()["usage"]
    assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
    fewer = served.post("/v1/messages/count_tokens", {**asked, "tools": None}).json()["input_tokens"]
    assert fewer < counted
    # Instructions at the beginning are one message, as templates know it.
    joined = {**asked, "tools": None, "system": None, "messages": [{"role": "system", "content": "be brief\n\nbe kind"},
              {"role": "user", "content": "hi"}]}  # fmt: skip
    apart = {**joined, "system": "be brief", "messages": [{"role": "system", "content": "be kind"},
             {"role": "user", "content": "hi"}]}  # fmt: skip
    counts = [served.post("/v1/messages/count_tokens", body).json()["input_tokens"] for body in (joined, apart)]
    assert counts[0] == counts[1]


def test_an_answer_under_a_schema_in_anthropics_words(served: Served) -> None:
    body = {"model": NAME, "max_tokens": 40, "messages": [{"role": "user", "content": "judge"}]}
    form = {"type": "json_schema", "schema": {"enum": ["good", "bad"]}}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        (block,) = served.post("/v1/messages", {**body, **fields}).json()["content"]
        assert json.loads(block["text"]) in ("good", "bad")
    refused = served.post("/v1/messages", {**body, "output_config": {"format": {**form, "schema": {"type": "wrong"}}}})
    assert refused.status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns"}}]}},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"output_config": {"task_budget": {"type": "tokens", "total": 9}}},
        {"mcp_servers": [{"type": "url", "url": "x", "name": "x"}]},
        {"never_heard_of": 1},
    ],
)
def test_what_would_change_an_answer_is_refused_by_its_name(served: Served, fields: Any) -> None:
    answer = served.post("/v1/messages", {**CLAUDE_CODE, **fields})
    assert answer.status_code == 400
    assert next(iter(fields)) in answer.json()["error"]["message"]


@pytest.mark.parametrize("block", [{"type": "image", "source": {"type": "url"}}, {"type": "document", "source": {}}])
def test_pictures_are_refused_in_one_sentence(served: Served, block: Any) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    for content in ([block], [result]):
        body = {**CLAUDE_CODE, "messages": [{"role": "user", "content": content}]}
        message = served.post("/v1/messages", body).json()["error"]["message"]
        assert "are not supported by this checkpoint or version; say in text what they show" in message


def test_codex_and_its_tool_turn(served: Served) -> None:
    answer = served.post("/v1/responses", CODEX)
    assert answer.headers["x-redraft-warning"].endswith(": web_search")
    assert events(answer)[-1]["type"] in ("response.completed", "response.incomplete")
    for space, name in ((None, "exec_command"), ("agents", "spawn")):
        choice = {"type": "function", "name": name, **({} if space is None else {"namespace": space})}
        told = events(served.post("/v1/responses", {**CODEX, "tool_choice": choice}))
        (call,) = told[-1]["response"]["output"]
        assert (call["name"], call.get("namespace")) == (name, space)
        assert told[2]["item"]["name"] == name
        thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}],
                   "content": None, "encrypted_content": "secret", "status": "completed"}  # fmt: skip
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
        turns = [*CODEX["input"], thought, call, result]
        assert events(served.post("/v1/responses", {**CODEX, "input": turns}))[-1]["response"]["output"]
    allowed = {"type": "allowed_tools", "mode": "required",
               "tools": [{"type": "function", "name": "spawn", "namespace": "agents"}]}  # fmt: skip
    output = events(served.post("/v1/responses", {**CODEX, "tool_choice": allowed}))[-1]["response"]["output"]
    assert {item["name"] for item in output} == {"spawn"}


def test_models_are_described_in_each_clients_words(served: Served) -> None:
    plain = httpx.get(f"{served.url}/v1/models").json()
    (model,) = plain["data"]
    assert (model["id"], model["type"], model["max_model_len"]) == (NAME, "base", 1024)
    assert model["capabilities"]["function_calling"]
    assert plain["models"][0]["name"] == NAME
    of_anthropic = httpx.get(f"{served.url}/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert (of_anthropic["has_more"], of_anthropic["first_id"], of_anthropic["last_id"]) == (False, NAME, NAME)
    assert (of_anthropic["data"][0]["type"], of_anthropic["data"][0]["display_name"]) == ("model", NAME)
    assert of_anthropic["data"][0]["created_at"].endswith("Z")
    assert httpx.get(f"{served.url}/v1/models/{NAME}").json() == model


def test_it_lives_for_whoever_looks(served: Served) -> None:
    for path in ("/", "/health", "/ping"):
        answer = httpx.head(f"{served.url}{path}")
        assert (answer.status_code, answer.content) == (200, b""), path
    assert httpx.get(f"{served.url}/ping").status_code == httpx.post(f"{served.url}/ping").status_code == 200
    assert httpx.get(f"{served.url}/version").json()["version"]


def test_text_goes_to_tokens_and_back(served: Served, alone: Engine) -> None:
    tokenizer = alone.runtime.tokenizer
    for special, expected in ((None, tokenizer.encode("the name")), (False, tokenizer.encode_text("the name"))):
        answer = served.post("/tokenize", {"model": NAME, "prompt": "the name", "add_special_tokens": special}).json()
        assert (answer["tokens"], answer["count"]) == (expected, len(expected))
        assert answer["max_model_len"] == 1024
    assert served.post("/detokenize", {"tokens": tokenizer.encode_text("the name")}).json() == {"prompt": "the name"}
    messages = [{"role": "user", "content": "hi"}]
    tools = [{"type": "function", "function": FUNCTION}]
    for more in ({}, {"tools": tools}):
        answer = served.post("/tokenize", {"messages": messages, "return_token_strs": True, **more}).json()
        asked = {"model": NAME, "messages": messages, "max_tokens": 40, **more}
        assert answer["count"] == served.post("/v1/chat/completions", asked).json()["usage"]["prompt_tokens"]
        assert len(answer["token_strs"]) == answer["count"]
    for body in ({}, {"prompt": "a", "messages": messages}, {"prompt": "a", "tools": tools}, {"prompt": "a", "x": 1}):
        assert served.post("/tokenize", body).status_code == 400
    assert served.post("/detokenize", {"tokens": [1 << 40]}).json()["error"]["param"] == "tokens"


def test_pages_may_send_what_their_clients_send(engine: Engine) -> None:
    page = "http://page.example"
    sent = "authorization,content-type,x-stainless-os,anthropic-beta,anthropic-version,x-api-key"
    with serving(engine, ServerSettings(NAME, cors=[page], api_keys=["k"])) as up:
        asks = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": sent}
        allowed = httpx.options(f"{up.url}/v1/messages", headers=asks)
        assert allowed.status_code == 200
        assert set(sent.split(",")) <= set(allowed.headers["access-control-allow-headers"].split(","))
        answer = up.post("/v1/chat/completions", {}, headers={"origin": page, "authorization": "Bearer k"})
        assert "x-redraft-warning" in answer.headers["access-control-expose-headers"]
        evil = httpx.options(f"{up.url}/v1/messages", headers={**asks, "origin": "http://evil.example"})
        assert "access-control-allow-origin" not in evil.headers
        for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens"):
            assert up.post(path, {}).status_code == 401
