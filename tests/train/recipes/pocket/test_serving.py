"""What is asked by the verbs is, token by token, what training answers: prompts, canvases, and widths of slots."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import redraft
from redraft.models import checkpoint
from redraft.tasks.choose import choose
from redraft.tasks.choose_slots import SlotChoice
from redraft.tasks.extract import ExtractRequest, extract
from redraft.tasks.layout import widths_alone
from redraft.tasks.slots import INSTRUCTION, asked
from redraft.train.recipes.pocket.records import item
from redraft.train.recipes.pocket.snippets import Split
from redraft.train.text.encoding import EncodedQuestion, Encoder
from redraft.train.text.recipe import TextRecipe
from redraft.train.text.records import parse
from redraft.train.text.run import RunConfig
from tests.models.llama_diffusion.conftest import CONFIG, write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of few weights, with room for long prompts of a tokenizer of letters."""
    config = replace(CONFIG, num_hidden_layers=1, max_position_embeddings=8192, canvas_length=1024)
    return write(tmp_path_factory.mktemp("model"), config)


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return TextRecipe(str(model), RunConfig(steps=1)).encoder(checkpoint.read(model))


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[redraft.Engine]:
    with redraft.load(model, pack_folder=None) as engine:
        yield engine


def made(verb: str) -> list[dict[str, Any]]:
    items = [item(3, index, Split.templates) for index in range(40)]
    return [one for one in items if one["verb"] == verb]


def trained(encoder: Encoder, context: str, question: dict[str, Any]) -> EncodedQuestion:
    (found,) = encoder.encode(parse({"context": context, "questions": [question]}, "item")).questions
    return found


def test_extract_asks_and_lays_slots_out_as_training_does(engine: redraft.Engine, encoder: Encoder) -> None:
    for one in made("extract"):
        parameters = one.get("parameters", {})
        request: ExtractRequest[Any] = extract(
            engine.runtime, one["text"], one["schema"], layout="slots", seed=0, **parameters
        )
        ask = asked(one["schema"], parameters.get("instruction", INSTRUCTION))
        question = {"task": "extract", "ask": ask, "schema": one["schema"], "value": one["value"]}
        clean = trained(encoder, one["text"], question)
        assert request.slots is not None, request.fallback
        assert tuple(request.slots.request.prompt) == clean.prompt
        (part,) = request.slots.parts
        (canvas,) = clean.canvases
        assert tuple(part.canvas.free) == canvas.free
        pinned = [place for place, free in enumerate(canvas.free) if not free]
        assert [part.canvas.tokens[place] for place in pinned] == [canvas.tokens[place] for place in pinned]


def test_choose_asks_as_training_does_in_a_slot_that_holds_every_option(
    engine: redraft.Engine, encoder: Encoder
) -> None:
    for one in made("choose"):
        request = choose(engine.runtime, one["messages"], one["options"], layout="slots", seed=0)
        context, ask = one["messages"][0]["content"].split("\n\n", 1)
        longest = max(len(engine.tokenizer.encode_text(option)) for option in one["options"])
        width = widths_alone(longest)[0]
        question = {"task": "choose", "ask": ask, "canvas": [{"slot": one["answer"], "width": width}]}
        clean = trained(encoder, context, question)
        assert isinstance(request.choice, SlotChoice)
        assert tuple(request.request.prompt) == clean.prompt
        assert tuple(request.choice.canvas.free) == clean.canvases[0].free
