"""LlamaDiffusion for the kernels: its matrices packed, its layers as the kernels take them."""

from collections.abc import Mapping

import torch

from redraft.kernels.layer import PackedLayer
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Format, PackedMatrix
from redraft.kernels.readout import PackedHead
from redraft.layers.embedding import TokenTable
from redraft.models.llama_diffusion.config import LlamaDiffusionConfig
from redraft.models.llama_diffusion.model import Layer, LlamaDiffusion
from redraft.models.packed import LayerPlace, PackedModel, PackedParts
from redraft.models.recipes import MatrixRecipe, sensitive

EMBEDDING = "embed_tokens.weight"


def matrices(config: LlamaDiffusionConfig, format: Format) -> list[MatrixRecipe]:
    """Return the recipes of a model's matrices. In int4 the feed-forward branch has four bits, and eight what
    ``recipes.sensitive`` says."""
    own = sensitive(format)
    head = EMBEDDING if config.tie_word_embeddings else "lm_head.weight"
    found = [MatrixRecipe("head", (head,), own, fixed=True)]
    for index in range(config.num_hidden_layers):
        name = f"layers.{index}"

        def stacked(*names: str, layer: str = name) -> tuple[str, ...]:
            return tuple(f"{layer}.{name}_proj.weight" for name in names)

        found += [
            MatrixRecipe(f"{name}.qkv", stacked("self_attn.q", "self_attn.k", "self_attn.v"), own),
            MatrixRecipe(f"{name}.o", stacked("self_attn.o"), own),
            MatrixRecipe(f"{name}.gate_up", stacked("mlp.gate", "mlp.up"), format, "silu"),
            MatrixRecipe(f"{name}.down", stacked("mlp.down"), format),
        ]
    return found


def beside(name: str) -> bool:
    """Norms, and the embedding, which is looked up in the dtype that files store it in."""
    return name == EMBEDDING or name.endswith("norm.weight")


def packed_model(model: LlamaDiffusion, matrices: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
    """Make a model of ``matrices``, made, and of the weights of ``model`` that are ``beside`` them."""
    config = model.config

    dtype = torch.float32 if format == "float32" else torch.bfloat16
    parts = PackedParts(
        layers=[_packed_layer(layer, matrices, f"layers.{i}", model, dtype) for i, layer in enumerate(model.layers)],
        places=[LayerPlace(None, model.rotary)] * config.num_hidden_layers,
        embed=TokenTable(model.embed_tokens.weight),
        self_conditioning=None,
        norm=Norm(model.norm.weight.float(), config.rms_norm_eps),
        head=PackedHead(matrices["head"], None, None),
        corruption=model.corruption,
        config=config,
        defaults=model.defaults,
        modes=model.modes,
        slides=False,
        reread=model.reread,
    )
    return PackedModel(parts, format, sum(matrix.nbytes for matrix in matrices.values()))


def _packed_layer(
    layer: Layer, matrices: Mapping[str, PackedMatrix], name: str, model: LlamaDiffusion, dtype: torch.dtype
) -> PackedLayer:
    config = model.config
    return PackedLayer(
        qkv=matrices[f"{name}.qkv"],
        o=matrices[f"{name}.o"],
        gate_up=matrices[f"{name}.gate_up"],
        down=matrices[f"{name}.down"],
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        epsilon=config.rms_norm_eps,
        dtype=dtype,
        attention_scale=config.head_dim**-0.5,
        input_norm=layer.input_layernorm.weight.float().contiguous(),
        dense_norm=layer.post_attention_layernorm.weight.float().contiguous(),
    )
