"""Gemma 3 and 4 for the kernels: their matrices packed, their layers as the kernels take them."""

from collections.abc import Mapping
from typing import Any

import torch

from redraft.kernels.layer import PackedLayer
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Format, PackedMatrix
from redraft.kernels.readout import PackedHead
from redraft.layers.embedding import TokenTable
from redraft.models.gemma.config import GemmaConfig
from redraft.models.gemma.model import Gemma, Layer
from redraft.models.packed import LayerPlace, PackedModel, PackedParts
from redraft.models.recipes import MatrixRecipe, projections, router, sensitive

EMBEDDING = "embed_tokens.weight"


def matrices(config: GemmaConfig, format: Format) -> list[MatrixRecipe]:
    """Return the recipes of a model's matrices. Routers stay float32. In int4 the experts, or without any the dense
    branch, have four bits, and the rest eight."""
    own = sensitive(format)
    dense = own if config.num_experts else format

    found = [MatrixRecipe("head", (EMBEDDING,), own, fixed=True)]
    for index, spec in enumerate(config.layers):
        name = f"layers.{index}"
        read = ("q", "k") if config.values_are_keys(spec) else ("q", "k", "v")
        found += [
            MatrixRecipe(f"{name}.qkv", projections(f"{name}.self_attn", *read), own),
            MatrixRecipe(f"{name}.o", projections(f"{name}.self_attn", "o"), own),
            MatrixRecipe(f"{name}.gate_up", projections(f"{name}.mlp", "gate", "up"), dense, "gelu_tanh"),
            MatrixRecipe(f"{name}.down", projections(f"{name}.mlp", "down"), dense),
        ]
        if config.num_experts:
            found += [
                router(name, config.hidden_size),
                MatrixRecipe(f"{name}.experts_gate_up", (f"{name}.experts.gate_up_proj",), format, "gelu_tanh"),
                MatrixRecipe(f"{name}.experts_down", (f"{name}.experts.down_proj",), format),
            ]
    return found


def beside(name: str) -> bool:
    """Norms, scalars, and the embedding, which is looked up in the dtype that files store it in."""
    return name == EMBEDDING or name.endswith(("norm.weight", "scalar", "per_expert_scale")) or "layernorm" in name


def packed_model(model: Gemma, matrices: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
    """Make a model of ``matrices``, made, and of the weights of ``model`` that are ``beside`` them."""
    config = model.config
    dtype = torch.float32 if format == "float32" else torch.bfloat16
    places = []
    for layer, spec in zip(model.layers, config.layers, strict=True):
        scalar = 1.0 if layer.layer_scalar is None else layer.layer_scalar.item()
        places.append(LayerPlace(spec.window, model.rotary(spec), scalar, scalar))
    parts = PackedParts(
        layers=[_packed_layer(layer, matrices, f"layers.{i}", dtype) for i, layer in enumerate(model.layers)],
        places=places,
        embed=TokenTable(model.embed_tokens.weight, config.hidden_size**0.5),
        self_conditioning=None,
        norm=Norm(model.norm.whole, config.rms_norm_eps),
        head=PackedHead(matrices["head"], config.final_logit_softcapping, None),
        corruption=None,
        config=config,
        defaults=model.defaults,
        modes=model.modes,
        slides=False,
    )
    return PackedModel(parts, format, sum(matrix.nbytes for matrix in matrices.values()))


def _packed_layer(layer: Layer, matrices: Mapping[str, PackedMatrix], name: str, dtype: torch.dtype) -> PackedLayer:
    """One layer's packed matrices and small weights; see ``gemma.model.Layer``."""
    attention = layer.self_attn
    config, spec = attention.config, attention.spec
    norms = {
        "input_norm": layer.input_layernorm,
        "q_norm": attention.q_norm,
        "k_norm": attention.k_norm,
        "post_attention": layer.post_attention_layernorm,
        "dense_norm": layer.pre_feedforward_layernorm,
        "post_feedforward": layer.post_feedforward_layernorm,
    }
    experts: dict[str, Any] = {}
    if layer.experts is not None:
        norms |= {
            "experts_norm": layer.pre_feedforward_layernorm_2,
            "post_dense": layer.post_feedforward_layernorm_1,
            "post_experts": layer.post_feedforward_layernorm_2,
        }
        experts = {part: matrices[f"{name}.{part}"] for part in ("router", "experts_gate_up", "experts_down")}
        scale = layer.router.per_expert_scale.detach().float().contiguous()
        experts |= {"top_k": config.top_k_experts, "expert_scale": scale}
    whole: dict[str, Any] = {part: norm.whole.detach().contiguous() for part, norm in norms.items()}
    return PackedLayer(
        qkv=matrices[f"{name}.qkv"],
        o=matrices[f"{name}.o"],
        gate_up=matrices[f"{name}.gate_up"],
        down=matrices[f"{name}.down"],
        heads=config.num_attention_heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        epsilon=config.rms_norm_eps,
        dtype=dtype,
        attention_scale=config.attention_scale,
        v_norm=config.values_normed,
        **experts,
        **whole,
    )
