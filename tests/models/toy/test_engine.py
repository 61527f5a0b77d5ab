"""The engine on a family that it does not know: text, constraints, infill, decisions, recordings, all of masks."""

from pathlib import Path

import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.models.packed import PackedModel
from tests.models.toy.conftest import CONFIG
from tests.models.toy.model import Inkwell

DTYPES = ("float32", "bfloat16", "int8", "int4")
assert set(DTYPES) == set(FORMATS)


@pytest.fixture(scope="module", params=DTYPES)
def engine(inkwell: Path, request: pytest.FixtureRequest) -> Engine:
    return redraft.load(inkwell, dtype=request.param)


def test_the_model_is_the_familys(inkwell: Path, monkeypatch: pytest.MonkeyPatch):
    if bindings.kernels() is not None:
        assert isinstance(redraft.load(inkwell).model, PackedModel)
    monkeypatch.setattr(bindings, "kernels", lambda: None)
    assert isinstance(redraft.load(inkwell).model, Inkwell)


def test_an_answer_of_several_canvases_reveals_and_never_takes_back(engine: Engine):
    events: list[redraft.StepEvent] = []
    result = engine.generate("in the end", max_tokens=60, seed=7, on_step=events.append)
    assert result.usage.completion_tokens <= 60
    assert CONFIG.mask_id not in result.token_ids
    for event in events:
        revealed = event.tokens_in != CONFIG.mask_id
        assert torch.equal(event.tokens_out[revealed], event.tokens_in[revealed])
        # The checkpoint's own rule: half sure, or the surest.
        assert (event.accepted & ~revealed).any() or revealed.all()
    assert (events[0].tokens_in == CONFIG.mask_id).all()
    assert max(event.canvas_index for event in events) + 1 == len({event.canvas_index for event in events})
    last = [event for event in events if event.canvas_index == 0][-1]
    assert (last.tokens_out != CONFIG.mask_id).all(), "what is committed has no mask"
    assert result.token_ids == engine.generate("in the end", max_tokens=60, seed=7).token_ids
    assert result.token_ids != engine.generate("in the end", max_tokens=60, seed=8).token_ids


def test_a_constraint_holds(engine: Engine):
    for seed in range(3):
        result = engine.generate("a number: ", constraint=redraft.Regex("[0-9]{3}-[0-9]{2}"), seed=seed)
        assert len(result.text) == 6
        assert result.text[3] == "-"
        assert (result.text[:3] + result.text[4:]).isdigit()


def test_a_gap_is_filled_and_its_sides_stay(engine: Engine):
    filled = engine.fill("in the ", " and on", seed=3, max_tokens=30)
    assert CONFIG.mask_id not in filled.token_ids


def test_a_decision_has_probabilities(engine: Engine):
    found = engine.choose("yes or no", {"a": ["yes", "no"], "b": ["the", "one", "other"]}, seed=3)
    for decision in found.answers.values():
        assert sum(decision.probabilities.values()) == pytest.approx(1)
        assert all(0 < probability < 1 for probability in decision.probabilities.values())


def test_filters_and_penalties_reveal_text_alone(engine: Engine):
    events: list[redraft.StepEvent] = []
    result = engine.generate(
        "in the end", top_k=1, repetition_penalty=1.2, max_tokens=60, seed=7, on_step=events.append
    )
    assert CONFIG.mask_id not in result.token_ids
    for event in events:
        # One token is left of each position, and never the mask.
        assert torch.equal(event.sample, event.argmax)
        assert (event.entropy == 0).all()
        assert (event.argmax != CONFIG.mask_id).all()
    assert result.token_ids != engine.generate("in the end", top_k=1, max_tokens=60, seed=7).token_ids


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_recording_is_replayed_bit_for_bit(inkwell: Path, tmp_path: Path, dtype: Format):
    runs = redraft.RecordingFolder(tmp_path / "runs")
    result = redraft.load(inkwell, dtype=dtype).generate("some text", max_tokens=40, seed=7, record=runs)
    (file,) = sorted((tmp_path / "runs").iterdir())
    recording = redraft.Recording.load(file)
    again = redraft.replay(recording, redraft.load(inkwell, dtype=dtype))
    assert again.identical
    assert recording.events
    assert result.usage.denoising_steps == len(recording.events)


def test_what_the_family_has_not_is_refused(engine: Engine):
    with pytest.raises(redraft.RequestError):
        engine.generate("text", thinking=True)
