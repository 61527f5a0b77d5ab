"""The least canvas that fits is picked of those that a model was trained on; refused where it was trained on one."""

import json
from pathlib import Path

import pytest

from redraft.api import Engine
from redraft.engine.canvas_length import pick_canvas_length
from redraft.errors import CheckpointError, RequestError
from redraft.loading import load
from redraft.models.checkpoint import OWN_FILE
from tests.models.llama_diffusion.conftest import CONFIG, write

LONGEST = CONFIG.canvas_length


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("free"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load(folder, pack_folder=None)


def test_the_least_length_that_holds_the_answer_is_picked(engine: Engine) -> None:
    lengths = (*range(8, LONGEST, 8), LONGEST)
    for needed in range(1, LONGEST + 3):
        expected = min((one for one in lengths if one >= needed), default=LONGEST)
        assert pick_canvas_length(engine.runtime, "auto", needed) == expected
    assert pick_canvas_length(engine.runtime, "auto", None) == LONGEST
    assert pick_canvas_length(engine.runtime, None, 1) == LONGEST, "nobody said that it was trained so"
    assert engine.request("a", canvas_length="auto", max_tokens=3).canvas_length == 8
    assert engine.request("a", max_tokens=3).canvas_length == LONGEST


def test_an_answer_on_a_picked_canvas_is_that_on_one_of_its_length(engine: Engine) -> None:
    for picked, given in ((engine.generate("a", seed=1, max_tokens=5, canvas_length="auto"),
                           engine.generate("a", seed=1, max_tokens=5, canvas_length=8)),):  # fmt: skip
        assert picked.token_ids == given.token_ids
    auto = engine.choose("a", ["b", "no"], seed=1, canvas_length="auto")
    assert auto.answers == engine.choose("a", ["b", "no"], seed=1, canvas_length=8).answers
    assert auto.answers != engine.choose("a", ["b", "no"], seed=1).answers


def test_a_checkpoint_that_names_its_lengths_picks_by_itself(folder: Path, tmp_path: Path) -> None:
    named = write(tmp_path / "named")
    (named / OWN_FILE).write_text(json.dumps({"canvas_lengths": [4, LONGEST]}))
    engine = load(named, pack_folder=None)
    assert engine.request("a", max_tokens=3).canvas_length == 4
    assert engine.request("a", max_tokens=5).canvas_length == LONGEST
    assert engine.request("a", max_tokens=3, canvas_length=7).canvas_length == 7
    for wrong in ([8, 4], [0], ["8"], [4, LONGEST + 1], 8):
        (named / OWN_FILE).write_text(json.dumps({"canvas_lengths": wrong}))
        with pytest.raises(CheckpointError, match="canvas_lengths"):
            load(named, pack_folder=None)


def test_a_model_of_one_length_refuses_it_by_its_name(bundled: Engine, engine: Engine) -> None:
    with pytest.raises(RequestError, match="canvas_length 'auto': this checkpoint was trained on canvases of 90"):
        bundled.generate("1", canvas_length="auto", max_tokens=3)
    for wrong in ("long", 0, LONGEST + 1, 2.5, True):
        with pytest.raises(RequestError, match="canvas_length"):
            engine.generate("a", canvas_length=wrong)  # type: ignore[arg-type]
