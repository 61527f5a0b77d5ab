"""``redraft diff`` as a user meets it."""

import json
import shutil
from pathlib import Path

import pytest

PROMPT = "w20 w21 w22"


@pytest.fixture
def record(redraft_here, model, tmp_path):
    runs = tmp_path / "runs"

    def run(*arguments: object, checkpoint: Path = model) -> Path:
        before = set(runs.iterdir()) if runs.exists() else set()
        done = redraft_here("generate", PROMPT, "-m", checkpoint, "--max-tokens", 20, "--record", runs, *arguments)
        assert done.returncode == 0, done.stderr
        (path,) = set(runs.iterdir()) - before
        return path

    return run


def test_runs_of_one_request_are_identical(redraft_here, record):
    done = redraft_here("diff", record("--seed", 7), record("--seed", 7))
    assert done.returncode == 0
    assert done.stdout.startswith("identical: 12 denoising steps")


def test_another_seed_is_named_with_the_tokens_and_the_texts(redraft_here, record):
    a, b = record("--seed", 7), record("--seed", 8)
    done = redraft_here("diff", a, b)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:3:2]] == [["differs", "A", "B"], ["seed", "7", "8"]]
    assert "they part at canvas 0, step 1, in what the model saw" in done.stdout
    assert "'w" in done.stdout, "tokens are shown by what they say"
    assert {"--- A", "+++ B"} <= set(lines)


def test_a_step_limit_parts_runs_at_once(redraft_here, record):
    done = redraft_here("diff", record("--seed", 7), record("--seed", 7, "--max-denoising-steps", 3))
    assert done.returncode == 1
    assert "max_denoising_steps   4   3" in done.stdout
    assert "they part at canvas 0, step 1, in the samples and the next canvas" in done.stdout


def test_a_shorter_run_ends_before_the_longer(redraft_here, record):
    done = redraft_here("diff", record("--seed", 7), record("--seed", 7, "--max-tokens", 8))
    assert done.returncode == 1
    assert "B ends before canvas 1, step 1, which A has; until there they are the same" in done.stdout


def test_json(redraft_here, record):
    a, b = record("--seed", 7), record("--seed", 8)
    found = json.loads(redraft_here("diff", a, b, "--json").stdout)
    assert found["parameters"] == {"seed": [7, 8]}
    parting = found["in_tokens"]
    assert (parting["canvas"], parting["attempt"], parting["step"]) == (0, 0, 1)
    assert parting["positions"] == list(range(8))
    assert parting["a"]["tokens_in"] != parting["b"]["tokens_in"]
    assert "text" in found["answer"]


def test_without_the_model_tokens_are_numbers_until_told_where_it_is(redraft_here, record, model, tmp_path):
    moved = Path(shutil.copytree(model, tmp_path / "model"))
    a, b = record("--seed", 7, checkpoint=moved), record("--seed", 8, checkpoint=moved)
    shutil.rmtree(moved)
    shown = redraft_here("diff", a, b)
    assert shown.returncode == 1
    assert "'w" not in shown.stdout
    assert "'<" in shown.stdout
    assert "'w" in redraft_here("diff", a, b, "-m", model).stdout
    missing = redraft_here("diff", a, b, "-m", "no-such-model")
    assert "no checkpoint 'no-such-model' on this machine" in missing.stderr
