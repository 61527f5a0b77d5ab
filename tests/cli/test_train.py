"""``redraft train`` and ``redraft evaluate`` as a user runs them, with a real kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

COMMAND = [sys.executable, "-c", "from redraft.cli.main import main; main()"]
TRAIN = [
    *COMMAND,
    "train",
    "sudoku",
    "--steps",
    "10",
    "--batch",
    "2",
    "--pool",
    "20",
    "--save-every",
    "2",
    "--no-compile",
]
TRAIN += ["--evaluate-every", "10", "--threads", "1"]


def train(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([*TRAIN, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_is_continued_by_the_same_command_to_the_same_checkpoint(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    killed = train(tmp_path / "killed")
    deadline = time.monotonic() + 240
    while not (tmp_path / "killed" / "state.pt").exists():
        assert killed.poll() is None, "the run ended before it saved a state"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "checkpoint" / "model.safetensors").exists()
    continued = train(tmp_path / "killed")
    for process in (whole, continued):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    one, other = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("whole", "killed"))
    assert all((one[name] == other[name]).all() for name in one)
    assert (tmp_path / "killed" / "curves.png").exists()

    limits = ["--max-denoising-steps", "2", "--max-denoising-steps", "3"]
    model = str(tmp_path / "whole" / "checkpoint")
    scores = subprocess.run(
        [*COMMAND, "evaluate", "sudoku", "--model", model, "--count", "2", "--json", *limits],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in scores.stdout.splitlines()]
    assert [(row["kind"], row["max_denoising_steps"]) for row in rows] == [
        (kind, steps) for kind in ("36 or more givens", "24 to 30 givens") for steps in (2, 3)
    ]
    assert all(row["mean_steps"] <= row["max_denoising_steps"] and row["puzzles"] == 2 for row in rows)


@pytest.mark.slow
def test_an_unknown_recipe_is_a_usage_error() -> None:
    done = subprocess.run([*COMMAND, "train", "chess"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "sudoku" in done.stderr
