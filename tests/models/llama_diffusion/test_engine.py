"""The engine on LlamaDiffusion: text, constraints, infill, edits, decisions, extraction, recordings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import redraft
from redraft.api import Engine
from redraft.engine import slotted
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.models.llama_diffusion.model import LlamaDiffusion
from redraft.models.packed import PackedModel
from tests.models.llama_diffusion.conftest import CONFIG

DTYPES = ("float32", "bfloat16", "int8", "int4")
assert set(DTYPES) == set(FORMATS)


@pytest.fixture(scope="module", params=DTYPES)
def engine(tiny: Path, request: pytest.FixtureRequest) -> Engine:
    return redraft.load(tiny, dtype=request.param)


@pytest.mark.parametrize("kernels", [True, False])
def test_a_checkpoint_may_reveal_gaps_from_left_to_right(
    tiny: Path, tmp_path: Path, kernels: bool, monkeypatch: pytest.MonkeyPatch
):
    """Whatever a gap stands between: no token of it is there before those left of it are, and one comes each step."""
    if not kernels:
        monkeypatch.setattr(bindings, "kernels", lambda: None)
    folder = tmp_path / "ordered"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mask_order": "left-to-right"}))
    events: list[redraft.StepEvent] = []
    with redraft.load(folder) as ordered:
        ordered.fill("in the ", " of", max_tokens=12, seed=3, on_step=events.append)
        ordered.generate("in the end", max_tokens=24, seed=3, on_step=events.append)
    assert len(events) > 2
    for event in events:
        open = (event.tokens_in == CONFIG.mask_token_id).tolist()
        revealed = (event.tokens_out != CONFIG.mask_token_id).tolist()
        last = event.finished or event.step == event.steps
        for at in (at for at, one in enumerate(open) if one):
            begins = at == 0 or not open[at - 1]
            assert revealed[at] if begins else revealed[at - 1] or not revealed[at] or last


@pytest.mark.parametrize("order", ["any", "left-to-right"])
def test_slots_of_a_choice_and_of_an_extraction_are_read_in_the_order_of_the_checkpoint(
    tiny: Path, tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "ordered"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mask_order": order}))
    called: list[str] = []

    def counted(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            called.append(name)
            return plain(*given)

        return call

    for name in ("infer", "infer_in_order"):
        monkeypatch.setattr(slotted, name, counted(name, getattr(slotted, name)))
    with redraft.load(folder) as engine:
        for ask in (
            lambda: engine.choose("yes or no", ["yes", "no"], layout="slots", max_denoising_steps=3, seed=1),
            lambda: engine.extract(
                "some text", {"type": "object", "properties": {"a": {"type": "boolean"}}}, layout="slots", seed=1
            ),
        ):
            called.clear()
            ask()
            assert set(called) == {"infer" if order == "any" else "infer_in_order"}


def test_the_model_is_the_familys(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    if bindings.kernels() is not None:
        assert isinstance(redraft.load(tiny).model, PackedModel)
    monkeypatch.setattr(bindings, "kernels", lambda: None)
    assert isinstance(redraft.load(tiny).model, LlamaDiffusion)


def test_an_answer_of_several_canvases_reveals_and_never_takes_back(engine: Engine):
    events: list[redraft.StepEvent] = []
    result = engine.generate("in the end", max_tokens=60, seed=7, on_step=events.append)
    assert result.usage.completion_tokens <= 60
    assert CONFIG.mask_token_id not in result.token_ids
    for event in events:
        revealed = event.tokens_in != CONFIG.mask_token_id
        assert torch.equal(event.tokens_out[revealed], event.tokens_in[revealed])
        # The checkpoint's own rule: half sure, or the surest.
        assert (event.accepted & ~revealed).any() or revealed.all()
    assert (events[0].tokens_in == CONFIG.mask_token_id).all()
    assert max(event.canvas_index for event in events) + 1 == len({event.canvas_index for event in events})
    last = [event for event in events if event.canvas_index == 0][-1]
    assert (last.tokens_out != CONFIG.mask_token_id).all(), "what is committed has no mask"
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
    assert CONFIG.mask_token_id not in filled.token_ids


def test_a_decision_has_probabilities(engine: Engine):
    found = engine.choose("yes or no", {"a": ["yes", "no"], "b": ["the", "one", "other"]}, seed=3)
    for decision in found.answers.values():
        assert sum(decision.probabilities.values()) == pytest.approx(1)
        assert all(0 < probability < 1 for probability in decision.probabilities.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_recording_is_replayed_bit_for_bit(tiny: Path, tmp_path: Path, dtype: Format):
    runs = redraft.RecordingFolder(tmp_path / "runs")
    result = redraft.load(tiny, dtype=dtype).generate("some text", max_tokens=40, seed=7, record=runs)
    (file,) = sorted((tmp_path / "runs").iterdir())
    recording = redraft.Recording.load(file)
    again = redraft.replay(recording, redraft.load(tiny, dtype=dtype))
    assert again.identical
    assert recording.events
    assert result.usage.denoising_steps == len(recording.events)


def test_what_the_family_has_not_is_refused(engine: Engine):
    with pytest.raises(redraft.RequestError):
        engine.generate("text", thinking=True)


@pytest.mark.parametrize("span", [(4, 20), (9, 20), (4, 8)])
def test_text_that_reads_like_the_mask_can_be_edited_from_the_old_text(tiny: Path, span: tuple[int, int]) -> None:
    """Revealed positions stay: none may start as a token that no text has."""
    engine = redraft.load(tiny)
    mask = engine.tokenizer.tokenizer.id_to_token(CONFIG.mask_token_id)
    text = f"the name {mask} the"
    result = engine.edit(text, [span], seed=1, strength=0)
    assert result.text == text[: span[0]] + result.replacements[0] + text[span[1] :]


def test_an_edit_at_the_start_says_what_would_give_it_something_to_stand_behind(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "without-bos")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    engine = redraft.load(folder)
    with pytest.raises(redraft.RequestError, match="give an instruction, or let the first span begin behind"):
        engine.edit("the name", [(0, 3)])
    with pytest.raises(redraft.RequestError, match="give a prefix of one character or more, or a prompt"):
        engine.fill("", "name")
    assert engine.edit("the name", [(0, 3)], instruction="change", seed=1).text.endswith(" name")
