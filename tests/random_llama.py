"""Tiny autoregressive Llamas with random weights, written by ``transformers`` itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.random_checkpoint import LETTERS_SIZE, write_letters_tokenizer
from tests.written_again import written_again


@written_again
def random_llama(
    folder: Path,
    *,
    vocab_size: int = LETTERS_SIZE + 8,
    tied: bool = True,
    head_dim: int = 8,
    context: int = 256,
    rope_parameters: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a checkpoint with a "letters" tokenizer and a chat template into ``folder`` and return it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        rope_parameters=dict(rope_parameters or {"rope_type": "default", "rope_theta": 10_000.0}),
        tie_word_embeddings=tied,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(generator=generator)
            # Norms are near 1; rows of matrices keep the size of what goes through them.
            weight.mul_(0.2).add_(1.0) if weight.ndim == 1 else weight.mul_(weight.shape[1] ** -0.5)
    model.to(dtype).save_pretrained(folder)
    write_letters_tokenizer(folder, vocab_size)
    return folder
