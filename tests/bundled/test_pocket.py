"""The text model that ships: small beside its base, reads values of texts it never saw, and always answers in form."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

import redraft
from redraft.api import Engine
from redraft.models import checkpoint
from redraft.train.recipes.pocket.records import Item, items
from redraft.train.recipes.pocket.snippets import Split
from tests.thorough import some

ROOT = Path(__file__).parents[2]
# A seed that neither training nor the published figures use.
SEED = 77


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with redraft.load("pocket") as loaded:
        yield loaded


def held_out(verb: str, count: int) -> list[Item]:
    found = (one for one in items(SEED, Split.templates) if one["verb"] == verb)
    return [next(found) for _ in range(count)]


def test_it_is_at_most_twenty_megabytes_and_names_what_it_was_measured_in() -> None:
    folder = checkpoint.find("pocket")
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) <= 20e6
    assert checkpoint.read(folder).measured_in == "int8"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "SmolLM2-135M-Instruct" in card


@pytest.mark.slow
def test_it_reads_fields_of_texts_it_never_saw(engine: Engine) -> None:
    """Far enough below the published share that so few values do not fail by chance; all of it valid, and few steps."""
    right = asked = steps = 0
    given = held_out("extract", some(24, 12))
    for one in given:
        result = engine.extract(one["text"], one["schema"], seed=1, verbatim=True, **one.get("parameters", {}))
        assert result.layout == "slots"
        value = json.loads(result.text)
        jsonschema.validate(value, one["schema"])
        properties = one["schema"]["properties"]
        asked += len(properties)
        right += sum(value.get(key) == one["value"].get(key) for key in properties)
        steps += result.usage.denoising_steps
    assert right / asked >= 0.6
    assert steps / len(given) <= 6


@pytest.mark.slow
def test_it_says_what_a_text_is_about_more_often_than_chance(engine: Engine) -> None:
    given = held_out("choose", some(40, 20))
    right, chance = 0, 0.0
    for one in given:
        probabilities = engine.choose(one["messages"], one["options"], calibrated=True).answers["answer"].probabilities
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
        right += max(probabilities, key=probabilities.__getitem__) == one["answer"]
        chance += 1 / len(one["options"])
    assert right / len(given) > chance / len(given) + 0.1
