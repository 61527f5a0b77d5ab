"""The route that reads a text: its events and its result are the engine's, and drafts are what canvases start from."""

import json
from typing import Any

import pytest
import torch

from redraft.api import Engine
from redraft.canvas.draft import Draft
from redraft.engine.result import StepEvent
from tests.serve.conftest import Served

TEXT = "Ada pays 12 on Monday."
SCHEMA = {
    "type": "object",
    "properties": {"who": {"enum": ["Ada", "Bo"]}, "sum": {"const": 12}},
    "required": ["who", "sum"],
    "additionalProperties": False,
}


def events(served: Served, path: str, body: Any) -> dict[str, list[Any]]:
    answer = served.post(path, body)
    assert answer.status_code == 200, answer.text
    found: dict[str, list[Any]] = {}
    for block in answer.text.strip().split("\n\n"):
        kind, data = block.split("\n")
        found.setdefault(kind.removeprefix("event: "), []).append(json.loads(data.removeprefix("data: ")))
    return found


@pytest.mark.parametrize("draft", [None, {"who": "Bo", "sum": 12}], ids=["", "drafted"])
@pytest.mark.parametrize("layout", ["slots", "text"])
def test_what_is_read_is_what_the_engine_reads(served: Served, alone: Engine, layout: Any, draft: Any) -> None:
    seen: list[StepEvent] = []
    expected = alone.extract(TEXT, SCHEMA, seed=2, layout=layout, draft=draft, on_step=seen.append)
    body = {"text": TEXT, "schema": SCHEMA, "seed": 2, "layout": layout, "draft": draft}
    told = events(served, "/v1/redraft/extract", body)
    ((start,), (result,)) = told["start"], told["result"]
    assert start["seed"] == result["seed"] == 2
    assert [step["argmax"] for step in told["step"]] == [event.argmax.tolist() for event in seen]
    assert (result["value"], result["text"]) == (expected.value, expected.text)
    assert result["confidence"] == pytest.approx(expected.confidence)
    assert (result["layout"], result["fallback"]) == (expected.layout, expected.fallback)
    assert expected.layout == layout
    assert {pointer: tuple(place) for pointer, place in result["places"].items()} == expected.places
    assert TEXT[slice(*result["places"]["/sum"])] == "12"
    assert start["end_token_ids"] == ([] if layout == "slots" else list(alone.model.defaults.end_token_ids))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"text": ""}, "text"),
        ({"schema": {"type": "strange"}}, "schema"),
        ({"layout": "columns"}, "layout"),
        ({"verbatim": True, "layout": "text"}, "verbatim"),
        ({"stop": "x"}, "stop"),
        ({"draft": {"who": "Ada", "sum": 12, "age": 3}}, "draft"),
        ({"draft": {"who": "Ada"}, "layout": "slots"}, "draft"),
        ({"draft": "{"}, "draft"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(served: Served, wrong: dict[str, Any], param: str) -> None:
    answer = served.post("/v1/redraft/extract", {"text": TEXT, "schema": SCHEMA, **wrong})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_draft_is_what_the_canvas_starts_from(served: Served, alone: Engine) -> None:
    body = {"prompt": "x", "seed": 3, "max_tokens": 40, "draft": {"text": "yes null yes"}}
    told = events(served, "/v1/redraft/generate", body)
    tokens = alone.tokenizer.encode_text("yes null yes", literal=True)
    assert told["step"][0]["tokens"][: len(tokens)] == tokens
    tokens += alone.model.defaults.end_token_ids[:1]
    draft = Draft(torch.tensor(tokens), torch.ones(len(tokens), dtype=torch.float64))
    assert told["result"][0]["text"] == alone.generate("x", seed=3, max_tokens=40, draft=draft).text
    for draft_body, param in (({"text": ""}, "draft.text"), ({"text": "x", "survival": 2}, "draft.survival")):
        refused = served.post("/v1/redraft/generate", {**body, "draft": draft_body})
        assert refused.json()["error"]["param"] == param
    filled = served.post("/v1/redraft/generate", {"fill": {"prefix": "a", "suffix": "b"}, "draft": {"text": "x"}})
    assert filled.json()["error"]["param"] == "draft"
