"""What is trained changes, all else stays; what is exported is what was trained, in formats that others read."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redraft.errors import CheckpointError, RedraftError
from redraft.models import checkpoint
from redraft.models.checkpoint import Checkpoint
from redraft.train.text.adapters import Adaptation, Full, LastLayers, Lora, TrainedModel, merge
from redraft.train.text.batch import Batch, pack
from redraft.train.text.encoding import Encoder
from redraft.train.text.objective import MaskObjective, ObjectiveConfig
from redraft.train.text.optimizer import OptimizerConfig
from tests.train.text.conftest import SOURCE, recipe, several


def trained(tiny: Path, folder: Path, adaptation: Adaptation, **more: Any) -> tuple[Path, TrainedModel]:
    run = recipe(tiny, 3, adaptation=adaptation, **more).prepare(folder, SOURCE, "letters")
    return run.run(), run.model


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def batch_of(encoder: Encoder) -> Batch:
    objective = MaskObjective(ObjectiveConfig(), encoder.mask_token, 4096)
    return pack(objective.examples(encoder.encode(several()), 0, 0.0))


@torch.no_grad()
def logits(folder: Path, batch: Batch) -> Tensor:
    model: Any = checkpoint.read(folder).load("float32")
    return model.logits(model.trees(batch.tokens, batch.positions, batch.visible))


def test_full_training_changes_all_but_the_embedding_and_of_that_the_masks_row(
    tiny: Path, found: Checkpoint, tmp_path: Path
) -> None:
    folder, _ = trained(tiny, tmp_path, Full())
    before, after = (load_file(path / "model.safetensors") for path in (tiny, folder))
    assert changed(before, after) == set(before)
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(-1).nonzero()[:, 0]
    assert rows.tolist() == [found.config.mask_token_id]  # type: ignore[attr-defined]
    assert checkpoint.read(folder).defaults == found.defaults
    everything, _ = trained(tiny, tmp_path / "all", Full(embeddings=True))
    after = load_file(everything / "model.safetensors")
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(-1)
    # Of tokens that nothing speaks for the gradient is exactly zero.
    assert rows.float().mean() > 0.5


def test_the_last_layers_are_trained_alone(tiny: Path, tmp_path: Path) -> None:
    folder, model = trained(tiny, tmp_path, LastLayers(1))
    before, after = (load_file(path / "model.safetensors") for path in (tiny, folder))
    expected = {name for name in before if name.startswith(("model.layers.1.", "model.norm."))}
    assert changed(before, after) == expected
    assert model.count == sum(before[name].numel() for name in expected)
    with pytest.raises(RedraftError, match="the last 9 layers cannot be trained: the model has 2"):
        trained(tiny, tmp_path / "more", LastLayers(9))


def test_in_bfloat16_nothing_is_rounded_that_is_not_trained_nor_what_training_begins_with(
    tiny: Path, tmp_path: Path
) -> None:
    """With a rate that changes nothing, all that is exported is what was there, to the last bit of float32."""
    still = OptimizerConfig(learning_rate=1e-30)
    for name, adaptation in (("full", Full()), ("last", LastLayers(1))):
        folder, _ = trained(tiny, tmp_path / name, adaptation, optimizer=still, dtype="bfloat16")
        assert changed(*(load_file(path / "model.safetensors") for path in (tiny, folder))) == set()
    first, _ = trained(tiny, tmp_path / "first", Lora(4, 8.0))
    same, _ = trained(tiny, tmp_path / "same", Lora.of(first), optimizer=still, dtype="bfloat16")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, same))
    assert changed(before, after) == set()


@pytest.mark.parametrize("adaptation", [Full(), Lora(4, 8.0)])
def test_what_is_exported_computes_what_was_trained(
    tiny: Path, encoder: Encoder, tmp_path: Path, adaptation: Adaptation
) -> None:
    folder, model = trained(tiny, tmp_path, adaptation)
    if isinstance(adaptation, Lora):
        folder = merge(folder, tmp_path / "merged")
    batch = batch_of(encoder)
    model.train(False)
    with torch.no_grad():
        own = model.logits(model.hidden(batch))
    # The head of the trained model has the mask's row, too, although no gradient flows to it from there.
    torch.testing.assert_close(logits(folder, batch), own, atol=1e-4, rtol=1e-4)
    assert (logits(tiny, batch) - own).abs().max() > 0.05


def test_peft_itself_loads_the_adapter_onto_a_llama_of_transformers(
    tiny: Path, encoder: Encoder, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, _ = trained(tiny, tmp_path, Lora(4, 8.0))
    # What runs as a causal model is our model as an encoder.
    config = LlamaConfig(**json.loads((tiny / "config.json").read_text()))
    llama = LlamaForCausalLM(config).eval()
    loaded = llama.load_state_dict(load_file(tiny / "model.safetensors"), strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == ["lm_head.weight"]
    llama.tie_weights()
    tokens = torch.tensor([*encoder.encode(several()).questions[0].prompt, encoder.mask_token, 20])
    count = len(tokens)
    batch = Batch(tokens, torch.arange(count), [torch.ones(count, count, dtype=torch.bool).tril()], [], [])
    merged = logits(merge(folder, tmp_path / "merged"), batch)
    with torch.no_grad():
        plain = llama(tokens[None]).logits[0]
        adapted = PeftModel.from_pretrained(llama, str(folder)).eval()(tokens[None]).logits[0]
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=1e-4)
    assert (plain - merged).abs().max() > 0.05


def test_a_run_goes_on_from_an_adapter(tiny: Path, encoder: Encoder, tmp_path: Path) -> None:
    """With a rate that changes nothing, what it begins with is what is exported; else training changes it."""
    first, _ = trained(tiny, tmp_path / "first", Lora(4, 8.0))
    still = OptimizerConfig(learning_rate=1e-30)
    same, _ = trained(tiny, tmp_path / "same", Lora.of(first), optimizer=still)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, same))
    assert changed(before, after) == set()
    further, _ = trained(tiny, tmp_path / "further", Lora.of(first))
    assert changed(before, load_file(further / "adapter_model.safetensors")) == set(before)
    batch = batch_of(encoder)
    torch.testing.assert_close(
        logits(merge(first, tmp_path / "a"), batch), logits(merge(same, tmp_path / "b"), batch), atol=1e-5, rtol=1e-5
    )
    # A run that is continued must begin where it began.
    with pytest.raises(RedraftError, match="holds a run with start"):
        trained(tiny, tmp_path / "further", Lora.of(further))


def test_an_adapter_that_cannot_be_gone_on_with_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        Lora.of(tiny)
    first, _ = trained(tiny, tmp_path / "first", Lora(4, 8.0))
    config = json.loads((first / "adapter_config.json").read_text())
    (first / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    with pytest.raises(CheckpointError, match=r"does not fit .*size mismatch"):
        trained(tiny, tmp_path / "other", Lora.of(first))
    (first / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    with pytest.raises(CheckpointError, match="describes no LoRA"):
        Lora.of(first)
    (first / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(first / "adapter_model.safetensors")
    missing = next(name for name in weights if "lora_B" in name)
    save_file({name: value for name, value in weights.items() if name != missing}, first / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks .*lora_B"):
        trained(tiny, tmp_path / "other", Lora.of(first))
    (first / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        trained(tiny, tmp_path / "other", Lora.of(first))


def test_an_adapter_names_its_base_and_is_small(tiny: Path, tmp_path: Path) -> None:
    folder, model = trained(tiny, tmp_path, Lora(4, 8.0))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(tiny), 4, 8.0)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == model.count
    # Seven linear layers of two layers, two matrices each, and the mask's row.
    assert len(tensors) == 2 * 2 * 7 + 1


def test_what_is_written_has_a_card_that_names_its_base_and_terms(tiny: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    whole, _ = trained(base, tmp_path / "whole", Full())
    adapter, _ = trained(base, tmp_path / "adapted", Lora(4))
    for folder in (whole, adapter, merge(adapter, tmp_path / "merged")):
        card = (folder / "README.md").read_text()
        assert "base_model: base\nlicense: mit\n" in card
        assert str(tmp_path) not in card


def test_what_is_no_adapter_of_the_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        merge(tiny, tmp_path / "out")


def test_a_family_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RedraftError, match="needs a model with a mask token"):
        recipe(Path("sudoku")).prepare(tmp_path, SOURCE, "letters")
