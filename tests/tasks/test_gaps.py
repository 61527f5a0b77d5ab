"""Gaps in slots: what stands around them stays byte for byte, what is written in them is what holes allow, and what has
no place in a slot is written as a text."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import redraft
from redraft import Hole, RequestError, StepEvent
from redraft.api import Engine
from redraft.record.described import plain, restored
from redraft.record.recording import Recording
from redraft.tasks.edit import edit
from redraft.tasks.fill import fill
from redraft.tasks.gaps import Gaps, WriteGaps
from tests.engine.scripted import random_logits, scripted_engine
from tests.models.llama_diffusion.conftest import tiny
from tests.random_checkpoint import END_TOKEN_IDS
from tests.tasks.conftest import told, without_end
from tests.tasks.test_edit import check_spliced, edits
from tests.thorough import some

__all__ = ["tiny"]

CANVAS = 64


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A model that was trained on slots, as its checkpoint says."""
    made = scripted_engine(tmp_path_factory.mktemp("engine"), random_logits(0), canvas_length=CANVAS)
    trained_on_slots(made)
    return made


def trained_on_slots(engine: Engine) -> None:
    engine.model.defaults = replace(engine.model.defaults, extract_layout="slots")


def script(engine: Engine, seed: int, end: float = 0.0) -> None:
    """Make the model say something else; ``end`` more of end tokens."""
    plain = random_logits(seed)

    def logits(canvas: Tensor, context: int) -> Tensor:
        out = plain(canvas, context)
        out[:, list(END_TOKEN_IDS)] += end
        return out

    engine.model.script = logits  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("a b", " c"), ("a b ", " c"), ("a", ""), ("a b\n", "\nc"), ("a  ", "c")]
)
def test_a_middle_in_a_slot_is_what_the_hole_allows_and_all_else_stays(
    engine: Engine, prefix: str, suffix: str
) -> None:
    for seed in range(4):
        script(engine, seed, end=3.0)
        request = fill(engine.runtime, prefix, suffix, hole=Hole(regex="[xy]{1,4}é?"), seed=seed)
        assert request.gaps is not None
        texts, result = told(engine, request)
        assert re.fullmatch("[xy]{1,4}é?", result.middle)
        assert result.text == prefix + result.middle + suffix
        assert "".join(texts) == result.middle
        assert result.usage.completion_tokens == len(result.token_ids)
        assert result.usage.canvases == 1


def test_the_suffix_stands_in_its_place_from_the_first_step_on(engine: Engine) -> None:
    script(engine, 1, end=9.0)
    steps: list[StepEvent] = []
    engine.fill("a b", " the end", seed=1, on_step=steps.append)
    shown = engine.tokenizer.encode_text(" the end", literal=True)
    for event in steps:
        assert event.tokens_in[-len(shown) :].tolist() == event.tokens_out[-len(shown) :].tolist() == shown


@settings(max_examples=some(60), deadline=None)
@given(edit=edits(), seed=st.integers(0, 1000))
def test_everything_outside_of_spans_in_slots_stays(
    engine: Engine, edit: tuple[str, list[tuple[int, int]]], seed: int
) -> None:
    """Random texts and spans: adjacent, which slots cannot be, empty, at both ends; one canvas or several."""
    text, spans = edit
    script(engine, seed, end=2.0)
    result = engine.edit(text, spans, hole=Hole(regex="[xy]{0,3}é?"), seed=seed)
    check_spliced(text, spans, result)


def test_several_spans_are_slots_of_one_canvas(engine: Engine) -> None:
    script(engine, 2, end=3.0)
    request = edit(engine.runtime, "in the a, the b and c", [(7, 8), (14, 15)], hole=Hole(regex="[A-Z]{1,2}"), seed=3)
    steps: list[StepEvent] = []
    texts: list[str] = []
    result = engine._run(request, steps.append)
    assert re.fullmatch("in the [A-Z]{1,2}, the [A-Z]{1,2} and c", result.text)
    assert result.usage.canvases == 1
    assert result.usage.denoising_steps == len(steps)
    texts, again = told(engine, request)
    assert "".join(texts) == f"{again.replacements[0]}, the {again.replacements[1]}"
    assert again.text == result.text


def test_what_gaps_are_held_to_is_compiled_before_an_edit_begins(engine: Engine) -> None:
    script(engine, 2, end=9.0)
    text = "in the a" + ", and on it goes" * 9 + " the b"
    request = edit(engine.runtime, text, [(7, 8), (len(text) - 1, len(text))], seed=3)
    engine.runtime.constraints._kept.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.runtime.constraints), "_build", lambda *_: pytest.fail("compiled while others wait"))
        assert told(engine, request)[1].usage.canvases > 1


def test_a_text_that_takes_all_of_its_slot_is_written_without_one(engine: Engine) -> None:
    engine.model.script = without_end(random_logits(1))  # type: ignore[attr-defined]
    request = fill(engine.runtime, "a b", " c", hole=Hole(regex="[xy]{15,}"), seed=1)
    assert request.gaps is not None
    texts, result = told(engine, request)
    assert len(result.middle) >= 15
    assert "".join(texts) == result.middle
    assert result.usage.canvases > 1, "the slot is counted, too"


@pytest.mark.parametrize(
    "parameters",
    [
        {"best_of": 2},
        {"verifier": lambda candidate: []},
        {"max_tokens": CANVAS},
        {"hole": Hole(regex="x{16}")},
    ],
    ids=["candidates", "a verifier", "more tokens than a canvas", "a text as long as the slot"],
)
def test_what_has_no_place_in_a_slot_is_written_as_a_text(engine: Engine, parameters: dict[str, Any]) -> None:
    assert fill(engine.runtime, "a b", " c", **parameters).gaps is None


def test_a_wish_to_stay_close_to_the_old_text_is_one_for_a_text(engine: Engine) -> None:
    assert edit(engine.runtime, "a b c", [(2, 3)]).canvases[0].gaps is not None
    assert edit(engine.runtime, "a b c", [(2, 3)], strength=1.0).canvases[0].gaps is not None
    assert edit(engine.runtime, "a b c", [(2, 3)], strength=0.5).canvases[0].gaps is None


def test_gaps_that_cannot_be_slots_are_named(engine: Engine) -> None:
    request = engine.request("a b", seed=1)
    hole = Hole()
    for gaps, said in (
        (Gaps(("", " ", ""), (hole, hole), (8, 8)), "no text stands between two gaps"),
        (Gaps(("", ""), (hole,), (CANVAS + 1,)), "take 65 positions in slots, and the canvas has 64"),
        (Gaps(("", ""), (Hole(regex="x{9}"),), (9,)), "shortest text takes 9 tokens, and its slot holds 8"),
    ):
        with pytest.raises(RequestError, match=said):
            WriteGaps.of(engine.runtime, request, gaps)


def test_another_model_writes_as_before(tmp_path: Path) -> None:
    other = scripted_engine(tmp_path, random_logits(0), canvas_length=CANVAS)
    assert fill(other.runtime, "a b", " c").gaps is None
    assert edit(other.runtime, "a b c", [(2, 3)]).canvases[0].gaps is None


@pytest.mark.parametrize("seed", [1, 2])
def test_a_recording_of_gaps_is_replayed_bit_for_bit(tiny: Path, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(tiny, folder)
    (folder / "redraft.json").write_text(json.dumps({"extract_layout": "slots"}))
    runs = redraft.RecordingFolder(tmp_path / "runs")
    with redraft.load(folder) as engine:
        hole = Hole(regex="[xy]{1,3}")
        filled = engine.fill("in the ", " of", hole=hole, max_tokens=6, seed=seed, record=runs)
        (file,) = (tmp_path / "runs").iterdir()
        recording = Recording.load(file)
        assert recording.header["version"] == 4
        assert recording.reading == Gaps((" ", " of"), (hole,), (7,))
        assert restored(plain(recording.reading)) == recording.reading
        assert redraft.replay(recording, engine).identical
        assert recording.events
        assert filled.usage.denoising_steps == len(recording.events)
        assert filled.middle == engine.fill("in the ", " of", hole=hole, max_tokens=6, seed=seed).middle
    assert torch.equal(recording.events[-1].tokens_out[-1:], recording.events[0].tokens_in[-1:])
