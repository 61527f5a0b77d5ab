"""A tiny LlamaDiffusion with random weights, records for it, and recipes that train it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redraft.models import checkpoint
from redraft.models.checkpoint import Checkpoint
from redraft.train.metrics import Metrics
from redraft.train.text.encoding import Encoder
from redraft.train.text.objective import ObjectiveConfig
from redraft.train.text.optimizer import OptimizerConfig
from redraft.train.text.recipe import TextRecipe
from redraft.train.text.records import Record, parse
from redraft.train.text.run import RunConfig
from redraft.train.text.source import GeneratedSource
from tests.models.llama_diffusion.conftest import CONFIG, write

# Two questions with answers of one canvas and of several, a third on slots, and one that begins like another.
SEVERAL: Mapping[str, Any] = {
    "context": "the name and the value",
    "questions": [
        {"task": "say", "ask": "yes", "answer": "the value of an other name is true and no other is"},
        {"task": "say", "ask": "yesno", "answer": "no"},
        {"task": "say", "ask": "yes", "answer": "a"},
        {
            "task": "fill",
            "ask": "name",
            "canvas": [{"pinned": "name:"}, {"slot": "no", "width": 4}, {"pinned": "the"}, {"slot": "a", "width": 3}],
        },
    ],
}


def generated(seed: int, index: int) -> Mapping[str, Any]:
    """What is asked for depends on the number alone."""
    first, second = "abcd"[(index + seed) % 4], "wxyz"[index // 4 % 4]
    return {
        "context": f"the {first} and {second}",
        "questions": [
            {
                "task": "fill",
                "ask": "name",
                "canvas": [
                    {"pinned": "name"},
                    {"slot": first, "width": 3},
                    {"pinned": "value"},
                    {"slot": second, "width": 2},
                ],
            },
            {"task": "say", "ask": "value", "answer": second},
        ],
    }


SOURCE = GeneratedSource(generated, 0, "letters")
HELD_OUT = [parse(generated(0, index), f"held out {index}") for index in (0, 5)]


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes ten times as long as training does here; slow tests draw all the same."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(Metrics, "draw", lambda *_: None)


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("llama"), replace(CONFIG, num_hidden_layers=2))


@pytest.fixture(scope="package")
def found(tiny: Path) -> Checkpoint:
    return checkpoint.read(tiny)


@pytest.fixture(scope="package")
def encoder(tiny: Path, found: Checkpoint) -> Encoder:
    return recipe(tiny).encoder(found)


def recipe(
    model: Path,
    steps: int = 4,
    *,
    objective: ObjectiveConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    run: Mapping[str, Any] | None = None,
    **more: Any,
) -> TextRecipe:
    return TextRecipe(
        str(model),
        RunConfig(**{"steps": steps, "log_every": 1, "save_every": 2, "evaluate_every": 1000, **(run or {})}),
        objective=objective or ObjectiveConfig(),
        optimizer=optimizer or OptimizerConfig(learning_rate=3e-3, warmup=2),
        # What "auto" means depends on the processor.
        **{"batch_tokens": 256, "dtype": "float32", **more},
    )


def several() -> Record:
    return parse(SEVERAL, "several")
