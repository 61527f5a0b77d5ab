"""Llama in GGUF, as llama.cpp converts it: rows of queries and keys are in another order there."""

from typing import Any

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.gguf.blocks import read_tensor
from redraft.formats.gguf.header import Header
from redraft.formats.gguf.published import Origin, Published, decimal, end_tokens, published_names
from redraft.layers.rope import Llama3Scaling, inverse_frequencies

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# What the rotation is divided by, dimension by dimension: Llama 3.1's scaling, of which no field tells. The
# configuration says it, so that it is none of the published tensors.
ROPE_FACTORS = "rope_freqs.weight"


def published(header: Header) -> Published:
    """Translate a file; raises CheckpointError naming the field that is missing or not implemented."""
    heads, kv_heads = header.own("attention.head_count"), _kv_heads(header)
    origins = {}
    for name, new in published_names(header, _OUTSIDE, _INSIDE, "model.").items():
        if name == ROPE_FACTORS:
            continue
        count = heads if new.endswith("q_proj.weight") else kv_heads if new.endswith("k_proj.weight") else None
        undo = None if count is None else lambda rows, count=count: _halves(rows, count)
        origins[new] = Origin(name, undo)
    return Published(_config(header, heads, kv_heads), origins, {})


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Put the rows of each head from pairs that are rotated together, side by side, into halves."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _kv_heads(header: Header) -> int:
    found = header.own("attention.head_count_kv", header.own("attention.head_count"))
    if isinstance(found, list):
        raise CheckpointError(f"{header.path}: layers with different numbers of keys are not supported: {found}")
    return int(found)


def _config(header: Header, heads: int, kv_heads: int) -> dict[str, Any]:
    hidden = header.own("embedding_length")
    head_dim = header.own("attention.key_length", hidden // heads)
    rotated = header.own("rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(f"{header.path}: a rotation of {rotated} of {head_dim} dimensions is not supported")
    if header.metadata.get("llama.expert_count"):
        raise CheckpointError(f"{header.path} is a mixture of experts, which is not supported in a Llama")
    kind = header.own("rope.scaling.type", "none")
    if kind != "none":
        raise CheckpointError(f"{header.path}: llama.rope.scaling.type = {kind!r} is not supported; expected 'none'")
    if "token_embd.weight" not in header.extents:
        raise CheckpointError(f"{header.path} has no tensor token_embd.weight")
    theta = decimal(header.own("rope.freq_base", 10_000.0))
    metadata = header.metadata
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": header.extents["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": header.own("feed_forward_length"),
        "num_hidden_layers": header.own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": header.own("context_length"),
        "rms_norm_eps": decimal(header.own("attention.layer_norm_rms_epsilon")),
        "rope_parameters": _rope(header, theta, head_dim),
        "tie_word_embeddings": "output.weight" not in header.extents,
        "hidden_act": "silu",
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end_tokens(header),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _rope(header: Header, theta: float, head_dim: int) -> dict[str, Any]:
    """Return what ``config.json`` says of the rotation. Raises CheckpointError for factors that are no Llama 3.1's."""
    if ROPE_FACTORS not in header.extents:
        return {"rope_type": "default", "rope_theta": theta}
    stored = read_tensor(header, ROPE_FACTORS).float()
    velocities = inverse_frequencies(head_dim, theta)
    scaling = Llama3Scaling(decimal(float(stored.max())), 1.0, 4.0, 8192)
    if not torch.allclose(stored, velocities / scaling.apply(velocities), rtol=1e-4):
        raise CheckpointError(f"{header.path}: {ROPE_FACTORS} is not the scaling of Llama 3.1, which alone is read")
    return {"rope_type": "llama3", "rope_theta": theta, **scaling.to_json()}
