"""Several models behind one server: each answers as it does alone, and they share one scheduler and one budget."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from redraft.api import Engine
from redraft.errors import RequestError
from redraft.loading import load
from redraft.serve.backend import check_names, share_memory
from redraft.serve.server import Server
from redraft.serve.state import ServerSettings
from tests.conftest import WriteCheckpoint
from tests.random_checkpoint import LETTERS_SIZE
from tests.serve.conftest import NAME, Served, serving

SMALL = {"max_denoising_steps": 2, "t_max": 0.4, "t_min": 0.2}
# As many bytes as neither fills with one request, and both do with all of them.
KV_BYTES = 6 << 20


@pytest.fixture(scope="module")
def other(checkpoint_of: WriteCheckpoint) -> Engine:
    """Another model: other weights, another canvas, and one token more."""
    return load(
        checkpoint_of(letters=True, vocab_size=LETTERS_SIZE + 1, canvas_length=16, context_length=512, generation=SMALL)
    )


@pytest.fixture(scope="module")
def both(checkpoint: Any, other: Engine) -> Iterator[Served]:
    engine = load(checkpoint)
    share_memory([engine, other], KV_BYTES)
    with serving({NAME: engine, "other": other}) as up:
        yield up


def asked(model: str | None, seed: int = 1, **more: Any) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {**named, "prompt": "a text", "max_tokens": 24, "seed": seed, **more}


def text_of(served: Served, body: dict[str, Any]) -> str:
    answer = served.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_each_answers_as_it_does_alone_whatever_the_other_is_asked(both: Served, alone: Engine, other: Engine) -> None:
    expected = {
        (model, seed): engine.generate("a text", seed=seed, max_tokens=24).text
        for model, engine in ((NAME, alone), ("other", load(other.origin.checkpoint.path)))
        for seed in range(4)
    }
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(expected, pool.map(lambda key: text_of(both, asked(*key)), expected), strict=True))
    assert found == expected
    assert all(expected[NAME, seed] != expected["other", seed] for seed in range(4)), "they tell different things"


def test_every_route_goes_by_the_name(both: Served) -> None:
    names = [one["id"] for one in httpx.get(f"{both.url}/v1/models").json()["data"]]
    assert names == [NAME, "other"]
    assert httpx.get(f"{both.url}/v1/models/other").json()["canvas_length"] == 16
    said: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
        "/v1/completions": {"prompt": "x", "max_tokens": 4},
        "/v1/responses": {"input": "x", "max_output_tokens": 4},
        "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
        "/v1/fim/completions": {"prompt": "x", "suffix": "y", "max_tokens": 4},
        "/v1/systemone": {"state": "x", "questions": {"q": {"type": "noul", "instructions": "is it?"}}},
        "/v1/redraft/choose": {"prompt": "x", "questions": {"q": ["a", "b"]}},
        "/tokenize": {"prompt": "x"},
    }
    for route, body in said.items():
        before = forwards(both)
        answer = both.post(route, {**body, "model": "other"})
        assert answer.status_code == 200, (route, answer.text)
        assert answer.json().get("model", "other") == "other"
        after = forwards(both)
        assert after[NAME] == before[NAME], f"{route} is answered by the model that it names"
        assert route == "/tokenize" or after["other"] > before["other"]
        missing = both.post(route, {**body, "model": "third"})
        assert missing.status_code in (404, 422)
        assert "these are 'tiny', 'other'" in missing.text
    alias = both.post("/v1/systemone", {**said["/v1/systemone"], "model": "jev-latest"})
    assert alias.json()["model"] == NAME
    assert both.post("/tokenize", {"prompt": "x"}).json()["max_model_len"] == 1024, "the first answers for no name"
    assert httpx.get(f"{both.url}/tokenizer_info?model=other").status_code == 200


def test_a_constraint_is_compiled_for_the_vocabulary_of_its_model(both: Served) -> None:
    pattern = {"type": "regex", "pattern": "[a-c]{3}-[0-9]{2}"}
    for model in (NAME, "other"):
        answer = both.post("/v1/redraft/generate", asked(model, constraint=pattern))
        assert '"finish_reason":"stop"' in answer.text, answer.text
    assert len(both.server.processes.pids) == 2


def test_counts_are_told_for_each_model(both: Served) -> None:
    text_of(both, asked("other"))
    health = httpx.get(f"{both.url}/health").json()
    assert health["models"] == {NAME: {"running": 0, "waiting": 0}, "other": {"running": 0, "waiting": 0}}
    values = metrics(both)
    for name in ("tokens_total", "kv_bytes", "running", "forwards_total", "request_seconds_count"):
        assert {model for metric, model in values if metric == f"redraft_{name}"} == {NAME, "other"}, name
    budgets = {value for (metric, _), value in values.items() if metric == "redraft_kv_bytes"}
    assert KV_BYTES in budgets, "the budget is that of both"


def test_models_share_one_budget(both: Served, other: Engine) -> None:
    engines = [runtime.pool for runtime in both.server.scheduler.runtimes]
    for seed in range(6):
        for model in (NAME, "other"):
            text_of(both, {**asked(model, seed), "prompt": f"{seed} " + "a long text " * 20})
            assert sum(pool.used + pool.cached for pool in engines) <= KV_BYTES
    refused = both.post("/v1/completions", asked(NAME, max_tokens=1000))
    assert refused.status_code in (200, 400)


def test_names_are_told_apart_before_anything_is_served(engine: Engine, other: Engine) -> None:
    with pytest.raises(RequestError, match="two models are called 'a'"):
        check_names(["a", "b", "a"])
    with pytest.raises(RequestError, match="is none of those served: a, b"):
        Server({"a": engine, "b": other}, ServerSettings("c"))


def metrics(served: Served) -> dict[tuple[str, str], float]:
    """The values by metric and model; of several, such as of kinds, the last."""
    found = {}
    for line in httpx.get(f"{served.url}/metrics").text.splitlines():
        name, _, labels = line.partition("{")
        if not line.startswith("#") and 'model="' in labels:
            found[name, labels.partition('model="')[2].partition('"')[0]] = float(line.rsplit(" ", 1)[1])
    return found


def forwards(served: Served) -> dict[str, float]:
    return {model: count for (name, model), count in metrics(served).items() if name == "redraft_forwards_total"}
