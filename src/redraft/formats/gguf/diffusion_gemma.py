"""DiffusionGemma in GGUF, as the changes converted it that llama.cpp was offered for it: text alone, experts fused."""

from typing import Any

from redraft.errors import CheckpointError
from redraft.formats.gguf.blocks import read_tensor
from redraft.formats.gguf.header import Header
from redraft.formats.gguf.published import Origin, Published, decimal, published_names

_OUTSIDE = {
    "token_embd.weight": "model.decoder.embed_tokens.weight",
    "output_norm.weight": "model.decoder.norm.weight",
    "self_cond_pre_norm.weight": "model.decoder.self_conditioning.pre_norm.weight",
    "self_cond_gate.weight": "model.decoder.self_conditioning.gate_proj.weight",
    "self_cond_up.weight": "model.decoder.self_conditioning.up_proj.weight",
    "self_cond_down.weight": "model.decoder.self_conditioning.down_proj.weight",
}
_INSIDE = {
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm_1.weight": "post_feedforward_layernorm_1.weight",
    "pre_ffw_norm_2.weight": "pre_feedforward_layernorm_2.weight",
    "post_ffw_norm_2.weight": "post_feedforward_layernorm_2.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj",
    "ffn_down_exps.weight": "experts.down_proj",
    "layer_output_scale.weight": "layer_scalar",
}
_ENCODER_SCALAR = "enc_layer_output_scale.weight"
# What the rotation of full layers is divided by: 1, or so much that nothing turns. The configuration says it.
ROPE_FACTORS = "rope_freqs.weight"
# The file has no list of them: the published end tokens of a text, of a turn, and of a tool call to be answered.
_ENDS, _MORE_ENDS = [1, 106], [50]
_IMAGE_TOKENS = {"boi_token_id": "<|image>", "eoi_token_id": "<image|>", "image_token_id": "<|image|>"}


def published(header: Header) -> Published:
    """Translate a file; raises CheckpointError naming the field that is missing or not implemented."""
    origins = {new: Origin(name) for name, new in published_names(header, _OUTSIDE, _INSIDE, "model.decoder.").items()}
    origins.pop(ROPE_FACTORS, None)
    encoder = published_names(header, {}, {_ENCODER_SCALAR: "layer_scalar"}, "model.encoder.language_model.")
    for name, new in encoder.items():
        if name.endswith(_ENCODER_SCALAR):
            origins.pop(name)
            origins[new] = Origin(name)
    ends = [token for token in _ENDS + _MORE_ENDS if token < len(header.field("tokenizer.ggml.tokens"))]
    return Published(_config(header), origins, {"eos_token_id": ends})


def _config(header: Header) -> dict[str, Any]:
    tokens: list[str] = header.field("tokenizer.ggml.tokens")
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "model_type": "diffusion_gemma",
        "canvas_length": header.field("diffusion.canvas_length", 256),
        "tie_word_embeddings": True,
        **{name: tokens.index(text) for name, text in _IMAGE_TOKENS.items() if text in tokens},
        "text_config": _text_config(header),
    }


def _text_config(header: Header) -> dict[str, Any]:
    if "token_embd.weight" not in header.extents:
        raise CheckpointError(f"{header.path} has no tensor token_embd.weight")
    if header.own("attention.shared_kv_layers", 0) or header.own("embedding_length_per_layer_input", 0):
        raise CheckpointError(f"{header.path}: shared keys and embeddings of single layers are not supported")
    metadata, layers = header.metadata, header.own("block_count")
    slides = header.own("attention.sliding_window_pattern")
    kv_heads = header.own("attention.head_count_kv")
    if isinstance(kv_heads, int):
        kv_heads = [kv_heads] * layers
    if not (isinstance(slides, list) and len(slides) == len(kv_heads) == layers):
        raise CheckpointError(f"{header.path}: the patterns of layers are not as long as block_count = {layers}")
    head_dims = {True: header.own("attention.key_length_swa"), False: header.own("attention.key_length")}
    return {
        "vocab_size": header.extents["token_embd.weight"].shape[0],
        "hidden_size": header.own("embedding_length"),
        "intermediate_size": header.own("feed_forward_length"),
        "num_hidden_layers": layers,
        "layer_types": ["sliding_attention" if own else "full_attention" for own in slides],
        "num_attention_heads": header.own("attention.head_count"),
        "num_key_value_heads": kv_heads[0],
        "head_dim": head_dims[True],
        "per_layer_config": {
            str(layer): {"head_dim": head_dims[bool(own)], "num_key_value_heads": kv_heads[layer]}
            for layer, own in enumerate(slides)
        },
        "sliding_window": header.own("attention.sliding_window"),
        "max_position_embeddings": header.own("context_length"),
        "rms_norm_eps": decimal(header.own("attention.layer_norm_rms_epsilon")),
        "final_logit_softcapping": decimal(header.own("final_logit_softcapping", 30.0)),
        "num_experts": header.own("expert_count"),
        "top_k_experts": header.own("expert_used_count"),
        "moe_intermediate_size": header.own("expert_feed_forward_length"),
        "rope_parameters": _rope(header),
        "hidden_activation": "gelu_pytorch_tanh",
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "eos_token_id": [token for token in _ENDS if token < len(header.field("tokenizer.ggml.tokens"))],
    }


def _rope(header: Header) -> dict[str, Any]:
    share = 0.25
    if ROPE_FACTORS in header.extents:
        share = float((read_tensor(header, ROPE_FACTORS) == 1).float().mean())
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": decimal(header.own("rope.freq_base_swa", 1e4))},
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": decimal(header.own("rope.freq_base", 1e6)),
            "partial_rotary_factor": share,
        },
    }
