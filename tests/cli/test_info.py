"""``redraft info``: what a folder holds, from its headers alone."""

import json

import pytest
import torch

from redraft.kernels.library import status
from redraft.models import checkpoint
from redraft.models.sizing import parameters
from tests.random_checkpoint import random_checkpoint


def test_json_has_size_memory_and_defaults(redraft_here, model):
    shown = redraft_here("info", model, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    facts = json.loads(shown.stdout)
    total, active = parameters(checkpoint.read(model))
    assert (facts["model"]["parameters"], facts["model"]["active per token"]) == (total, active)
    assert facts["model"]["layers"] == "3 (1 full, 2 sliding with window 8)"
    assert sum(facts["memory of the weights as computed, bytes"].values()) == 4 * total
    assert facts["sampling defaults"]["denoising steps at most"] == 4
    assert facts["not supported"]["vision tensors, not loaded"] > 0


def test_kernels_in_use_and_why(redraft_here, model):
    kernels = json.loads(redraft_here("info", model, "--json").stdout)["kernels"]
    now = status()
    assert (kernels["in use"], kernels["because"]) == (now.tier, now.reason)
    assert kernels["threads"] == (now.threads or "torch's")


def test_text_says_the_same_as_json(redraft_here, model):
    facts = json.loads(redraft_here("info", model, "--json").stdout)
    text = redraft_here("info", model).stdout
    for title, rows in facts.items():
        assert title in text
        for name, value in rows.items():
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            assert any(line.strip().startswith(name) and line.endswith(shown) for line in text.splitlines()), name


@pytest.mark.parametrize(("dtype", "stored"), [(torch.bfloat16, "bfloat16"), (torch.float32, "float32")])
def test_stored_and_computed_dtype_are_told_apart(redraft_here, tmp_path, dtype, stored):
    folder = random_checkpoint(tmp_path, dtype=dtype)
    facts = json.loads(redraft_here("info", folder, "--json").stdout)["model"]
    assert (facts["stored as"], facts["computed as (auto)"]) == (stored, "float32")


def test_weights_are_not_loaded(redraft_here, tmp_path):
    """Numbers that no loaded model could have do not disturb it; a file that is cut short does."""
    folder = random_checkpoint(tmp_path)
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.seek(size - 4096)
        file.write(b"\xff" * 4096)
    assert redraft_here("info", folder).returncode == 0
    with weights.open("r+b") as file:
        file.truncate(size - 4096)
    assert redraft_here("info", folder).returncode == 1


def test_missing_model_is_one_line(redraft_here):
    failed = redraft_here("info", "no-such-model")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("redraft: no checkpoint 'no-such-model'")
    assert failed.stderr.count("\n") == 1


@pytest.mark.slow
def test_in_a_process(redraft, model):
    shown = redraft("info", model, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["checkpoint"]["folder"] == str(model)
