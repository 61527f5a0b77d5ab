"""``config.json`` is Llama's own and two keys more; what it asks for and this family does not do is named."""

import json
from typing import Any

import pytest
from transformers import LlamaConfig

from redraft.errors import CheckpointError
from redraft.models.llama_diffusion.config import LlamaDiffusionConfig
from tests.models.llama_diffusion.conftest import CONFIGS

RAW = CONFIGS["tied"].to_json()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_read_back_as_it_was_written(name: str):
    assert LlamaDiffusionConfig.from_json(json.loads(json.dumps(CONFIGS[name].to_json()))) == CONFIGS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_the_same_llama(name: str):
    ours, theirs = CONFIGS[name], LlamaConfig(**CONFIGS[name].to_json())
    for field in ("vocab_size", "hidden_size", "num_key_value_heads", "head_dim", "rms_norm_eps"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert theirs.rope_parameters["rope_theta"] == ours.rope_theta


def test_older_files_have_the_rotation_elsewhere_and_leave_out_what_follows_from_the_rest():
    old = {name: value for name, value in RAW.items() if name not in ("rope_parameters", "head_dim")}
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaDiffusionConfig.from_json(old | {"rope_theta": 500_000.0, "rope_scaling": scaling})
    assert (config.rope_theta, config.head_dim) == (500_000.0, 16)
    assert config.rope_scaling == CONFIGS["untied, llama3"].rope_scaling


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"canvas_length": 512}, "canvas_length = 512 leaves no room for a prompt in max_position_embeddings = 512"),
        ({"canvas_length": None}, "canvas_length = None must be a whole number"),
        ({"mask_order": "backwards"}, "mask_order = 'backwards' must be 'any' or 'left-to-right'"),
        ({"mask_token_id": 10_000}, "mask_token_id = 10000 must be the id of one of the"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; expected 'silu'"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn' is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8}}, "llama3 scaling .* cannot be read: .*low_freq"),
        ({"num_key_value_heads": 4}, "num_attention_heads = 6 is no multiple of num_key_value_heads = 4"),
        ({"head_dim": 15}, "head_dim = 15 must be even"),
        ({"rms_norm_eps": 0}, "rms_norm_eps = 0 must be a number above 0"),
    ],
)
def test_what_cannot_be_is_named(change: dict[str, Any], words: str):
    with pytest.raises(CheckpointError, match=words):
        LlamaDiffusionConfig.from_json(RAW | change)


def test_a_plain_llama_is_told_how_it_becomes_one_of_these():
    with pytest.raises(CheckpointError, match=r"has no 'canvas_length'; .*redraft adapt"):
        LlamaDiffusionConfig.from_json({name: value for name, value in RAW.items() if name != "canvas_length"})
