"""A text read into slots: what is said in them is a value of the schema, whatever the model says; and what it says."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from redraft import GenerationError, RequestError, StepEvent
from redraft.api import Engine
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.engine.runtime import run
from redraft.engine.scheduler import Scheduler
from redraft.tasks.extract import ExtractRequest, extract
from redraft.tasks.read_slots import ReadSlots, slots_of
from redraft.tasks.slots import Slots
from tests.engine.scripted import VOCAB_SIZE, model_of, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS
from tests.tasks.test_slots import Drawn, object_of
from tests.thorough import some

MASK = VOCAB_SIZE - 1
ORDER = object_of(
    {
        "name": {"type": "string"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "urgent": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
    },
    "name",
    "tags",
)


@pytest.fixture(params=["uniform", "absorbing"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    corruption = None if request.param == "uniform" else AbsorbingCorruption(MaskNoise(MASK))
    return scripted_engine(tmp_path, random_logits(0), corruption=corruption, canvas_length=200)


def reading(engine: Engine, schema: dict[str, Any], **parameters: Any) -> ReadSlots:
    return slots_of(engine.runtime, "some text", json.dumps(schema), None, parameters)


def saying(engine: Engine, schema: dict[str, Any], value: Any, before: int = 0) -> None:
    """Script a model that says a value."""
    slots = Slots.of(schema, engine.tokenizer, END_TOKEN_IDS[0])
    tokens = torch.tensor(slots.canvas(value).tokens)

    def script(canvas: Tensor, context: int) -> Tensor:
        start = context - before if before else 0
        own = torch.full_like(canvas, END_TOKEN_IDS[0])
        said = tokens[start : start + len(canvas)]
        own[: len(said)] = said
        return 20.0 * torch.nn.functional.one_hot(own, VOCAB_SIZE).float()

    model_of(engine).script = script


def test_what_the_model_says_is_read(engine: Engine) -> None:
    value = {"name": "Ada L.", "count": 42, "tags": ["old", "new"]}
    saying(engine, ORDER, value)
    found = engine.extract("some text", ORDER, layout="slots", seed=1)
    assert (found.layout, found.fallback, found.value, json.loads(found.text)) == ("slots", None, value, value)
    assert found.usage.canvases == 1
    assert set(found.confidence) == {"/name", "/count", "/tags/0", "/tags/1"}
    assert min(found.confidence.values()) > 0.99
    assert engine.tokenizer.decode(found.token_ids) == " Ada L. 42 null old new null"


def test_whatever_it_says_is_a_value_of_the_schema(engine: Engine) -> None:
    for seed in range(some(40, 12)):
        drawn = Drawn(seed)
        schema, _ = drawn.whole()
        model_of(engine).script = random_logits(seed, scale=(1.0, 8.0)[seed % 2])
        found = run(engine.runtime, reading(engine, schema, seed=seed, temperature=seed % 3 / 2).task())
        jsonschema.validate(found.value, schema)
        assert json.loads(found.result.text) == found.value
        assert all(0 <= one <= 1 for one in found.confidence.values())


def test_slots_that_one_canvas_does_not_hold_stand_on_several(engine: Engine) -> None:
    model_of(engine).script = random_logits(3)
    for seed in range(5):
        whole = reading(engine, ORDER, seed=seed, canvas_length=30)
        found = run(engine.runtime, whole.task())
        jsonschema.validate(found.value, ORDER)
        assert found.result.usage.canvases == len(whole.parts) > 2
    # Each is encoded for those after it.
    assert len(model_of(engine).encoded[-1]) <= 30
    value = {"name": "Ada", "count": 7, "urgent": True, "tags": ["new"]}
    saying(engine, ORDER, value, before=len(whole.request.prompt))
    assert run(engine.runtime, whole.task()).value == value


def test_it_is_the_same_among_others_and_for_the_same_seed(engine: Engine) -> None:
    wanted = [reading(engine, ORDER, seed=seed) for seed in range(4)]
    alone = [run(engine.runtime, one.task()) for one in wanted]
    scheduler = Scheduler(engine.runtime)
    try:
        found = [handle.result() for handle in [scheduler.submit(one) for one in wanted]]
    finally:
        scheduler.close()
    assert [(one.value, one.confidence) for one in found] == [(one.value, one.confidence) for one in alone]
    assert len({one.result.text for one in alone}) > 1


def test_steps_are_told(engine: Engine) -> None:
    events: list[StepEvent] = []
    saying(engine, ORDER, {"name": "Ada", "tags": []})
    found = engine.extract("some text", ORDER, layout="slots", on_step=events.append)
    assert len(events) == found.usage.denoising_steps
    # What stands between slots stands there from the start.
    canvas = Slots.of(ORDER, engine.tokenizer, END_TOKEN_IDS[0]).empty
    frame = ~torch.tensor(canvas.free)
    assert all((event.tokens_in == torch.tensor(canvas.tokens))[frame].all() for event in events)


class TestVerbatim:
    """Strings in slots are stretches of the text, whatever the model says."""

    TEXT = "Dr. Ada Lovelace wrote note G, in 1843."
    SCHEMA = object_of(
        {"who": {"type": "string"}, "what": {"type": "string"}, "on": {"type": "string", "format": "date"}}, "who", "on"
    )

    def test_strings_are_stretches_that_cut_no_word(self, engine: Engine) -> None:
        count = 0
        for seed in range(some(25, 8)):
            model_of(engine).script = random_logits(seed, scale=(1.0, 8.0)[seed % 2])
            request = extract(engine.runtime, self.TEXT, self.SCHEMA, layout="slots", verbatim=True, seed=seed)
            assert request.slots is not None
            read = run(engine.runtime, request.slots.task())
            for text in (read.value[name] for name in ("who", "what") if name in read.value):
                assert text in self.TEXT
                assert text == text.strip() != ""
                # Of words whole ones alone.
                assert set(re.findall(r"\w+", text)) <= set(re.findall(r"\w+", self.TEXT))
                count += 1
            assert read.value["on"] not in self.TEXT
        assert count > some(30)

    def test_a_value_that_takes_all_of_its_slot_is_an_error(self, engine: Engine) -> None:
        schema = object_of({"a": {"type": "string"}}, "a")
        width = Slots.of(schema, engine.tokenizer, END_TOKEN_IDS[0]).slots[0].width
        text = "x" * (width - len(engine.tokenizer.encode_text(" ")) - 1)
        with pytest.raises(GenerationError, match="the value at /a takes all of its slot"):
            engine.extract(text, schema, layout="slots", verbatim=True)

    def test_what_no_stretch_can_be_is_refused_or_absent(self, engine: Engine) -> None:
        code = {"type": "string", "pattern": "^[0-9]{6}$"}
        with pytest.raises(RequestError, match="no text can stand at /code"):
            engine.extract(self.TEXT, object_of({"code": code}, "code"), layout="slots", verbatim=True)
        found = engine.extract(self.TEXT, object_of({"code": code}), layout="slots", verbatim=True)
        assert found.value == {}
        year = object_of({"year": {"type": "string", "pattern": "^[0-9]{4}$"}}, "year")
        assert engine.extract(self.TEXT, year, layout="slots", verbatim=True).value == {"year": "1843"}

    def test_text_cannot_be_held_to_it(self, engine: Engine) -> None:
        with pytest.raises(RequestError, match="verbatim holds in slots alone, and none are filled: layout is text"):
            engine.extract(self.TEXT, self.SCHEMA, verbatim=True)


class TestFallback:
    """JSON is written where slots cannot be filled, and the result says why."""

    @pytest.mark.parametrize(
        ("schema", "reason"),
        [
            (object_of({"a": {"type": "array", "items": {"type": "integer"}}}), "maxItems"),
            ({"type": "array", "maxItems": 2, "items": {"type": "integer"}}, "must be an object"),
            (
                object_of({"a": {"type": "string", "minLength": 200, "maxLength": 210}}, "a"),
                "shortest text takes 41 tokens",
            ),
        ],
    )
    def test_a_schema_without_slots(self, engine: Engine, schema: dict[str, Any], reason: str) -> None:
        request = extract(engine.runtime, "x", schema, layout="slots", seed=0)
        assert request.slots is None
        assert reason in (request.fallback or "")

    def test_a_value_that_takes_all_of_its_slot(self, engine: Engine) -> None:
        schema = object_of({"a": {"type": "string", "maxLength": 40}}, "a")
        slots = Slots.of(schema, engine.tokenizer, END_TOKEN_IDS[0])
        saying(engine, schema, {"a": "x" * (slots.slots[0].width - 2)})
        found = engine.extract("x", schema, layout="slots", confidence=False)
        assert found.layout == "text"
        assert found.fallback == "the value at /a takes all of its slot, and may be longer"
        assert found.usage.canvases > 1

    @pytest.mark.parametrize(
        ("parameters", "reason"),
        [
            ({"best_of": 2}, "best_of"),
            ({"verifier": lambda candidate: ()}, "verifier"),
            ({"max_tokens": 20}, "max_tokens 20 is too small"),
            ({"canvas_length": 4}, "a canvas has 4"),
        ],
    )
    def test_what_only_json_honours(self, engine: Engine, parameters: dict[str, Any], reason: str) -> None:
        assert reason in (extract(engine.runtime, "x", ORDER, layout="slots", **parameters).fallback or "")

    def test_none_is_named_where_text_was_asked_for(self, engine: Engine) -> None:
        request: ExtractRequest[Any] = extract(engine.runtime, "x", ORDER)
        assert request.slots is None
        assert request.fallback is None


def test_the_checkpoint_says_which_layout_is_its_own(engine: Engine) -> None:
    model = model_of(engine)
    model.defaults = replace(model.defaults, extract_layout="slots")
    assert extract(engine.runtime, "x", ORDER).slots is not None
    assert extract(engine.runtime, "x", ORDER, layout="text").slots is None
    with pytest.raises(RequestError, match="layout 'lines' must be 'slots' or 'text'"):
        extract(engine.runtime, "x", ORDER, layout="lines")  # type: ignore[arg-type]
