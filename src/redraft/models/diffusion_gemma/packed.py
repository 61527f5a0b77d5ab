"""DiffusionGemma for the kernels: its matrices packed, its layers as the kernels take them."""

from collections.abc import Mapping
from typing import Any

import torch

from redraft.kernels.layer import PackedLayer
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Format, PackedMatrix
from redraft.kernels.readout import PackedHead
from redraft.layers.embedding import TokenTable
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.diffusion_gemma.model import DiffusionGemma, Layer
from redraft.models.packed import LayerPlace, PackedModel, PackedParts, PackedSelfConditioning
from redraft.models.recipes import MatrixRecipe, projections, router, sensitive

EMBEDDING = "embed_tokens.weight"


def matrices(config: DiffusionGemmaConfig, format: Format) -> list[MatrixRecipe]:
    """Return the recipes of a model's matrices.

    Routers stay float32. In int4 the experts, nine tenths of all, have four bits, and the rest eight; of the embedding,
    read as keys and values of the whole vocabulary, four bits cost more than they save in any case.
    """
    own = sensitive(format)

    found = [
        MatrixRecipe("embed_tokens", (EMBEDDING,), own, fixed=True),
        MatrixRecipe("self_conditioning.gate_up", projections("self_conditioning", "gate", "up"), own, "gelu_tanh"),
        MatrixRecipe("self_conditioning.down", projections("self_conditioning", "down"), own),
    ]
    for index, spec in enumerate(config.layers):
        name = f"layers.{index}"
        # A full layer's values are its keys.
        read = ("q", "k", "v") if spec.window is not None else ("q", "k")
        found += [
            MatrixRecipe(f"{name}.qkv", projections(f"{name}.self_attn", *read), own),
            MatrixRecipe(f"{name}.o", projections(f"{name}.self_attn", "o"), own),
            MatrixRecipe(f"{name}.gate_up", projections(f"{name}.mlp", "gate", "up"), own, "gelu_tanh"),
            MatrixRecipe(f"{name}.down", projections(f"{name}.mlp", "down"), own),
            router(name, config.hidden_size),
            MatrixRecipe(f"{name}.experts.gate_up", (f"{name}.experts.gate_up_proj",), format, "gelu_tanh"),
            MatrixRecipe(f"{name}.experts.down", (f"{name}.experts.down_proj",), format),
        ]
    return found


def beside(name: str) -> bool:
    """Norms, scalars, and the embedding, which is looked up in the dtype that files store it in."""
    return name == EMBEDDING or name.endswith(("norm.weight", "scalar", "per_expert_scale")) or "layernorm" in name


def packed_model(model: DiffusionGemma, matrices: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
    """Make a model of ``matrices``, made, and of the weights of ``model`` that are ``beside`` them."""
    config = model.config
    kv_dtype = torch.float32 if format == "float32" else torch.bfloat16
    conditioning = model.self_conditioning

    parts = PackedParts(
        layers=[_packed_layer(layer, matrices, f"layers.{i}", kv_dtype) for i, layer in enumerate(model.layers)],
        places=[
            LayerPlace(spec.window, model.rotary(spec), layer.encoder_layer_scalar.item(), layer.layer_scalar.item())
            for layer, spec in zip(model.layers, config.layers, strict=True)
        ],
        embed=TokenTable(model.embed_tokens.weight, config.hidden_size**0.5),
        self_conditioning=PackedSelfConditioning(
            matrices["self_conditioning.gate_up"],
            matrices["self_conditioning.down"],
            Norm(conditioning.pre_norm.weight.float(), conditioning.eps),
        ),
        norm=Norm(model.norm.weight.float(), config.rms_norm_eps),
        head=PackedHead(matrices["embed_tokens"], config.final_logit_softcapping, config.hidden_size**0.5),
        corruption=model.corruption,
        config=config,
        defaults=model.defaults,
        modes=model.modes,
        slides=model.window_policy == "per_query",
    )
    return PackedModel(parts, format, sum(matrix.nbytes for matrix in matrices.values()))


def _packed_layer(layer: Layer, matrices: Mapping[str, PackedMatrix], name: str, kv_dtype: torch.dtype) -> PackedLayer:
    """One layer's packed matrices and small weights; see ``diffusion_gemma.Layer``."""
    attention, router = layer.self_attn, layer.router
    spec = attention.spec
    small = {
        "input_norm": layer.input_layernorm.weight,
        "q_norm": attention.q_norm.weight,
        "k_norm": attention.k_norm.weight,
        "post_attention": layer.post_attention_layernorm.weight,
        "dense_norm": layer.pre_feedforward_layernorm.weight,
        "experts_norm": layer.pre_feedforward_layernorm_2.weight,
        "post_dense": layer.post_feedforward_layernorm_1.weight,
        "post_experts": layer.post_feedforward_layernorm_2.weight,
        "post_feedforward": layer.post_feedforward_layernorm.weight,
        "expert_scale": router.per_expert_scale,
    }
    cast: dict[str, Any] = {key: weight.detach().float().contiguous() for key, weight in small.items()}
    return PackedLayer(
        qkv=matrices[f"{name}.qkv"],
        o=matrices[f"{name}.o"],
        gate_up=matrices[f"{name}.gate_up"],
        down=matrices[f"{name}.down"],
        router=matrices[f"{name}.router"],
        experts_gate_up=matrices[f"{name}.experts.gate_up"],
        experts_down=matrices[f"{name}.experts.down"],
        heads=attention.q_proj.weight.shape[0] // spec.head_dim,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        top_k=router.top_k,
        epsilon=attention.eps,
        dtype=kv_dtype,
        v_norm=True,
        **cast,
    )
