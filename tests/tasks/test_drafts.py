"""A draft of what is extracted: the model corrects what is wrong in it, keeps what is right, and bad ones are named."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from redraft import RequestError
from redraft.api import Engine
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.engine.runtime import run
from redraft.tasks.extract import extract
from redraft.tasks.slots import Slots
from tests.engine.scripted import VOCAB_SIZE, Logits, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS
from tests.tasks.test_slots import Drawn, object_of

MASK = VOCAB_SIZE - 1
ORDER = object_of(
    {
        "name": {"type": "string"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "code": {"type": "string", "pattern": "^[A-Z]{2}$"},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
    },
    "name",
    "tags",
)
RIGHT = {"name": "Ada", "count": 42, "code": "AB", "tags": ["old"]}
WRONG = {**RIGHT, "count": 17}


@pytest.fixture(params=["uniform", "absorbing"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    corruption = None if request.param == "uniform" else AbsorbingCorruption(MaskNoise(MASK))
    return scripted_engine(tmp_path, random_logits(0), corruption=corruption, canvas_length=200)


@pytest.fixture
def absorbing(tmp_path: Path) -> Engine:
    return scripted_engine(
        tmp_path, random_logits(0), corruption=AbsorbingCorruption(MaskNoise(MASK)), canvas_length=200
    )


@pytest.fixture
def uniform(tmp_path: Path) -> Engine:
    return scripted_engine(tmp_path, random_logits(0), canvas_length=40)


def tokens_of(engine: Engine, value: Any) -> Tensor:
    return torch.tensor(Slots.of(ORDER, engine.tokenizer, END_TOKEN_IDS[0]).canvas(value).tokens)


def saying(tokens: Tensor, logit: float = 20.0) -> Logits:
    def script(canvas: Tensor, context: int) -> Tensor:
        own = torch.full_like(canvas, END_TOKEN_IDS[0])
        own[: len(tokens)] = tokens[: len(canvas)]
        return logit * torch.nn.functional.one_hot(own, VOCAB_SIZE).float()

    return script


def test_a_wrong_value_is_corrected_and_the_others_stay(engine: Engine) -> None:
    model_of(engine).script = saying(tokens_of(engine, RIGHT))
    for draft in (WRONG, json.dumps(WRONG), dict(reversed(WRONG.items()))):
        found = engine.extract("text", ORDER, layout="slots", draft=draft, seed=1)
        assert (found.layout, found.fallback, found.value) == ("slots", None, RIGHT)
        assert min(found.confidence.values()) > 0.99


def test_where_any_token_is_noise_the_draft_stands_at_first(tmp_path: Path) -> None:
    engine = scripted_engine(tmp_path, random_logits(0), canvas_length=200)
    engine.extract("text", ORDER, layout="slots", draft=WRONG, seed=1)
    assert torch.equal(model_of(engine).canvases_seen[0], tokens_of(engine, WRONG))


def test_where_masks_are_each_value_is_hidden_once_and_stays_if_it_would_be_said_again(absorbing: Engine) -> None:
    wrong, right = tokens_of(absorbing, WRONG), tokens_of(absorbing, RIGHT)
    free = torch.tensor(Slots.of(ORDER, absorbing.tokenizer, END_TOKEN_IDS[0]).empty.free)
    model = model_of(absorbing)
    model.script = saying(right, 6.0)
    found = absorbing.extract("text", ORDER, layout="slots", draft=WRONG, seed=1)
    slots = Slots.of(ORDER, absorbing.tokenizer, END_TOKEN_IDS[0]).slots
    judged, denoised = model.canvases_seen[: len(slots)], model.canvases_seen[len(slots) :]
    hidden = [canvas == MASK for canvas in judged]
    assert torch.equal(torch.stack(hidden).sum(0), free.long()), "each slot once, whole, and nothing else"
    assert all(torch.equal(canvas[~mask], wrong[~mask]) for canvas, mask in zip(judged, hidden, strict=True))
    count = [slot.pointer for slot in slots].index("/count")
    assert torch.equal(denoised[0] == MASK, hidden[count]), "the wrong one alone is written again"
    assert torch.equal(denoised[0][denoised[0] != MASK], wrong[denoised[0] != MASK])
    assert found.usage.forwards == len(model.canvases_seen) == found.usage.denoising_steps + len(slots)
    # Of what stays, the probability of its least likely token while it was hidden, the mask being no text.
    logits = model.script(judged[0], 0)
    logits[:, MASK] = -torch.inf
    probability = logits.softmax(-1)[torch.arange(len(right)), right]
    said = hidden[0].nonzero()[: len(absorbing.tokenizer.encode_text(" Ada")) + 1, 0]
    assert found.confidence["/name"] == pytest.approx(float(probability[said].min()), rel=1e-4)


def test_whatever_is_drafted_and_said_a_value_of_the_schema_comes_of_it(engine: Engine) -> None:
    for seed in range(8):
        schema, value = Drawn(seed).whole()
        model_of(engine).script = random_logits(seed, scale=(1.0, 8.0)[seed % 2])
        for canvas_length in (200, 60):
            given: dict[str, Any] = {"layout": "slots", "seed": seed, "canvas_length": canvas_length}
            if extract(engine.runtime, "x", schema, **given).slots is None:
                continue
            request = extract(engine.runtime, "x", schema, draft=value, **given)
            assert request.slots is not None
            jsonschema.validate(run(engine.runtime, request.slots.task()).value, schema)


def test_a_string_that_must_not_be_said_does_not_stay(absorbing: Engine) -> None:
    draft = {**RIGHT, "name": "Bo", "code": "XY"}
    model_of(absorbing).script = saying(tokens_of(absorbing, draft))
    found = absorbing.extract("Ada, AB", ORDER, layout="slots", verbatim=True, draft=draft, seed=1)
    assert found.value["name"] in "Ada, AB", "a stretch of the text"
    assert found.value["count"] == 42


class TestJSONText:
    def test_the_canvases_start_from_it_in_the_order_of_the_schema(self, uniform: Engine) -> None:
        text = json.dumps(WRONG, separators=(",", ":"))
        tokens = [*uniform.tokenizer.encode_text(text), END_TOKEN_IDS[0]]
        for draft in (WRONG, dict(reversed(WRONG.items())), json.dumps(WRONG, indent=2)):
            model_of(uniform).canvases_seen.clear()
            uniform.extract("text", ORDER, layout="text", draft=draft, seed=1, max_tokens=80, confidence=False)
            seen = model_of(uniform).canvases_seen[0]
            assert seen[: len(tokens)].tolist() == tokens[: len(seen)]

    def test_a_wrong_value_is_corrected(self, uniform: Engine) -> None:
        text = json.dumps(RIGHT, separators=(",", ":"))
        right = torch.tensor([*uniform.tokenizer.encode_text(text), END_TOKEN_IDS[0]])
        length = model_of(uniform).config.canvas_length
        prompt = extract(uniform.runtime, "text", ORDER).request.prompt

        def script(canvas: Tensor, context: int) -> Tensor:
            return saying(right[context - len(prompt) :])(canvas, context)

        model_of(uniform).script = script
        assert len(right) > length
        assert uniform.extract("text", ORDER, draft=WRONG, seed=1, confidence=False).value == RIGHT

    def test_tokens_that_stay_correct_nothing(self, absorbing: Engine) -> None:
        with pytest.raises(RequestError, match="a draft is for slots, and none are filled: layout is text"):
            absorbing.extract("text", ORDER, draft=WRONG)
        with pytest.raises(RequestError, match=r"none are filled: .*maxItems"):
            absorbing.extract("x", object_of({"a": {"type": "array", "items": {}}}), layout="slots", draft={"a": []})

    def test_a_value_that_takes_all_of_its_slot_is_written_without_the_draft(self, absorbing: Engine) -> None:
        schema = object_of({"a": {"type": "string", "maxLength": 40}}, "a")
        slots = Slots.of(schema, absorbing.tokenizer, END_TOKEN_IDS[0])
        said = torch.tensor(slots.canvas({"a": "x" * (slots.slots[0].width - 2)}).tokens)
        model_of(absorbing).script = saying(said)
        found = absorbing.extract("x", schema, layout="slots", confidence=False, draft={"a": "y"})
        assert found.layout == "text"
        assert "written without the draft" in (found.fallback or "")


def test_an_instance_of_the_type_is_a_draft(engine: Engine) -> None:
    @dataclasses.dataclass
    class Order:
        name: str
        count: int

    right = Slots.of(object_of({"name": {"type": "string"}, "count": {"type": "integer"}}, "name", "count"),
                     engine.tokenizer, END_TOKEN_IDS[0]).canvas({"name": "Ada", "count": 3})  # fmt: skip
    model_of(engine).script = saying(torch.tensor(right.tokens))
    assert engine.extract("x", Order, layout="slots", draft=Order("Ada", 2), seed=1).value == Order("Ada", 3)
    with pytest.raises(RequestError, match="draft is neither JSON nor of the type"):
        engine.extract("x", Order, layout="slots", draft=object())


@pytest.mark.parametrize("layout", ["slots", "text"])
@pytest.mark.parametrize(
    ("draft", "in_slots", "in_text"),
    [
        ({**RIGHT, "colour": "red"}, "value at /colour: the schema has no such key", "colour"),
        ({"tags": []}, "value at /name is missing", r"does not allow 'tags\":\[\]\}' after"),
        ({**RIGHT, "count": "many"}, "value at /count: 'many' is not a integer", "many"),
        ({**RIGHT, "count": 100}, "value at /count: the schema does not allow '100'", '"count":10'),
        ({**RIGHT, "code": "ab"}, "value at /code: the schema does not allow 'ab'", '"code":"'),
        ({**RIGHT, "tags": ["new", "odd"]}, "value at /tags/1: 'odd' is not one of", "does not allow 'dd"),
        ({**RIGHT, "name": "x" * 80}, "value at /name: 'x+' takes 8. tokens, and its slot holds 15", None),
        ({**RIGHT, "name": 1j}, "draft is not JSON", "draft is not JSON"),
        ('{"name": NaN}', "NaN is no number of JSON", "NaN is no number of JSON"),
        ("{", "draft is not JSON: Expecting", "draft is not JSON"),
        ([1], "is not an object", "does not allow"),
    ],
)
def test_a_bad_draft_is_named_before_any_work(
    uniform: Engine, layout: Any, draft: Any, in_slots: str, in_text: str | None
) -> None:
    model_of(uniform).config = dataclasses.replace(model_of(uniform).config, canvas_length=200)
    words = in_slots if layout == "slots" else in_text
    if words is None:
        assert extract(uniform.runtime, "x", ORDER, layout=layout, draft=draft).request.draft is not None
        return
    with pytest.raises(RequestError, match=words) as refused:
        uniform.extract("x", ORDER, layout=layout, draft=draft)
    assert "draft" in str(refused.value)
    assert model_of(uniform).encoded == []
