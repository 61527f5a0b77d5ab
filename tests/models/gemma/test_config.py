"""``config.json`` is the published one, of either generation, by itself or beside a vision tower; what is not done is
refused by its key."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Gemma3Config, Gemma4TextConfig

from redraft.errors import CheckpointError
from redraft.models import checkpoint
from redraft.models.gemma import gemma3, gemma4
from redraft.models.gemma.attention import AttentionSpec
from redraft.models.gemma.config import GemmaConfig
from redraft.models.registry import family_of
from tests.random_gemma import KINDS

# google/gemma-3-4b-it says no more than this of its text model.
FEW_WORDS: dict[str, Any] = {
    "architectures": [gemma3.CONDITIONAL],
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
# google/gemma-4-26B-A4B's shape, in the dialect of the hub.
EXPERTS: dict[str, Any] = {
    "architectures": [gemma4.CONDITIONAL],
    "image_token_id": 258880,
    "text_config": {
        "hidden_size": 2816, "intermediate_size": 2112, "num_hidden_layers": 30, "num_attention_heads": 16,
        "num_key_value_heads": 8, "num_global_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512,
        "attention_k_eq_v": True, "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8,
        "moe_intermediate_size": 704, "sliding_window": 1024, "final_logit_softcapping": 30.0,
        "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "max_position_embeddings": 262_144,
        "use_bidirectional_attention": "vision",
    },
}  # fmt: skip


def read(raw: dict[str, Any]) -> GemmaConfig:
    config = family_of(raw["architectures"][0]).read_config(raw)
    assert isinstance(config, GemmaConfig)
    return config


def test_what_a_file_leaves_out_is_what_the_reference_takes():
    ours, theirs = read(FEW_WORDS), Gemma3Config(**FEW_WORDS).text_config
    assert len(ours.layers) == 34
    kinds = ["full_attention" if spec.window is None else "sliding_attention" for spec in ours.layers]
    assert kinds == theirs.layer_types
    sliding, full = ours.layers[0], ours.layers[5]
    assert sliding == AttentionSpec(theirs.head_dim, theirs.num_key_value_heads, 1024, 10_000.0)
    assert full == AttentionSpec(theirs.head_dim, theirs.num_key_value_heads, None, 1_000_000.0, 1.0, 8.0)
    for name in ("vocab_size", "num_attention_heads", "rms_norm_eps", "final_logit_softcapping"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.attention_scale == theirs.query_pre_attn_scalar**-0.5
    assert (ours.end_token_ids, ours.image_token_ids) == ((1, 106), (262144,))


def test_gemma4s_experts_are_read_in_the_dialect_of_the_hub():
    ours, theirs = read(EXPERTS), Gemma4TextConfig(**EXPERTS["text_config"])
    assert ours.layers[0] == AttentionSpec(256, 8, 1024, 10_000.0)
    assert ours.layers[5] == AttentionSpec(512, 2, None, 1_000_000.0, 0.25)
    assert [spec.window is None for spec in ours.layers] == [kind == "full_attention" for kind in theirs.layer_types]
    assert (ours.num_experts, ours.top_k_experts, ours.moe_intermediate_size) == (128, 8, 704)
    assert ours.values_are_keys(ours.layers[5])
    assert not ours.values_are_keys(ours.layers[0])
    assert ours.thought_syntax is not None
    assert ours.tool_syntax is not None


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_back_as_it_was_written_here_and_by_transformers(
    folders: dict[str, Path], kind: str, tmp_path: Path
):
    config = checkpoint.read(folders[kind]).config
    assert isinstance(config, GemmaConfig)
    written = json.loads(json.dumps(config.to_json()))
    alone = replace(config, architecture=written["architectures"][0], image_token_ids=())
    assert read(written) == alone
    (tmp_path / "config.json").write_text(json.dumps(written))
    again, stored = (AutoConfig.from_pretrained(own).get_text_config().to_dict() for own in (tmp_path, folders[kind]))
    shape = ("layer_types", "rope_parameters", "head_dim", "per_layer_config", "num_experts", "attention_k_eq_v")
    for name in (*shape, "sliding_window", "vocab_size", "rms_norm_eps", "final_logit_softcapping", "eos_token_id"):
        assert again.get(name) == stored.get(name), name


@pytest.mark.parametrize("kind", ["gemma3 with vision", "gemma4 with vision"])
def test_a_vision_tower_is_told_of_and_left(folders: dict[str, Path], kind: str):
    found = checkpoint.read(folders[kind])
    assert found.unused
    assert {found.family.unused_part(name) for name in found.unused} == {"vision"}
    assert found.config.image_token_ids[:3] == (13, 14, 15)


def test_what_is_saved_is_what_was_loaded(folders: dict[str, Path], tmp_path: Path):
    found = checkpoint.read(folders["gemma3 with vision"])
    checkpoint.save(found.load("float32"), tmp_path, torch.float32)
    stored, written = (load_file(folder / "model.safetensors") for folder in (found.path, tmp_path))
    assert checkpoint.read(tmp_path).architecture == gemma3.CAUSAL
    assert len(written) == len(found.tensors)
    for name, value in written.items():
        assert torch.equal(value, stored[f"language_model.{name}"])


def test_a_file_may_have_the_tied_head_once_more(folders: dict[str, Path], tmp_path: Path):
    tensors = load_file(folders["gemma3"] / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text((folders["gemma3"] / "config.json").read_text())
    assert checkpoint.read(tmp_path).unused.keys() == {"lm_head.weight"}


@pytest.mark.parametrize(
    ("raw", "change", "words"),
    [
        (EXPERTS, {"hidden_size_per_layer_input": 256}, r"text_config\.hidden_size_per_layer_input = 256: .*31B"),
        (EXPERTS, {"hidden_size_per_layer_input": ...}, "hidden_size_per_layer_input = 256"),
        (EXPERTS, {"num_kv_shared_layers": 20}, r"text_config\.num_kv_shared_layers = 20: .*E2B and E4B"),
        (EXPERTS, {"use_bidirectional_attention": "all"}, "use_bidirectional_attention = 'all' is not supported"),
        (EXPERTS, {"top_k_experts": 200}, "top_k_experts = 200 is more than num_experts = 128"),
        (EXPERTS, {"num_experts": ...}, "num_experts = None must be a whole number"),
        (EXPERTS, {"num_global_key_value_heads": 3}, "layer 5 has head_dim 512, 3 key-value heads"),
        (EXPERTS, {"layer_types": ["full_attention"]}, "1 layer_types for num_hidden_layers = 30"),
        (FEW_WORDS, {"attn_logit_softcapping": 50.0}, r"text_config\.attn_logit_softcapping = 50\.0 is not supported"),
        (FEW_WORDS, {"use_bidirectional_attention": True}, "use_bidirectional_attention = True is not supported"),
        (FEW_WORDS, {"rope_scaling": {"rope_type": "yarn"}}, "'yarn', which is not supported; expected .* 'linear'"),
        (FEW_WORDS, {"tie_word_embeddings": False}, "tie_word_embeddings = false is not supported"),
        (FEW_WORDS, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0 must be a number above 0"),
        (FEW_WORDS, {"sliding_window": None}, "sliding_window = None must be a whole number"),
    ],
)
def test_what_cannot_be_is_named(raw: dict[str, Any], change: dict[str, Any], words: str):
    text = {name: value for name, value in {**raw["text_config"], **change}.items() if value is not ...}
    with pytest.raises(CheckpointError, match=words):
        read({**raw, "text_config": text})


def test_a_text_configuration_that_is_not_there_is_named():
    with pytest.raises(CheckpointError, match="no 'text_config'"):
        read({"architectures": [gemma4.CONDITIONAL]})
