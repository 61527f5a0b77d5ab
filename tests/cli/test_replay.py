"""``redraft generate --record`` and ``redraft replay`` as a user meets them."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.cli.terminal import run_in_terminal, screen

PROMPT = "w20 w21 w22"


@pytest.fixture
def record(redraft_here, model, tmp_path):
    """Record a request and return its file."""
    runs = tmp_path / "runs"

    def run(*arguments: object) -> Path:
        before = set(runs.iterdir()) if runs.exists() else set()
        done = redraft_here("generate", PROMPT, "-m", model, "--max-tokens", 20, "--record", runs, *arguments)
        assert done.returncode == 0, done.stderr
        (path,) = set(runs.iterdir()) - before
        return path

    return run


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--dtype", "int8", "--temperature", 0]])
def test_a_replay_is_identical(redraft_here, record, arguments):
    done = redraft_here("replay", record("--seed", 7, *arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "identical: 12 denoising steps, every token, every entropy to the last bit, and what came of them\n"
    )


def test_several_recordings_are_replayed_one_after_the_other(redraft_here, record):
    first, second = record("--seed", 7), record("--seed", 8)
    done = redraft_here("replay", first, second)
    assert done.returncode == 0, done.stderr
    named = [line for line in done.stdout.splitlines() if not line.startswith("identical: ")]
    assert named == [f"{first}:", f"{second}:"]
    both = json.loads(redraft_here("replay", first, second, "--json").stdout)
    assert [one["identical"] for one in both] == [True, True]
    piped = redraft_here("replay", "-", stdin=first.read_bytes())
    assert (piped.returncode, piped.stdout.startswith("identical: ")) == (0, True)


def test_fill_and_edit_are_recorded_too(redraft_here, letters, tmp_path):
    text, runs = tmp_path / "text.txt", tmp_path / "runs"
    text.write_text("the cat is here")
    abc = ["--hole-regex", "[abc]{3}", "-m", letters, "--record", runs]
    assert redraft_here("edit", text, "--span", "4:7", *abc).returncode == 0
    assert redraft_here("fill", "--prefix", "the ", "--suffix", " is here", *abc).returncode == 0
    files = list(runs.iterdir())
    assert len(files) == 2
    assert [redraft_here("replay", file).returncode for file in files] == [0, 0]


def test_another_format_is_named_and_where_it_parts(redraft_here, record):
    done = redraft_here("replay", record("--seed", 7), "--dtype", "int4")
    assert done.returncode == 1
    assert "differs   recorded   replayed" in done.stdout
    assert "dtype     float32    int4" in done.stdout
    assert "canvas 0, step 1" in done.stdout
    assert "nats" in done.stdout


def test_json(redraft_here, record):
    path = record("--seed", 7)
    same = json.loads(redraft_here("replay", path, "--json").stdout)
    assert same["identical"]
    assert same["first"] is None
    assert same["denoising_steps"] == [12, 12]
    done = redraft_here("replay", path, "--json", "--dtype", "int4")
    other = json.loads(done.stdout)
    assert (done.returncode, other["identical"]) == (1, False)
    assert other["parameters"] == {"dtype": ["float32", "int4"]}
    assert other["largest_entropy_difference"] > 0
    parting = other["in_tokens"] or other["first"]
    assert len(parting["a"]["entropy"]) == len(parting["positions"])


def test_another_model_is_refused_unless_asked_for(redraft_here, record, checkpoint_of):
    generation = {"max_denoising_steps": 4, "sampler_config": {"entropy_bound": 3.0}, "eos_token_id": []}
    other = checkpoint_of(generation=generation, seed=1)
    path = record("--seed", 7)
    refused = redraft_here("replay", path, "-m", other)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "is not the model of the recording" in refused.stderr
    assert "--any-model" in refused.stderr
    done = redraft_here("replay", path, "-m", other, "--any-model")
    assert done.returncode == 1
    assert "they part at canvas 0, step 1" in done.stdout
    assert "model.weights" in done.stdout


def test_a_model_that_was_moved_is_found_with_model(redraft_here, model, tmp_path):
    old = Path(shutil.copytree(model, tmp_path / "old"))
    redraft_here("generate", PROMPT, "-m", old, "--max-tokens", 8, "--record", tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    old.rename(tmp_path / "new")
    lost = redraft_here("replay", path)
    assert lost.returncode == 1
    assert "--model tells where it is now" in lost.stderr
    assert redraft_here("replay", path, "-m", tmp_path / "new").returncode == 0


def test_a_prompt_that_was_not_kept_is_asked_for(redraft_here, record):
    path = record("--seed", 7, "--no-record-prompt")
    lost = redraft_here("replay", path)
    assert (lost.returncode, lost.stdout) == (1, "")
    assert "without its prompt; give it with --prompt" in lost.stderr
    assert redraft_here("replay", path, "--prompt", PROMPT).returncode == 0
    wrong = redraft_here("replay", path, "--prompt", PROMPT, "--raw")
    assert wrong.returncode == 1
    assert "not the recorded one" in wrong.stderr


def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_looked_for(redraft_here, tmp_path):
    (tmp_path / "runs").write_text("")
    failed = redraft_here("generate", PROMPT, "-m", "no-such-model", "--record", tmp_path / "runs")
    assert failed.returncode == 1
    assert "recordings cannot be written to" in failed.stderr


def test_a_file_that_is_no_recording_is_told_in_one_line(redraft_here, model):
    failed = redraft_here("replay", model / "config.json")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "is no recording, or is damaged" in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_watching_draws_the_run_again(commands, record):
    environment = {**os.environ, "CI": "1", "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    code, written = run_in_terminal(
        [str(commands / "redraft"), "replay", str(record("--seed", 7)), "--watch"], environment
    )
    assert code == 0
    assert "canvas 2, step 4 of at most 4," in written
    assert any(line.startswith("identical: 12 denoising steps") for line in screen(written))
