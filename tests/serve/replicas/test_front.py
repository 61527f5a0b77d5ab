"""The front: clients get from it what one process would give, whichever replica answers and whatever becomes of it."""

import asyncio
import json
import random
import re
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from redraft.api import Engine
from redraft.serve.backend import Backend
from redraft.serve.http.presence import Seeds
from redraft.serve.replicas.fleet import Part
from redraft.serve.replicas.front import ATTEMPTS, Front
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, wait_until
from tests.serve.replicas.conftest import REFUSALS, Fronted, Local, fronted, once

MESSAGES: Any = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "max_tokens": 60}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "seed": 3},
    "/v1/completions": {"model": NAME, "prompt": "one", "max_tokens": 60, "seed": 3},
    "/v1/responses": {"model": NAME, "input": "one", "max_output_tokens": 60, "seed": 3},
    "/v1/messages": CHAT,
    "/v1/redraft/generate": {"prompt": "one", "max_tokens": 60, "seed": 3},
    "/v1/fim/completions": {"model": NAME, "prompt": "a", "suffix": "b", "max_tokens": 20, "seed": 3},
}
# What is another one each time, and what says how it came about.
_PASSING = "|".join(
    (
        r'"(id|created|created_at|completed_at|item_id)":("[^"]*"|\d+)',
        r'"\w*cached\w*":\d+',
        r'"(seconds\w*|\w+_seconds|time_to_first_token)":[\d.e-]+',
    )
)


def begun(part: Part) -> bool:
    return part.begun


def lasting(text: str) -> str:
    return re.sub(_PASSING, "", text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [path for path in REQUESTS if path != "/v1/messages"])
def test_answers_are_those_of_one_process(front: Fronted, served: Served, path: str, stream: bool) -> None:
    body = {**REQUESTS[path], **({"stream": True} if stream and path != "/v1/redraft/generate" else {})}
    here, there = front.post(path, body), served.post(path, body)
    assert here.status_code == there.status_code == 200, here.text
    assert here.headers["content-type"] == there.headers["content-type"]
    assert here.headers["x-redraft-replica"] in front.fleet.backends
    assert lasting(here.text) == lasting(there.text)


def test_what_was_lost_with_nothing_sent_is_asked_again_and_says_the_same(
    backends: dict[str, Backend], alone: Engine
) -> None:
    """Without a seed of the client's: the front has drawn it."""
    with fronted(backends, dies=once(lambda part: True)) as up:
        whole = up.post("/v1/chat/completions", CHAT).json()["choices"][0]["message"]["content"]
        up.fleet.dies = once(begun)
        client = openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=60, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert len(up.fleet.taken) == 4
        for said, first, second in ((whole, 0, 1), (streamed, 2, 3)):
            assert up.fleet.taken[first] != up.fleet.taken[second]
            assert up.fleet.asked[first].seed == up.fleet.asked[second].seed
            seed = Seeds(up.fleet.asked[first].seed).next()
            assert said == alone.generate(MESSAGES, max_tokens=60, seed=seed).text
        assert whole != streamed, "each request has a seed of its own"
        page = httpx.get(f"{up.url}/metrics").text
        assert 'redraft_replica_losses_total{replica="front"} 2.0' in page
        assert 'redraft_retried_requests_total{replica="front"} 2.0' in page


def second_of(check: Callable[[Part], bool]) -> Callable[[Part], bool]:
    """The second part that ``check`` says yes to."""
    seen = [0]

    def found(part: Part) -> bool:
        seen[0] += check(part)
        return check(part) and seen[0] == 2

    return found


def test_a_stream_that_was_lost_in_the_midst_ends_with_an_error_that_clients_see(backends: dict[str, Backend]) -> None:
    with fronted(backends) as up:

        def lost() -> None:
            up.fleet.dies = second_of(begun)

        def text(path: str, **more: Any) -> str:
            lost()
            return up.post(path, {**REQUESTS[path], **more}).text

        client = openai.OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0)
        lost()
        with pytest.raises(openai.APIError, match="the replica that answered was lost"):
            list(client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=60, stream=True))
        other = anthropic.Anthropic(base_url=up.url, api_key="none", max_retries=0)
        lost()
        with (
            pytest.raises(anthropic.APIStatusError, match="the replica that answered was lost"),
            other.messages.stream(model=NAME, messages=MESSAGES, max_tokens=60) as events,
        ):
            list(events)
        lost()
        seen = list(client.responses.create(model=NAME, input="one", max_output_tokens=60, stream=True))
        assert seen[-1].type == "response.failed"
        assert seen[-1].response.status == "failed"
        assert seen[-1].response.id == seen[0].response.id
        assert [one.sequence_number for one in seen] == list(range(len(seen)))
        assert "the rest of this answer" in seen[-1].response.error.message
        own = text("/v1/redraft/generate")
        assert own.count("event: error") == 1
        assert json.loads(own.rpartition("data: ")[2])["message"].startswith("the replica")
        assert "replica_lost" in text("/v1/completions", stream=True).rpartition("data: ")[2]
        assert len(up.fleet.taken) == 5, "none was asked again: its client has a part already"
        wait_until(lambda: up.idle)


def test_a_request_that_ends_every_replica_does_not_end_them_all(backends: dict[str, Backend]) -> None:
    with fronted(backends, dies=lambda part: True) as up:
        refused = up.post("/v1/messages", CHAT)
        assert (refused.status_code, len(up.fleet.taken)) == (503, ATTEMPTS)
        assert refused.json()["type"] == "error"
        assert "the replica that answered was lost" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"]


def test_what_the_fleet_refuses_is_told(backends: dict[str, Backend]) -> None:
    with fronted(backends) as up:
        for fault, status in REFUSALS:
            up.fleet.fault = fault
            refused = up.post("/v1/chat/completions", CHAT)
            assert (refused.status_code, refused.json()["error"]["message"]) == (status, str(fault))
        up.fleet.fault = RuntimeError("secret")
        failed = up.post("/v1/chat/completions", CHAT)
        assert failed.status_code == 500
        assert "secret" not in failed.text


def test_whoever_waits_in_vain_is_told_so() -> None:
    class Nobody(Local):
        async def ask(self, request: Any) -> Any:
            await asyncio.Event().wait()
            yield

    async def run() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        messages = iter([{"type": "http.request", "body": b"{}"}])

        async def receive() -> Any:
            return next(messages, None) or await asyncio.Event().wait()

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        await Front(Nobody({}), NAME, patience=0.01)(scope, receive, send)
        return sent

    start, body = asyncio.run(run())
    assert start["status"] == 503
    assert "no replica took the request within 0.01 s" in body["body"].decode()


def test_a_client_that_goes_away_is_noticed_in_the_replica(front: Fronted) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(base_url=front.url, timeout=600) as http:
            asking = asyncio.create_task(http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 900}))
            while front.idle:
                await asyncio.sleep(0.01)
            asking.cancel()

    before = sum(one.scheduler.load.cancelled for one in front.fleet.backends.values())
    asyncio.run(leave())
    wait_until(lambda: front.idle)
    assert sum(one.scheduler.load.cancelled for one in front.fleet.backends.values()) == before + 1


def test_who_may_not_ask_comes_to_no_replica(backends: dict[str, Backend]) -> None:
    settings = ServerSettings(NAME, api_keys=["good"], cors=["http://page.example"])
    with fronted(backends, settings) as up:
        assert up.post("/v1/chat/completions", CHAT).status_code == 401
        assert httpx.get(f"{up.url}/metrics").status_code == 401
        assert not up.fleet.asked
        key = {"authorization": "Bearer good", "origin": "http://page.example"}
        good = up.post("/v1/chat/completions", CHAT, headers=key)
        assert good.status_code == 200
        assert good.headers.get_list("access-control-allow-origin") == ["http://page.example"]
        assert len(good.headers.get_list("x-frame-options")) == 1
        large = up.post("/v1/chat/completions", {**CHAT, "messages": "x" * (5 << 20)}, headers=key)
        assert large.status_code == 413
        pieces = (b"x" * (1 << 20) for _ in range(5))
        assert httpx.post(f"{up.url}/v1/messages", content=pieces, headers=key, timeout=600).status_code == 413


def test_health_and_metrics_are_those_of_all_replicas(front: Fronted) -> None:
    for content in ("a", "b", "c"):
        assert front.post("/v1/completions", {"model": NAME, "prompt": content, "max_tokens": 5}).status_code == 200
    health = httpx.get(f"{front.url}/health").json()
    assert set(health["replicas"]) == {"first", "second"}
    assert health["status"] == "ok"
    families = {one.name: one for one in text_string_to_metric_families(httpx.get(f"{front.url}/metrics").text)}
    finished = families["redraft_finished"].samples
    assert {one.labels["replica"] for one in finished} == {"first", "second"}
    loads = {name: one.scheduler.load for name, one in front.fleet.backends.items()}
    assert {one.labels["replica"]: one.value for one in finished} == {n: load.finished for n, load in loads.items()}
    assert families["redraft_replicas"].samples[0].value == 2
    statuses = {one.labels["status"]: one.value for one in families["redraft_front_requests"].samples
                if one.name.endswith("_total")}  # fmt: skip
    assert statuses["200"] >= 4
    assert httpx.get(f"{front.url}/v1/models").json()["data"][0]["id"] == NAME
    assert httpx.head(f"{front.url}/v1/models").status_code == 200
    front.fleet.backends = {}
    assert httpx.get(f"{front.url}/health").status_code == 503


def test_whatever_is_lost_under_load_no_answer_is_wrong_and_nobody_waits_for_ever(
    backends: dict[str, Backend], alone: Engine
) -> None:
    chance = random.Random(4)
    ends: list[str] = []

    async def ask(http: httpx.AsyncClient, seed: int) -> None:
        body = {**CHAT, "seed": seed, "stream": seed % 2 == 1}
        answer = await http.post("/v1/chat/completions", json=body)
        own = alone.generate(MESSAGES, max_tokens=60, seed=seed).text
        if answer.status_code == 503:
            ends.append("given up")
        elif body["stream"]:
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            said = "".join(one["delta"].get("content") or "" for event in events for one in event.get("choices", ()))
            ends.append("broken" if "error" in events[-1] else "whole")
            assert own.startswith(said) if ends[-1] == "broken" else own == said
        else:
            ends.append("whole")
            assert answer.json()["choices"][0]["message"]["content"] == own

    async def run(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as http:
            await asyncio.gather(*(ask(http, seed) for seed in range(24)))

    with fronted(backends, dies=lambda part: chance.random() < 0.2) as up:
        asyncio.run(run(up.url))
        assert len(ends) == 24
        assert ends.count("whole") > 8
        assert len(up.fleet.asked) > 24, "some were asked again"
        wait_until(lambda: up.idle)
