"""Two replicas on Ray Serve, real clients, one replica killed in the middle. Run where Ray is installed:
``redraft[serve,ray]``."""

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from redraft.api import Engine
from redraft.loading import load
from redraft.serve.replicas.arguments import Arguments
from tests.serve.conftest import wait_until

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")
pytestmark = pytest.mark.slow

KEY = "a key"
PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
MESSAGES: Any = [{"role": "user", "content": PUZZLE}]


@pytest.fixture(scope="module")
def alone() -> Engine:
    return load("sudoku")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where the application of ``serve run redraft.serve.ray:app`` listens. Of a cluster that RAY_ADDRESS names, or of
    this machine alone."""
    from redraft.serve.ray import app

    more = {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "num_cpus": 4, "include_dashboard": False}
    ray.init(log_to_driver=False, **more)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app(Arguments(replicas=2, threads=1, api_keys=[KEY])), route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=600)


def health(url: str) -> dict[str, Any]:
    return httpx.get(f"{url}/health", timeout=600).json()


def metrics(url: str) -> dict[str, Any]:
    page = httpx.get(f"{url}/metrics", headers={"x-api-key": KEY}, timeout=600).text
    return {one.name: one for one in text_string_to_metric_families(page)}


def kill(replica: str) -> None:
    (found,) = [one for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].endswith(replica)]
    ray.kill(ray.get_actor(found["name"], found["namespace"]))


def of_front(url: str, name: str) -> float:
    return next(one.value for one in metrics(url)[name].samples if one.labels["replica"] == "front")


def test_a_request_whose_replica_is_killed_gets_the_answer_that_one_process_gives(
    url: str, client: openai.OpenAI, alone: Engine
) -> None:
    before = httpx.get(f"{url}/health", timeout=600).json()["replicas"]
    assert len(before) == 2
    retried = of_front(url, "redraft_retried_requests")
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(client.chat.completions.create(model="sudoku", messages=MESSAGES, seed=5, n=16))
    )
    asking.start()
    busy: list[str] = []

    def one_is_busy() -> bool:
        busy[:] = [name for name, load in health(url)["replicas"].items() if load["running"]]
        return bool(busy) or not asking.is_alive()

    wait_until(one_is_busy)
    kill(busy[0])
    asking.join(600)
    assert of_front(url, "redraft_retried_requests") == retried + 1
    for choice in answers[0].choices:
        assert choice.message.content == alone.generate(MESSAGES, seed=5 + choice.index).text
    wait_until(lambda: len(health(url)["replicas"]) == 2)
    assert busy[0] not in health(url)["replicas"], "another one is in its place"


def test_a_stream_whose_replica_is_killed_ends_with_an_error(url: str, client: openai.OpenAI) -> None:
    wait_until(lambda: len(health(url)["replicas"]) == 2)
    # They end one after the other: when the first one has, others have not.
    raw = client.chat.completions.with_raw_response.create(model="sudoku", messages=MESSAGES, seed=1, n=16, stream=True)

    def read() -> None:
        killed = False
        for chunk in raw.parse():
            if chunk.choices and not killed:
                killed = True
                kill(raw.headers["x-redraft-replica"])

    with pytest.raises(openai.APIError, match="the replica that answered was lost"):
        read()
    assert [model.id for model in client.models.list().data] == ["pocket", "sudoku"], "the other one answers"


def test_requests_that_begin_alike_go_to_one_replica(url: str) -> None:
    wait_until(lambda: len(health(url)["replicas"]) == 2)

    def replica(content: str) -> str:
        body = {"model": "sudoku", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": KEY}, timeout=600)
        assert answer.status_code in (200, 400), "whatever the model says of so odd a puzzle"
        return answer.headers["x-redraft-replica"]

    prompts = [f"{number}" * 20 + PUZZLE * 4 for number in range(1, 9)]
    first = [replica(prompt) for prompt in prompts]
    assert len(set(first)) == 2
    assert [replica(prompt + "1") for prompt in prompts] == first


def test_keys_and_labels_and_a_client_that_goes_away(url: str, client: openai.OpenAI) -> None:
    wait_until(lambda: len(health(url)["replicas"]) == 2)
    body = {"model": "sudoku", "messages": MESSAGES, "n": 16, "stream": True}
    path, headers = f"{url}/v1/chat/completions", {"x-api-key": KEY}
    assert httpx.post(path, json=body, timeout=600).status_code == 401
    with httpx.stream("POST", path, json=body, headers=headers, timeout=600) as answer:
        next(answer.iter_text())
    wait_until(lambda: health(url)["running"] + health(url)["waiting"] == 0)
    cancelled = metrics(url)["redraft_cancelled"].samples
    assert {one.labels["replica"] for one in cancelled} == set(health(url)["replicas"])
    assert sum(one.value for one in cancelled) > 0
    whole = client.responses.create(model="sudoku", input=PUZZLE)
    assert whole.output_text
