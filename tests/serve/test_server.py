"""The server around the formats: who may ask, what is too much, and how it ends."""

import json
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from redraft.api import Engine
from redraft.errors import RequestError
from redraft.serve.http.limits import RequestLimits
from redraft.serve.http.security import ApiKeys
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Endless, Served, serving, wait_until

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
JSON = {"content-type": "application/json"}
LONG = {**CHAT, "max_tokens": 900}


def test_keys_are_asked_for(engine: Engine) -> None:
    with serving(engine, ServerSettings(NAME, api_keys=["good", "other"])) as up:
        for headers in ({}, {"authorization": "Bearer bad"}, {"x-api-key": "goo"}, {"authorization": "good"}):
            refused = up.post("/v1/chat/completions", CHAT, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        refused = up.post("/v1/messages", CHAT)
        assert refused.json()["error"]["type"] == "authentication_error"
        for headers in ({"authorization": "Bearer good"}, {"x-api-key": "other"}):
            assert up.post("/v1/chat/completions", CHAT, headers=headers).status_code == 200
        assert httpx.get(f"{up.url}/health").status_code == 200
        assert httpx.get(f"{up.url}/metrics").status_code == 401
        beyond_ascii = {b"authorization": "Bearer é".encode()}
        assert httpx.get(f"{up.url}/v1/models", headers=beyond_ascii).status_code == 401


@pytest.mark.parametrize("keys", [[""], ["good", ""], [" \t"], [None], "good"])
def test_what_is_no_key_lets_nobody_in_by_mistake(keys: Any) -> None:
    with pytest.raises(RequestError, match="key"):
        ServerSettings(NAME, api_keys=keys)
    with pytest.raises(RequestError, match="key"):
        ApiKeys(FastAPI(), keys)


def test_no_other_origin_may_read_unless_it_is_set(engine: Engine, served: Served) -> None:
    asks = {"origin": "http://page.example", "access-control-request-method": "POST"}
    plain = httpx.options(f"{served.url}/v1/chat/completions", headers=asks)
    assert "access-control-allow-origin" not in plain.headers
    with serving(engine, ServerSettings(NAME, cors=["http://page.example"], api_keys=["k"])) as up:
        allowed = httpx.options(f"{up.url}/v1/chat/completions", headers=asks)
        assert allowed.headers["access-control-allow-origin"] == "http://page.example"
        other = httpx.options(f"{up.url}/v1/chat/completions", headers={**asks, "origin": "http://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_what_is_too_large_is_refused(engine: Engine) -> None:
    limits = RequestLimits(body_bytes=5000, prompt_tokens=50, schema_bytes=300)
    with serving(engine, ServerSettings(NAME, limits=limits)) as up:
        large = {**CHAT, "messages": [{"role": "user", "content": "x" * 6000}]}
        refused = up.post("/v1/chat/completions", large)
        assert refused.status_code == 413
        assert "5000 bytes" in refused.json()["error"]["message"]
        pieces = (json.dumps(large)[start : start + 1000].encode() for start in range(0, 7000, 1000))
        assert httpx.post(f"{up.url}/v1/chat/completions", content=pieces, headers=JSON).status_code == 413
        prompt = {**CHAT, "messages": [{"role": "user", "content": "x" * 200}]}
        assert up.post("/v1/chat/completions", prompt).status_code == 413
        schema = {"type": "object", "properties": {"x" * 400: {"type": "string"}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        refused = up.post("/v1/chat/completions", {**CHAT, "response_format": wanted})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "response_format")
        constraint = {"type": "regex", "pattern": "x" * 400}
        assert up.post("/v1/redraft/generate", {"prompt": "x", "constraint": constraint}).status_code == 422
        assert up.post("/v1/chat/completions", CHAT).status_code == 200


class Spied:
    """A tokenizer that says how long the texts are that it gets, before it does its work."""

    def __init__(self, own: Any, told: Callable[[int], None]) -> None:
        self._own, self._told = own, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self._told(len(texts[0]))
        return self._own.encode_batch_fast(texts, **options)


HUGE = "x" * 3_900_000
HUGE_REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "messages": [{"role": "user", "content": HUGE}]},
    "/v1/completions": {"model": NAME, "prompt": HUGE},
    "/v1/messages": {**CHAT, "messages": [{"role": "user", "content": HUGE}]},
    "/v1/fim/completions": {"model": NAME, "prompt": HUGE, "suffix": "."},
    "/v1/redraft/generate": {"prompt": HUGE},
    "/v1/redraft/generate?fill": {"fill": {"prefix": HUGE, "suffix": "."}},
    "/v1/redraft/choose": {"prompt": HUGE, "questions": {"q": ["a", "b"]}},
    "/v1/systemone": {"model": NAME, "state": HUGE, "questions": {"q": {"type": "noul", "instructions": "?"}}},
}


@pytest.mark.parametrize("path", HUGE_REQUESTS)
@pytest.mark.parametrize("limit", [None, 500])
def test_what_is_far_too_long_is_refused_before_it_is_tokenized(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, path: str, limit: int | None
) -> None:
    lengths: list[int] = []
    monkeypatch.setattr(engine.tokenizer, "_tokenizer", Spied(engine.tokenizer.tokenizer, lengths.append))
    with serving(engine, ServerSettings(NAME, limits=RequestLimits(prompt_tokens=limit))) as up:
        refused = up.post(path, HUGE_REQUESTS[path])
    if path == "/v1/systemone":
        # It has an envelope of its own.
        assert refused.status_code == (422 if limit is None else 413), refused.text[:500]
        said = refused.text
    else:
        assert refused.status_code == (400 if limit is None else 413), refused.text[:500]
        said = refused.json()["error"]["message"]
    assert "tokens or more" in said
    assert ("the context holds 1024" if limit is None else "at most 500") in said
    assert max(lengths, default=0) < len(HUGE)


def test_others_are_answered_while_a_long_message_is_tokenized(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, answered = threading.Event(), threading.Event()
    waited: list[bool] = []

    def told(length: int) -> None:
        if length > 5000:
            begun.set()
            waited.append(answered.wait(600))

    monkeypatch.setattr(engine.tokenizer, "_tokenizer", Spied(engine.tokenizer.tokenizer, told))
    with serving(engine) as up:
        long = {**CHAT, "messages": [{"role": "user", "content": "x" * 6000}]}
        refused: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: refused.append(up.post("/v1/chat/completions", long)))
        asking.start()
        assert begun.wait(600)
        assert up.post("/v1/chat/completions", CHAT).status_code == 200
        assert not refused
        answered.set()
        asking.join(600)
    assert waited == [True]
    assert refused[0].status_code == 400
    assert "the context holds 1024" in refused[0].json()["error"]["message"]


def test_a_prompt_beyond_the_context_says_what_would_fit(served: Served) -> None:
    refused = served.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x" * 3000}]})
    assert refused.status_code == 400
    assert "the context holds 1024" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("stream", [True, False])
def test_a_closed_connection_ends_the_work(served: Served, stream: bool) -> None:
    body = {**LONG, "stream": stream, "n": 4}
    before = served.server.scheduler.load.cancelled
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        data = json.dumps(body).encode()
        head = ("POST /v1/chat/completions HTTP/1.1", "host: localhost", "content-type: application/json",
                f"content-length: {len(data)}", "", "")  # fmt: skip
        connection.sendall("\r\n".join(head).encode() + data)
        wait_until(lambda: served.server.scheduler.load.running > 0)
    wait_until(lambda: served.idle)
    assert served.server.scheduler.load.cancelled > before


def test_a_full_server_says_when_to_come_again(engine: Engine) -> None:
    with serving(engine, max_concurrency=1, max_waiting=1) as up:
        holding = [up.server.scheduler.submit(Endless()) for _ in range(1)]
        wait_until(lambda: up.server.scheduler.load.running == 1)
        holding.append(up.server.scheduler.submit(Endless()))
        refused = up.post("/v1/chat/completions", CHAT)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert up.post("/v1/messages", CHAT).json()["error"]["type"] == "rate_limit_error"
        for handle in holding:
            handle.cancel()


def test_a_server_that_is_told_to_stop_finishes_what_runs_and_takes_no_more(engine: Engine) -> None:
    answers: list[httpx.Response] = []
    with serving(engine, grace=600.0) as up, httpx.Client(base_url=up.url, timeout=600) as client:
        client.get("/health")
        thread = threading.Thread(target=lambda: answers.append(up.post("/v1/chat/completions", {**CHAT, "n": 16})))
        thread.start()
        wait_until(lambda: up.server.scheduler.load.running > 0)
        up.server.begin_closing()
        wait_until(lambda: up.server.scheduler._closing)
        refused = client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        up.server.should_exit = True
        thread.join(600)
    assert answers[0].status_code == 200
    assert len(answers[0].json()["choices"]) == 16


def test_what_does_not_finish_in_time_is_told_so(engine: Engine) -> None:
    body = {**LONG, "n": 16, "stream": True}
    with serving(engine) as up, httpx.stream("POST", f"{up.url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        up.server.begin_closing()
        text = "\n".join(lines)
    assert '"code":"shutting_down"' in text
    assert "[DONE]" not in text


def test_no_prompt_is_logged_unless_asked(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="redraft.serve")
    secret = {**CHAT, "messages": [{"role": "user", "content": "sesame"}]}
    with serving(engine) as up:
        assert up.post("/v1/chat/completions", secret).status_code == 200
        assert up.post("/v1/chat/completions", {**secret, "seed": -2}).status_code == 400
    assert "POST /v1/chat/completions 200" in caplog.text
    assert "sesame" not in caplog.text
    with serving(engine, ServerSettings(NAME, log_prompts=True)) as up:
        up.post("/v1/chat/completions", secret)
    assert "sesame" in caplog.text


def test_metrics_count_what_was_done(served: Served) -> None:
    served.post("/v1/chat/completions", CHAT)
    served.post("/v1/chat/completions", {**CHAT, "top_p": 1.5})
    httpx.get(f"{served.url}/made/up")
    text = httpx.get(f"{served.url}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['redraft_http_requests_total{route="/v1/chat/completions",status="200"}']) >= 1
    assert float(values['redraft_http_requests_total{route="/v1/chat/completions",status="400"}']) >= 1
    for name in (
        'redraft_running{model="tiny"}',
        'redraft_waiting{model="tiny"}',
        'redraft_forwards_total{model="tiny"}',
        'redraft_batched_requests_total{model="tiny"}',
        'redraft_batched_rows_total{model="tiny"}',
        'redraft_kv_bytes{kind="used",model="tiny"}',
        'redraft_prompt_tokens_reused_total{model="tiny"}',
        'redraft_time_to_first_text_seconds_count{model="tiny"}',
        'redraft_steps_per_canvas_count{model="tiny"}',
        'redraft_tokens_per_step_count{model="tiny"}',
        'redraft_tokens_total{kind="completion",model="tiny"}',
    ):
        assert name in values
    assert "/made/up" not in text


def test_bodies_that_are_no_requests(served: Served) -> None:
    url = f"{served.url}/v1/chat/completions"
    for content in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": NaN}', b"[" * 30_000):
        answer = httpx.post(url, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400, content[:20]
        assert answer.json()["error"]["message"]
    half = {**CHAT, "messages": [{"role": "user", "content": "\ud800"}]}
    answer = httpx.post(url, content=json.dumps(half), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert httpx.get(url).status_code == 405


def test_the_page_may_load_nothing_from_elsewhere(served: Served) -> None:
    answer = httpx.get(f"{served.url}/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_is_served_to_anybody_and_asks_nobody_else(served: Served) -> None:
    page = httpx.get(f"{served.url}/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-cache"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert linked
    for link in linked:
        assert httpx.get(httpx.URL(f"{served.url}/").join(link)).status_code == 200, link
    assert httpx.get(f"{served.url}/assets/../app.py").status_code == 404
