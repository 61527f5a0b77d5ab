"""Gemma 3's text model in GGUF, as llama.cpp converts it: norms have their 1 added there."""

from typing import Any

from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.gguf.header import Header
from redraft.formats.gguf.published import Origin, Published, decimal, end_tokens, published_names

_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_INSIDE = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# Ends a turn; files of models that were not taught to chat do not name it among the ends, as ``config.json`` does.
_END_OF_TURN = "<end_of_turn>"
# Every sixth layer sees the whole context.
_FULL_EVERY = 6
# 27B scales its queries by the width of a head as if the hidden size were shared out among the heads.
_LAYERS_OF_27B = 62


def published(header: Header) -> Published:
    """Translate a file; raises CheckpointError naming the field that is missing or not implemented."""
    names = published_names(header, _OUTSIDE, _INSIDE, "model.")
    origins = {new: Origin(name, _minus_one if new.endswith("norm.weight") else None) for name, new in names.items()}
    return Published(_config(header), origins, {})


def _minus_one(weight: Tensor) -> Tensor:
    return weight - 1


def _ends(header: Header) -> list[int]:
    tokens: list[str] = header.field("tokenizer.ggml.tokens", [])
    turn = [tokens.index(_END_OF_TURN)] if _END_OF_TURN in tokens else []
    return list(dict.fromkeys([*end_tokens(header), *turn]))


def _config(header: Header) -> dict[str, Any]:
    if "token_embd.weight" not in header.extents:
        raise CheckpointError(f"{header.path} has no tensor token_embd.weight")
    heads, layers = header.own("attention.head_count"), header.own("block_count")
    head_dim, hidden = header.own("attention.key_length", 256), header.own("embedding_length")
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": decimal(header.own("rope.freq_base", 1e6))}
    if header.own("rope.scaling.type", "none") == "linear":
        full |= {"rope_type": "linear", "factor": header.own("rope.scaling.factor")}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": header.extents["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": header.own("feed_forward_length"),
        "num_hidden_layers": layers,
        "layer_types": [
            "full_attention" if (layer + 1) % _FULL_EVERY == 0 else "sliding_attention" for layer in range(layers)
        ],
        "num_attention_heads": heads,
        "num_key_value_heads": header.own("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "query_pre_attn_scalar": hidden // heads if layers == _LAYERS_OF_27B else head_dim,
        "sliding_window": header.own("attention.sliding_window"),
        "max_position_embeddings": header.own("context_length"),
        "rms_norm_eps": decimal(header.own("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_parameters": {
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": decimal(header.own("rope.freq_base_swa", 10_000.0)),
            },
            "full_attention": full,
        },
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends(header),
        "pad_token_id": header.metadata.get("tokenizer.ggml.padding_token_id"),
    }
