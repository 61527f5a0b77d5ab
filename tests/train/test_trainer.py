"""A run is its seed: killed and continued, it ends as if nothing had happened."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redraft import RedraftError
from redraft.train.metrics import Metrics
from redraft.train.objective import ObjectiveConfig
from redraft.train.optimizer import OptimizerConfig
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.export import DEFAULTS, export
from redraft.train.recipes.sudoku.model import SudokuShape
from redraft.train.recipes.sudoku.recipe import SudokuRecipe

# What training imports besides, torch's compiler and matplotlib, takes longer than any of these.
pytestmark = pytest.mark.slow

TINY = SudokuShape(hidden_size=48, layers=2, heads=3, head_dim=32, dense_width=16, expert_width=8)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training does here; the test that looks at the curves has them drawn."""
    if request.function is not test_training_lowers_the_loss_and_draws_it:
        monkeypatch.setattr(Metrics, "draw", lambda *_: None)


def recipe(steps: int = 4, seed: int = 0, batch: int = 2) -> SudokuRecipe:
    return SudokuRecipe(
        steps=steps,
        seed=seed,
        batch=batch,
        pool=20,
        shape=TINY,
        objective=ObjectiveConfig(layout.TARGET_VOCABULARY, steps_per_update=2, max_age=4),
    )


def weights(folder: Path, job: SudokuRecipe, die_at: int | None = None) -> dict[str, torch.Tensor]:
    def on_progress(step: int, _: Mapping[str, float]) -> None:
        if step == die_at:
            raise KeyboardInterrupt

    model = job.train(folder, compile_model=False, save_every=2, log_every=1, on_progress=on_progress)
    return model.state_dict()


def logged(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_a_run_killed_between_two_saves_and_continued_gives_the_same_weights_and_log(tmp_path: Path) -> None:
    whole = weights(tmp_path / "whole", recipe())
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "killed", recipe(), die_at=3)
    continued = weights(tmp_path / "killed", recipe())
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")
    assert [row["step"] for row in logged(tmp_path / "killed")] == [1, 2, 3, 4]


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path) -> None:
    """With learning rates of nearly nothing the weights stay those of the checkpoint."""
    first = recipe(steps=1).train(tmp_path / "first", compile_model=False)
    export(first, tmp_path / "checkpoint", DEFAULTS, torch.float32)
    still = OptimizerConfig(matrix_lr=1e-9, other_lr=1e-9, weight_decay=0.0)
    job = replace(recipe(steps=1, seed=2), start_from=tmp_path / "checkpoint", optimizer=still)
    second = weights(tmp_path / "second", job)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=0, msg=name)


def test_another_seed_is_another_run_and_cannot_continue_this_one(tmp_path: Path) -> None:
    first = weights(tmp_path / "a", recipe(steps=1))
    second = weights(tmp_path / "b", recipe(steps=1, seed=1))
    assert not torch.equal(first["norm.weight"], second["norm.weight"])
    with pytest.raises(RedraftError, match="seed 0, not 1"):
        weights(tmp_path / "a", recipe(steps=2, seed=1))


def test_training_lowers_the_loss_and_draws_it(tmp_path: Path) -> None:
    weights(tmp_path, recipe(steps=20, batch=4))
    losses = [row["loss"] for row in logged(tmp_path)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(tmp_path: Path) -> None:
    weights(tmp_path, recipe(steps=1))
    state = torch.load(tmp_path / "state.pt", weights_only=False)
    state["model"]["norm.weight"][0] = float("nan")
    torch.save(state, tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(RedraftError, match=r"loss became nan at step 2.*state\.pt"):
        weights(tmp_path, recipe(steps=2))
    assert (tmp_path / "state.pt").read_bytes() == before
