"""Redraft's own routes: enough to draw a run and to replay it."""

import json
from typing import Any

import httpx
import pytest

from redraft import JSONSchema
from redraft.api import Engine
from redraft.engine.result import StepEvent
from tests.serve.conftest import Served


def events(served: Served, **body: Any) -> list[tuple[str, Any]]:
    answer = served.post("/v1/redraft/generate", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip().split("\n\n"):
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_every_step_of_the_engine_is_an_event(served: Served, alone: Engine) -> None:
    seen: list[StepEvent] = []
    expected = alone.stream("once", seed=4, max_tokens=90, on_step=seen.append).result()
    told = events(served, prompt="once", seed=4, max_tokens=90)
    (first, start), (last, result) = told[0], told[-1]
    assert (first, last) == ("start", "result")
    assert start["seed"] == 4
    assert start["canvas_length"] == 48
    assert start["prompt_tokens"] == expected.usage.prompt_tokens
    steps = [event for kind, event in told if kind == "step"]
    assert len(steps) == len(seen)
    pieces: dict[str, str] = {}
    before: list[int] = []
    for told_step, step in zip(steps, seen, strict=True):
        assert (told_step["canvas"], told_step["step"]) == (step.canvas_index, step.step)
        assert (told_step["of"], told_step["remaining"]) == (3, 3 - step.step)
        assert told_step["tokens"] == step.tokens_in.tolist()
        assert told_step["argmax"] == step.argmax.tolist()
        assert told_step["accepted"] == step.accepted.int().tolist()
        assert told_step["entropy"] == pytest.approx(step.entropy.tolist(), abs=1e-4)
        assert not set(told_step["pieces"]) & set(pieces), "each token's text comes once"
        pieces |= told_step["pieces"]
        assert {str(token) for token in told_step["tokens"] + told_step["argmax"]} <= set(pieces)
        same_canvas = told_step["step"] > 1
        if same_canvas:
            changed = [at for at, token in enumerate(told_step["argmax"]) if token != before[at]]
            assert told_step["changed"] == changed
        else:
            assert told_step["changed"] == list(range(48))
        before = told_step["argmax"]
    chunks = [event for kind, event in told if kind == "chunk"]
    assert "".join(chunk["text"] for chunk in chunks) == result["text"] == expected.text
    assert result["usage"]["denoising_steps"] == expected.usage.denoising_steps
    assert result["unconverged_canvases"] == list(expected.unconverged_canvases)


@pytest.mark.parametrize(
    ("constraint", "beginning"),
    [
        ({"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}},
                                            "required": ["a"]}}, '{"a":'),
        ({"type": "regex", "pattern": "ab[0-9]{2}"}, "ab"),
        ({"type": "choice", "options": ["yes", "yelp"]}, "ye"),
        ({"type": "template", "text": "So {x}.", "holes": {"x": {"choices": ["a", "b"]}}}, "So "),
    ],
)  # fmt: skip
def test_constraints_hold_and_their_beginning_is_certain(served: Served, constraint: Any, beginning: str) -> None:
    for seed in range(3):
        told = events(served, prompt="once", constraint=constraint, seed=seed, max_tokens=40)
        assert told[0][1]["beginning"] == beginning
        assert told[-1][1]["text"].startswith(beginning)


def test_a_gap_is_filled(served: Served, alone: Engine) -> None:
    told = events(served, fill={"prefix": "the", "suffix": " end"}, seed=3, max_tokens=8)
    expected = alone.fill("the", " end", max_tokens=8, seed=3)
    result = told[-1][1]
    assert (result["middle"], result["text"]) == (expected.middle, expected.text)
    assert told[0][1]["prompt_tokens"] == expected.usage.prompt_tokens
    assert sum(kind == "step" for kind, _ in told) == expected.usage.denoising_steps


def test_a_conversation_with_a_thought(served: Served) -> None:
    told = events(served, messages=[{"role": "user", "content": "hi"}], thinking=True, seed=1, max_tokens=60)
    assert told[-1][1]["thought"] is not None


def test_decisions(served: Served, alone: Engine) -> None:
    questions = {"a": ["yes", "no"], "b": ["red", "green", "blue"]}
    answer = served.post("/v1/redraft/choose", {"prompt": "is it?", "questions": questions, "seed": 2}).json()
    expected = alone.choose("is it?", questions, seed=2)
    for name, decision in expected.answers.items():
        told = answer["answers"][name]
        assert told["choice"] == decision.choice
        assert told["probabilities"] == pytest.approx(decision.probabilities)
        assert sum(told["probabilities"].values()) == pytest.approx(1)
    assert answer["seed"] == 2
    assert answer["usage"]["denoising_steps"] == 1
    body = {"prompt": "is it?", "questions": questions, "seed": 2, "normalize": "length"}
    by_length = served.post("/v1/redraft/choose", body).json()["answers"]
    expected = alone.choose("is it?", questions, seed=2, normalize="length")
    for name, decision in expected.answers.items():
        assert by_length[name]["probabilities"] == pytest.approx(decision.probabilities)
        assert by_length[name]["probabilities"] != pytest.approx(answer["answers"][name]["probabilities"])
    small = {"a": ["yes", "no"]}
    in_slots = served.post("/v1/redraft/choose", {**body, "questions": small, "layout": "slots", "normalize": None})
    expected = alone.choose("is it?", small, seed=2, layout="slots")
    assert in_slots.json()["answers"]["a"]["probabilities"] == pytest.approx(expected.probabilities)
    assert (in_slots.json()["layout"], in_slots.json()["fallback"], answer["layout"]) == ("slots", None, "text")
    refused = served.post("/v1/redraft/choose", {**body, "normalize": "tokens"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "normalize"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "prompt"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "messages"),
        ({"prompt": "x", "nonsense": 1}, 400, "nonsense"),
        ({"prompt": "x", "constraint": {"type": "regex", "pattern": "("}}, 400, "constraint"),
        ({"prompt": "x", "constraint": {"type": "json_schema", "schema": {"$ref": "http://x"}}}, 400, "constraint"),
        ({"fill": {"prefix": "a", "suffix": "b"}, "stop": "x"}, 400, "stop"),
        ({"prompt": "", "max_tokens": 5}, 400, "prompt"),
        ({"prompt": "x", "temperature": 9}, 400, "temperature"),
        ({"prompt": "x", "max_tokens": 99999}, 400, "max_tokens"),
    ],
)
def test_what_cannot_be_generated_is_refused(served: Served, body: Any, status: int, param: str) -> None:
    answer = served.post("/v1/redraft/generate", body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_a_schema_is_the_engines(served: Served, alone: Engine) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "maxItems": 3}
    told = events(served, prompt="x", seed=5, max_tokens=20, constraint={"type": "json_schema", "schema": schema})
    expected = alone.generate("x", seed=5, max_tokens=20, constraint=JSONSchema(schema))
    assert told[-1][1]["text"] == expected.text
    assert told[-1][1]["log_valid"] == pytest.approx(list(expected.log_valid))


def test_health(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json()["status"] == "ok"
