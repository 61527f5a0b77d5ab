import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from redraft.layers.rope import Llama3Scaling
from redraft.models.llama_diffusion.config import LlamaDiffusionConfig
from redraft.models.llama_diffusion.family import FAMILY
from redraft.models.llama_diffusion.model import LlamaDiffusion
from tests.random_checkpoint import LETTERS_SIZE, MARKERS, write_letters_tokenizer

# With sizes that are no multiples of blocks.
CONFIG = LlamaDiffusionConfig(
    vocab_size=LETTERS_SIZE + 8,
    hidden_size=96,
    intermediate_size=136,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    canvas_length=24,
    # One of the unused tokens of the tokenizer.
    mask_token_id=LETTERS_SIZE + 7,
    tie_word_embeddings=True,
    end_token_ids=(1,),
    bos_token_id=2,
    pad_token_id=0,
)
assert (MARKERS[1], MARKERS[2]) == ("<eos>", "<bos>")
# A head of its own, a head's width that is not the hidden size over the heads, and Llama 3's longer rotations.
OTHER = replace(
    CONFIG,
    head_dim=24,
    tie_word_embeddings=False,
    rope_theta=500_000.0,
    rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 64),
)
CONFIGS = {"tied": CONFIG, "untied, llama3": OTHER}


def write(folder: Path, config: LlamaDiffusionConfig = CONFIG, seed: int = 0) -> Path:
    """A checkpoint with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, value in LlamaDiffusion(config).state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if "norm.weight" in name or "layernorm.weight" in name:
            drawn = 1 + 0.2 * drawn
        elif name != "embed_tokens.weight":
            drawn = drawn * value.shape[1] ** -0.5
        tensors[FAMILY.stored_name(name)] = drawn
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    (folder / "generation_config.json").write_text(json.dumps({"max_denoising_steps": 12, "confidence_threshold": 0.5}))
    write_letters_tokenizer(folder, config.vocab_size)
    return folder


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the family. Tests that change it work on a copy."""
    return write(tmp_path_factory.mktemp("llama"))
