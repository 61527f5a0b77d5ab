"""``redraft info``: what a folder holds, from its headers alone."""

import json

import pytest
import torch

from redraft.cli import printing
from redraft.kernels.library import status
from redraft.models import checkpoint
from redraft.models.sizing import parameters
from tests.models.llama_diffusion.conftest import CONFIG, write
from tests.random_checkpoint import random_checkpoint


def test_json_has_size_memory_and_defaults(redraft_here, model):
    shown = redraft_here("info", model, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    facts = json.loads(shown.stdout)
    total, active = parameters(checkpoint.read(model))
    assert (facts["model"]["parameters"], facts["model"]["active per token"]) == (total, active)
    assert facts["model"]["layers"] == "3 (1 full, 2 sliding with window 8)"
    assert sum(facts["weights in memory, float32"].values()) == 2 * 4 * total, "the whole, and its parts"
    assert facts["sampling defaults"]["denoising steps, at most"] == 4
    assert facts["not supported"]["vision tensors, not loaded"] > 0


def test_kernels_in_use_and_why(redraft_here, model):
    kernels = json.loads(redraft_here("info", model, "--json").stdout)["kernels"]
    now = status()
    assert (kernels["in use"], kernels["because"]) == (now.tier, now.reason)
    assert kernels["threads"] == (now.threads or "torch's")


def test_how_tokens_are_drawn_one_by_one_and_what_is_not_honoured(redraft_here, tmp_path):
    generation = {"temperature": 0.6, "top_k": 64, "do_sample": True, "typical_p": 0.9}
    folder = random_checkpoint(tmp_path / "model", generation=generation)
    facts = json.loads(redraft_here("info", folder, "--json").stdout)
    assert facts["sampling defaults"]["tokens one by one"] == "temperature 0.6, top_k 64"
    assert "typical_p 0.9" in facts["not supported"]["of generation_config.json"]


def test_text_says_the_same_as_json_in_units_and_at_80_columns(redraft_here, model):
    facts = json.loads(redraft_here("info", model, "--json").stdout)
    text = redraft_here("info", model).stdout
    paths = (facts["checkpoint"]["folder"], facts["defaults of commands"]["settings file"])
    assert all(len(line) <= 80 for line in text.splitlines() if not line.endswith(paths))
    # What is broken over lines, put together again.
    rows = " ".join(text.split())
    for title, own in facts.items():
        assert title in rows
        for name, value in own.items():
            exact = not isinstance(value, int) or value < 1000
            shown = str(value) if exact and "memory" not in title and "dtype" not in title else ""
            assert " ".join(f"{name} {shown}".split()) in rows, name
    total = facts["weights in memory, float32"]["all"]
    assert f"all {total / 1000:.0f} kB" in rows
    assert "82.7" not in text, "what another model does says nothing of this one"


def test_what_becomes_of_a_quantised_copy_is_said_at_80_columns(redraft_here, copy_of):
    """Names that are wider than their column, too."""
    folder = copy_of("W4A16 with zero points").folder
    text = redraft_here("info", folder).stdout
    assert all(len(line) <= 80 for line in text.splitlines() if str(folder) not in line and "settings" not in line)
    rows = " ".join(text.split())
    assert "quantised weights, as computed (auto) INT4, groups of 32, with zero points" in rows
    assert "of the weights dequantised to float32 not quantised" in rows


def test_the_mask_and_how_it_accepts_are_said_in_words(redraft_here, tmp_path):
    folder = write(tmp_path / "llama")
    sampling = json.loads(redraft_here("info", folder, "--json").stdout)["sampling defaults"]
    assert sampling["accepts"] == "positions whose likeliest token has probability 0.5 or more, and always the surest"
    assert sampling["mask token"] == f"<unused{CONFIG.mask_token_id}> (id {CONFIG.mask_token_id})"
    assert sampling["end tokens"] == "<eos> (id 1)"


@pytest.mark.parametrize(
    ("count", "size", "quantity"),
    [
        (0, "0 bytes", "0"),
        (1, "1 byte", "1"),
        (999, "999 bytes", "999"),
        (1000, "1.0 kB", "1,000"),
        (999_999, "1.0 MB", "999,999"),
        (51_600_000_000, "52 GB", "51.6 billion"),
    ],
)
def test_units(count, size, quantity):
    assert (printing.size(count), printing.quantity(count)) == (size, quantity)


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
