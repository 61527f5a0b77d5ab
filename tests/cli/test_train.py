"""``redraft train`` and ``redraft evaluate`` as a user runs them, with a real kill in the middle."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Run

TRAIN = ["train", "sudoku", "--steps", "3", "--batch", "2", "--pool", "8", "--save-every", "1", "--no-compile"]
TRAIN += ["--evaluate-every", "3", "--evaluate-count", "1", "--threads", "1"]
# The process ends itself when it is about to save for the second time: an update is lost, and nothing is tidied up.
KILLED = """
import os, signal, sys
from redraft.cli.main import main
from redraft.train.trainer import Trainer

save = Trainer._save

def save_or_die(trainer, trajectories):
    if trainer._step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(trainer, trajectories)

Trainer._save = save_or_die
sys.argv = {arguments!r}
main()
"""


@pytest.mark.slow
def test_a_killed_run_is_continued_by_the_same_command_to_the_same_checkpoint(
    commands: Path, redraft: Run, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = redraft(*TRAIN, "--out", whole)
    assert done.returncode == 0, done.stderr
    code = KILLED.format(arguments=["redraft", *TRAIN, "--out", str(killed)])
    subprocess.run([commands / "python", "-c", code], capture_output=True, timeout=600)
    assert (killed / "state.pt").exists()
    assert not (killed / "checkpoint" / "model.safetensors").exists()
    done = redraft(*TRAIN, "--out", killed)
    assert done.returncode == 0, done.stderr
    one, other = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (whole, killed))
    assert all((one[name] == other[name]).all() for name in one)
    assert (killed / "curves.png").exists()

    limits = ["--max-denoising-steps", "1", "--max-denoising-steps", "2"]
    scores = redraft("evaluate", "sudoku", "--model", whole / "checkpoint", "--count", "1", "--json", "-", *limits)
    assert scores.returncode == 0, scores.stderr
    rows = [json.loads(line) for line in scores.stdout.splitlines()]
    assert [(row["kind"], row["max_denoising_steps"]) for row in rows] == [
        (kind, steps) for kind in ("36 or more givens", "24 to 30 givens") for steps in (1, 2)
    ]
    assert all(row["mean_steps"] <= row["max_denoising_steps"] and row["puzzles"] == 1 for row in rows)


def test_an_unknown_recipe_is_a_usage_error(redraft_here: Run) -> None:
    done = redraft_here("train", "chess")
    assert done.returncode == 2
    assert "sudoku" in done.stderr


def test_every_recipe_shows_an_example(redraft_here: Run) -> None:
    for name, example in [("data", "train data notes.jsonl"), ("pocket", "train pocket"), ("merge", "train merge")]:
        shown = redraft_here("train", name, "--help")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert f"Example: redraft {example}" in shown.stdout
