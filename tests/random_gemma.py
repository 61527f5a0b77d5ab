"""Tiny Gemma 3 and Gemma 4 checkpoints with random weights, written by ``transformers`` itself."""

from pathlib import Path
from typing import Any, Literal

import torch

from tests.random_checkpoint import LETTERS_SIZE, write_letters_tokenizer
from tests.written_again import written_again

Kind = Literal["gemma3", "gemma3 with vision", "gemma4 dense", "gemma4 experts", "gemma4 with vision"]
KINDS: tuple[Kind, ...] = ("gemma3", "gemma3 with vision", "gemma4 dense", "gemma4 experts", "gemma4 with vision")
WINDOW = 8
# Sizes that are no multiples of blocks, and windows that the tests' texts outgrow.
_TEXT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 136,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_hidden_layers": 4,
    "sliding_window": WINDOW,
    "max_position_embeddings": 512,
    "bos_token_id": 2,
    "eos_token_id": [1, 5],
    "pad_token_id": 0,
}


@written_again
def random_gemma(
    folder: Path,
    kind: Kind = "gemma3",
    *,
    vocab_size: int = LETTERS_SIZE + 8,
    published_layers: bool = False,
    seed: int = 0,
) -> Path:
    """Write a checkpoint with a "letters" tokenizer and a chat template into ``folder`` and return it.

    published_layers: as in what is published, every sixth sees the whole context, and queries are scaled by the width
    of a head; else there are fewer layers, and another scale.
    """
    import transformers

    text: dict[str, Any] = {**_TEXT, "vocab_size": vocab_size}
    if kind.startswith("gemma3"):
        text |= {"query_pre_attn_scalar": 20, "head_dim": 16}
        text |= {"layer_types": [*text["layer_types"][:3], "sliding_attention"]}
        if published_layers:
            text |= {"layer_types": None, "num_hidden_layers": 7, "query_pre_attn_scalar": text["head_dim"]}
        text |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}} if kind != "gemma3" else {}
        config: Any = transformers.Gemma3TextConfig(**text)
    else:
        text |= {"hidden_size_per_layer_input": 0, "final_logit_softcapping": 30.0, "global_head_dim": 32}
        if kind != "gemma4 dense":
            text |= {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True}
            text |= {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 40}
        config = transformers.Gemma4TextConfig(**text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = _model(kind, config)
    _randomize(model, seed)
    model.save_pretrained(folder)
    write_letters_tokenizer(folder, vocab_size)
    return folder


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The oracle: the checkpoint as ``transformers`` loads it, with its plain attention and plain loop over experts."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    beside_vision = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    loader: Any = AutoModelForImageTextToText if beside_vision else AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def _model(kind: Kind, text: Any) -> Any:
    import transformers as hf

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    media = {"boi": 13, "eoi": 14, "image": 15}
    match kind:
        case "gemma3":
            return hf.Gemma3ForCausalLM(text)
        case "gemma3 with vision":
            vision: Any = hf.SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
            named = {f"{name}_token_index": token for name, token in media.items()}
            return hf.Gemma3ForConditionalGeneration(
                hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **named)
            )
        case "gemma4 with vision":
            vision = hf.Gemma4VisionConfig(**sizes, num_key_value_heads=1, head_dim=16, position_embedding_size=16)
            named = {f"{name}_token_id": token for name, token in media.items()}
            return hf.Gemma4ForConditionalGeneration(
                hf.Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **named)
            )
        case _:
            return hf.Gemma4ForCausalLM(text)


@torch.no_grad()
def _randomize(model: Any, seed: int) -> None:
    """Random values for every tensor, also for those that start as ones or zeros: none can stand for another."""
    generator = torch.Generator().manual_seed(seed)
    stored_less = type(model).__name__.startswith("Gemma3")
    for name, weight in model.named_parameters():
        weight.normal_(generator=generator)
        if weight.ndim == 1:
            weight.mul_(0.2).add_(0.0 if stored_less and "norm" in name else 1.0)
        else:
            weight.mul_(0.4 if "embed_tokens" in name else weight.shape[-1] ** -0.5)
        if name.endswith("q_norm.weight"):
            # With plain ones attention is so sharp that rounding alone changes what is attended to.
            weight.copy_(0.1 * weight + (0.5 if stored_less else 0.3))
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.uniform_(0.6, 1.2, generator=generator)
