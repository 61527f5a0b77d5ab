"""``redraft pull``, ``list``, ``rm``, ``info`` of a hub id: the hub's real client, against a hub on a real socket."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redraft.models import checkpoint
from redraft.models.sizing import parameters
from tests.cli.conftest import Run, assert_one_line
from tests.cli.hub import COMMIT, Hub, publish
from tests.quantised_copies import Copy, change_config

NAME = "someone/small"
CONFIG = {"architectures": ["DiffusionGemmaForBlockDiffusion"]}
PUBLISHED = {"config.json", "generation_config.json", "tokenizer.json"}
# What each kind of repository that does not load is called, and what is said to do.
FOREIGN: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "gguf": ({"a-Q4_K_M.gguf": "GGUF", "README.md": "x"}, ("holds GGUF files (a-Q4_K_M.gguf)", "name the file itself")),
    "adapter": (
        {"adapter_config.json": {"base_model_name_or_path": "google/base"}, "adapter_model.safetensors": "x"},
        ("holds an adapter of google/base", "redraft train merge"),
    ),
    "pickled": (
        {"config.json": CONFIG, "pytorch_model.bin": "x"},
        ("pickled PyTorch files", "look for a copy in safetensors"),
    ),
    "flax": ({"config.json": CONFIG, "flax_model.msgpack": "x"}, ("weights for Flax", "look for safetensors")),
    "quantised": (
        {"config.json": {**CONFIG, "quantization_config": {"quant_method": "awq"}}, "model.safetensors": "x"},
        ("quantised by 'awq'", "read are compressed-tensors, modelopt, mlx", "the repository that it was made of"),
    ),
    "quantised in memory": (
        {"config.json": {**CONFIG, "quantization_config": {"quant_method": "bitsandbytes"}}, "model.safetensors": "x"},
        ("quantised by 'bitsandbytes'", "redraft quantize"),
    ),
    "another architecture": (
        {"config.json": {"architectures": ["BertModel"]}, "model.safetensors": "x"},
        ("architecture 'BertModel' is not supported",),
    ),
    "no weights": ({"config.json": CONFIG}, ("its weights are missing",)),
    "no configuration": ({"model.safetensors": "x"}, ("has no config.json",)),
}
WEIGHTS = ("a-Q4_K_M.gguf", "adapter_model.safetensors", "pytorch_model.bin", "flax_model.msgpack", "model.safetensors")


@pytest.fixture
def offline() -> bool:
    return False


def test_a_checkpoint_is_pulled_listed_used_and_removed(
    redraft_here: Run, hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.folders[NAME] = model
    pulled = redraft_here("pull", NAME)
    assert pulled.returncode == 0, pulled.stderr
    folder = Path(pulled.stdout.strip())
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    (listed,) = [row for row in json.loads(redraft_here("list", "--json").stdout) if not row["bundled"]]
    assert (listed["name"], listed["revision"], listed["folder"]) == (NAME, COMMIT, str(folder))
    assert listed["refs"] == ["main"]
    assert NAME in redraft_here("list").stdout
    sent = hub.bytes_of("model.safetensors")
    asked = ("w20 w21", "--max-tokens", 4, "--seed", 1, "--json")
    here, elsewhere = redraft_here("generate", "-m", model, *asked), redraft_here("generate", "-m", NAME, *asked)
    assert json.loads(here.stdout)["token_ids"] == json.loads(elsewhere.stdout)["token_ids"]
    assert hub.bytes_of("model.safetensors") == sent, "what was pulled is not fetched again"
    # A hub that cannot be reached does not matter either.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    alone = redraft_here("generate", "-m", NAME, *asked)
    assert json.loads(alone.stdout)["token_ids"] == json.loads(here.stdout)["token_ids"]
    removed = redraft_here("rm", NAME, "--yes")
    assert removed.returncode == 0, removed.stderr
    assert not folder.exists()
    assert all(row["bundled"] for row in json.loads(redraft_here("list", "--json").stdout))
    assert_one_line(redraft_here("rm", NAME, "--yes"), "is not in the hub's cache")


def test_info_of_a_hub_id_reads_the_configuration_and_headers_alone(redraft_here: Run, hub: Hub, model: Path) -> None:
    hub.folders[NAME] = model
    shown = redraft_here("info", NAME, "--json")
    assert shown.returncode == 0, shown.stderr
    facts = json.loads(shown.stdout)
    found = checkpoint.read(model)
    assert (facts["model"]["parameters"], facts["model"]["active per token"]) == parameters(found)
    assert facts["checkpoint"]["revision"] == COMMIT
    weights = (model / "model.safetensors").stat().st_size
    assert facts["checkpoint"]["to be fetched"] > weights
    assert hub.bytes_of("model.safetensors") < weights
    assert hub.bytes_of("tokenizer.json") == 0
    local = json.loads(redraft_here("info", model, "--json").stdout)
    assert all(facts[part] == local[part] for part in ("model", "weights in memory, float32", "not supported"))


@pytest.mark.slow
def test_info_of_a_quantised_copy_on_the_hub_is_that_of_its_folder(
    redraft_here: Run, hub: Hub, copy_of: Callable[[str], Copy], tmp_path: Path
) -> None:
    """From headers alone, in which shapes that are stored as numbers are not; and from the file beside config.json."""
    published = Path(shutil.copytree(copy_of("W4A16").folder, tmp_path / "w4a16"))
    beside = Path(shutil.copytree(copy_of("modelopt NVFP4").folder, tmp_path / "nvfp4"))
    change_config(beside, lambda config: config.pop("quantization_config"))
    own = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["*mlp*"]}}
    (beside / "hf_quant_config.json").write_text(json.dumps(own))
    for folder, label in ((published, "INT4, groups of 32"), (beside, "NVFP4")):
        name = f"someone/{folder.name}"
        hub.folders[name], hub.sent = folder, []
        shown = redraft_here("info", name, "--json")
        assert shown.returncode == 0, shown.stderr
        facts, local = json.loads(shown.stdout), json.loads(redraft_here("info", folder, "--json").stdout)
        title = "quantised weights, as computed (auto)"
        assert facts[title] == local[title]
        assert facts[title][label].endswith("% of the weights dequantised to float32")
        assert facts["model"] == local["model"]
        assert hub.bytes_of("model.safetensors") < (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_does_not_load_is_judged_before_weights_are_fetched(
    redraft_here: Run, hub: Hub, tmp_path: Path, kind: str
) -> None:
    files, words = FOREIGN[kind]
    publish(hub, NAME, tmp_path / "published", files)
    for verb in (("pull", NAME), ("generate", "hi", "-m", NAME), ("info", NAME), ("plan", NAME)):
        failed = redraft_here(*verb)
        for word in words:
            assert_one_line(failed, word)
        assert NAME in failed.stderr
    assert not any(hub.bytes_of(name) for name in WEIGHTS)


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind != "no configuration"])
def test_a_folder_of_the_same_is_judged_alike(redraft_here: Run, hub: Hub, tmp_path: Path, kind: str) -> None:
    files, words = FOREIGN[kind]
    publish(hub, NAME, tmp_path / "published", files)
    failed = redraft_here("info", tmp_path / "published")
    for word in words:
        assert_one_line(failed, word)


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("someone/else", None, "the hub has no such model"),
        ("someone/closed", None, "is gated: accept its terms"),
        (NAME, "v9", "has no such revision"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    redraft_here: Run, hub: Hub, model: Path, name: str, revision: str | None, words: str
) -> None:
    hub.folders |= {NAME: model, "someone/closed": model}
    hub.gated.add("someone/closed")
    more = () if revision is None else ("--revision", revision)
    assert_one_line(redraft_here("pull", name, *more), words)
    assert_one_line(redraft_here("generate", "hi", "-m", name, *more), words)


def test_a_revision_is_for_the_hub(redraft_here: Run, hub: Hub, model: Path) -> None:
    hub.folders[NAME] = model
    assert redraft_here("pull", NAME, "--revision", "v1").returncode == 0
    (row,) = [row for row in json.loads(redraft_here("list", "--json").stdout) if not row["bundled"]]
    assert row["refs"] == ["v1"]
    assert_one_line(redraft_here("rm", NAME, "--revision", "main", "--yes"), "there are")
    assert_one_line(redraft_here("info", model, "--revision", "v1"), "is for models of the hub")


def test_a_full_disk_is_told_before_weights_are_fetched(
    redraft_here: Run, hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.folders[NAME] = model
    usage = type("usage", (), {"total": 10, "used": 9, "free": 1})
    monkeypatch.setattr("redraft.room.shutil.disk_usage", lambda path: usage)
    assert_one_line(redraft_here("pull", NAME), "make room")
    assert not hub.bytes_of("model.safetensors")


def test_removing_asks_first(redraft_here: Run, hub: Hub, model: Path) -> None:
    hub.folders[NAME] = model
    before = len(json.loads(redraft_here("list", "--json").stdout))
    assert redraft_here("pull", NAME).returncode == 0
    kept = redraft_here("rm", NAME, stdin=b"n\n")
    assert kept.returncode == 1
    assert "nothing was removed" in kept.stderr
    assert len(json.loads(redraft_here("list", "--json").stdout)) == before + 1


def test_a_git_lfs_pointer_is_told_apart_from_a_file(redraft_here: Run, tmp_path: Path, model: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        for path in model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / name).write_text(pointer)
        assert_one_line(redraft_here("generate", "hi", "-m", folder), f"{name} is a Git LFS pointer")
    (tmp_path / "model.gguf").write_text(pointer)
    assert_one_line(redraft_here("info", tmp_path / "model.gguf"), "is a Git LFS pointer")


@pytest.mark.slow
def test_the_environment_says_where_the_hub_is(running: Hub, model: Path, tmp_path: Path) -> None:
    running.folders, running.gated = {NAME: model}, set()
    environment = {**os.environ, "HF_ENDPOINT": running.url, "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "redraft", "pull", NAME]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.parametrize("file", ["missing.safetensors", "../outside.safetensors"])
def test_an_index_that_names_what_is_not_there_is_told(redraft_here: Run, hub: Hub, tmp_path: Path, file: str) -> None:
    index = {"weight_map": {"model.decoder.norm.weight": file}}
    publish(hub, NAME, tmp_path / "published", {"config.json": CONFIG, "model.safetensors.index.json": index})
    assert_one_line(redraft_here("info", NAME), f"names {file!r}, which the repository does not have")
