"""A bundled adapter is a checkpoint: with its base's weights, wherever these lie, it is what merging makes of the two,
to the rounding of its numbers to eight bits; a base with other weights, or none, is refused by name."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import redraft
from redraft.errors import CheckpointError
from redraft.formats import adapter as adapters
from redraft.models import checkpoint
from redraft.models.digest import weights_digest
from redraft.train.text.adapters import Lora, bundle, merge
from tests.train.text.test_adapters import trained


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny, tmp_path_factory.mktemp("run"), Lora(4, 8.0))[0]


@pytest.fixture(scope="module")
def bundled(adapter: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(adapter, tmp_path_factory.mktemp("bundled") / "mine", str(tiny))


def test_it_has_the_weights_that_merging_makes(adapter: Path, bundled: Path, tmp_path: Path) -> None:
    """By values and by blocks of rows; the eight bits of an adapter's numbers, written out, are what is merged."""
    rounded = shutil.copytree(adapter, tmp_path / "rounded")
    save_file(adapters.read(bundled).values(), rounded / adapters.WEIGHTS_FILE)
    merged = load_file(merge(rounded, tmp_path / "merged") / "model.safetensors")
    found = checkpoint.read(bundled)
    assert not (bundled / "model.safetensors").exists()
    assert merged.keys() == found.tensors.keys()
    with found.stored_weights() as read:
        for name, expected in merged.items():
            torch.testing.assert_close(read(name), expected, atol=1e-6, rtol=1e-5)
            if expected.ndim == 2:
                for rows in (slice(3, 9), torch.tensor([5, 0, 16])):
                    torch.testing.assert_close(read.rows(name, 0, rows), expected[rows], atol=1e-6, rtol=1e-5)


def test_eight_bits_are_near(adapter: Path, bundled: Path) -> None:
    exact, kept = adapters.read(adapter).values(), adapters.read(bundled).values()
    assert exact.keys() == kept.keys()
    for name, matrix in exact.items():
        half_a_step = matrix.abs().amax(1, keepdim=True) / 127 / 2
        assert ((matrix - kept[name]).abs() <= half_a_step * 1.001).all()
    size = (bundled / adapters.WEIGHTS_FILE).stat().st_size
    assert size < 0.6 * (adapter / adapters.WEIGHTS_FILE).stat().st_size


def test_it_loads_and_answers_as_the_merged_one(adapter: Path, bundled: Path, tiny: Path, tmp_path: Path) -> None:
    """In every format of weights, greedily: with the base's own weights what it says differs from both."""
    rounded = shutil.copytree(adapter, tmp_path / "rounded")
    save_file(adapters.read(bundled).values(), rounded / adapters.WEIGHTS_FILE)
    merged = merge(rounded, tmp_path / "merged")
    for dtype in ("float32", "int8"):
        said = []
        for folder in (merged, bundled, tiny):
            with redraft.load(folder, dtype=dtype, pack_folder=None) as engine:
                said.append(engine.score("the name is", "some letters").log_likelihood)
        assert said[0] == pytest.approx(said[1], abs=1e-3)
        assert said[0] != pytest.approx(said[2], abs=1e-3)


def test_every_file_that_decides_is_in_its_digest(bundled: Path, tiny: Path, tmp_path: Path) -> None:
    first = weights_digest(checkpoint.read(bundled))
    for changed in ("adapter_config.json", "adapter_model.safetensors", "base"):
        own = shutil.copytree(bundled, tmp_path / changed)
        config = json.loads((own / adapters.CONFIG_FILE).read_text())
        if changed == "base":
            base = shutil.copytree(tiny, tmp_path / "other")
            weights = load_file(base / "model.safetensors")
            weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
            save_file(weights, base / "model.safetensors")
            config["base_model_name_or_path"] = str(base)
        elif changed == "adapter_config.json":
            config["lora_alpha"] *= 2
        else:
            kept = load_file(own / changed)
            next(value for value in kept.values() if value.dtype == torch.int8)[0, 0] ^= 1
            save_file(kept, own / changed)
        (own / adapters.CONFIG_FILE).write_text(json.dumps(config))
        assert weights_digest(checkpoint.read(own)) != first


def test_the_base_may_lie_in_a_package(
    bundled: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(bundled, tmp_path / "own")
    config = json.loads((own / adapters.CONFIG_FILE).read_text())
    config["base_model_name_or_path"] = "package:letters_of_a_test/weights"
    (own / adapters.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"not installed; install it with: .*--no-deps letters-of-a-test"):
        checkpoint.read(own)
    package = tmp_path / "site" / "letters_of_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('a package that is only read from must not be run')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(CheckpointError, match="the package is installed, and has no weights"):
        checkpoint.read(own)
    shutil.copytree(tiny, package / "weights")
    with redraft.load(own) as engine:
        assert engine.score("a", "b").log_likelihood < 0
    assert "letters_of_a_test" not in sys.modules


def test_a_base_with_other_weights_is_refused(adapter: Path, tiny: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight of .* is not that of"):
        bundle(adapter, tmp_path / "out", str(other))
    del weights["model.norm.weight"]
    save_file(weights, other / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no tensor model\.norm\.weight"):
        bundle(adapter, tmp_path / "out", str(other))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("peft_type", "LOHA", "describes no LoRA"),
        ("use_dora", True, "use_dora is not supported"),
        ("rank_pattern", {"q_proj": 8}, "rank_pattern is not supported"),
        ("base_model_name_or_path", None, "does not name its base"),
        ("trainable_token_indices", {}, "embed_tokens.* has no place"),
    ],
)
def test_a_kind_of_adapter_that_is_not_read_is_named(
    bundled: Path, tmp_path: Path, key: str, value: object, words: str
) -> None:
    own = shutil.copytree(bundled, tmp_path / "own")
    config = json.loads((own / adapters.CONFIG_FILE).read_text()) | {key: value}
    (own / adapters.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read(own)


def test_a_kind_of_adapter_that_does_not_load_is_merged_all_the_same(adapter: Path, tiny: Path, tmp_path: Path) -> None:
    """Rank-stabilised LoRA divides by the root of the rank, 2 here, where LoRA divides by the rank, 4."""
    own = shutil.copytree(adapter, tmp_path / "own")
    config = json.loads((own / adapters.CONFIG_FILE).read_text()) | {"use_rslora": True}
    (own / adapters.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="use_rslora is not supported; merge such an adapter"):
        bundle(own, tmp_path / "out", str(tiny))
    assert not (tmp_path / "out").exists()
    name = "model.layers.0.mlp.up_proj.weight"
    before, once, twice = (
        load_file(folder / "model.safetensors")[name]
        for folder in (tiny, merge(adapter, tmp_path / "plain"), merge(own, tmp_path / "stabilised"))
    )
    torch.testing.assert_close(twice - before, 2 * (once - before), atol=1e-6, rtol=1e-4)


def test_an_adapter_of_another_shape_is_named(bundled: Path, tmp_path: Path) -> None:
    own = shutil.copytree(bundled, tmp_path / "own")
    kept = load_file(own / adapters.WEIGHTS_FILE)
    name = next(name for name in kept if name.endswith("q_proj.lora_B.weight"))
    kept[name] = kept[name][:-1]
    save_file(kept, own / adapters.WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"q_proj\.weight has shape"):
        checkpoint.read(own)
