"""A preview shows what is learned and measures a step, and changes nothing that stays."""

import math
from pathlib import Path

import pytest

from redraft.train.text.encoding import Encoder
from redraft.train.text.preview import END, HIDDEN, preview
from tests.models.llama_diffusion.conftest import CONFIG
from tests.train.text.conftest import SOURCE, recipe


def test_what_is_shown_is_what_is_learned(tiny: Path, encoder: Encoder, tmp_path: Path) -> None:
    shown = preview(recipe(tiny).prepare(tmp_path, SOURCE, "letters"), most=100)
    assert {canvas.task for canvas in shown.canvases} == {"fill", "say"}
    for canvas in shown.canvases:
        target = "".join(stretch.text for stretch in canvas.target)
        assert len(canvas.seen) == len(target)
        assert HIDDEN not in target
        # Masks stand where something is learned, and nowhere else.
        learned = "".join(("!" if one.kind in ("learned", "filler") else ".") * len(one.text) for one in canvas.target)
        assert "".join("!" if sign == HIDDEN else "." for sign in canvas.seen) == learned
        if canvas.task == "fill":
            # The key before the first slot is context.
            assert canvas.before.endswith("model\nname")
            assert target.replace(END, "")[0] in canvas.before
        else:
            assert canvas.before.endswith("model\n")
    drawn = [(one.task, one.before, "".join(own.text for own in one.target)) for one in shown.canvases]
    assert len(set(drawn)) == len(drawn), "a record that comes round twice in a step is shown once"
    assert list(tmp_path.iterdir()) == []


def test_costs_are_measured_and_added_up(tiny: Path, tmp_path: Path) -> None:
    made = recipe(tiny).prepare(tmp_path, SOURCE, "letters")
    shown = preview(made)
    again = recipe(tiny).prepare(tmp_path, SOURCE, "letters")
    again.run()
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert f'"loss": {round(shown.first_loss, 6)}' in first
    assert shown.uniform_loss == pytest.approx(math.log(CONFIG.vocab_size))
    assert shown.trained == made.model.count
    assert 0 < shown.tokens <= 256
    assert shown.steps(7, None) == 7
    assert shown.steps(None, 1.0) == max(1, round(3600 / shown.seconds))
    assert shown.steps(1, 1.0) == 1
