"""Inkwell for the kernels."""

from collections.abc import Mapping

import torch

from redraft.kernels.layer import PackedLayer
from redraft.kernels.norm import Norm
from redraft.kernels.packed import Format, PackedMatrix
from redraft.kernels.readout import PackedHead
from redraft.layers.embedding import TokenTable
from redraft.models.packed import LayerPlace, PackedModel, PackedParts
from redraft.models.recipes import MatrixRecipe
from tests.models.toy.config import InkwellConfig
from tests.models.toy.model import Inkwell


def matrices(config: InkwellConfig, format: Format) -> list[MatrixRecipe]:
    """The head is read as keys of the whole vocabulary, which int4 cannot be."""
    found = [MatrixRecipe("head", ("head.weight",), "int8" if format == "int4" else format, fixed=True)]
    for index in range(config.depth):

        def stacked(*names: str, kind: str = "weight", layer: str = f"layers.{index}") -> tuple[str, ...]:
            return tuple(f"{layer}.{name}.{kind}" for name in names)

        parts = "query", "key", "value"
        found += [
            MatrixRecipe(f"{index}.qkv", stacked(*parts), format, biases=stacked(*parts, kind="bias")),
            MatrixRecipe(f"{index}.o", stacked("out"), format),
            MatrixRecipe(f"{index}.gate_up", stacked("gate", "up"), format, "silu"),
            MatrixRecipe(f"{index}.down", stacked("down"), format),
        ]
    return found


def packed_model(model: Inkwell, matrices: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
    config = model.config

    layers = [
        PackedLayer(
            qkv=matrices[f"{index}.qkv"],
            o=matrices[f"{index}.o"],
            gate_up=matrices[f"{index}.gate_up"],
            down=matrices[f"{index}.down"],
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            epsilon=config.norm_eps,
            dtype=torch.float32 if format == "float32" else torch.bfloat16,
            attention_scale=layer.scale,
            input_norm=layer.attention_norm.weight.float().contiguous(),
            dense_norm=layer.mlp_norm.weight.float().contiguous(),
        )
        for index, layer in enumerate(model.layers)
    ]
    parts = PackedParts(
        layers=layers,
        places=[LayerPlace(None, model.rotary)] * config.depth,
        embed=TokenTable(model.embedding.weight),
        self_conditioning=None,
        norm=Norm(model.norm.weight.float(), config.norm_eps),
        head=PackedHead(matrices["head"], None, None),
        corruption=model.corruption,
        config=config,
        defaults=model.defaults,
        modes=model.modes,
        slides=False,
    )
    return PackedModel(parts, format, sum(matrix.nbytes for matrix in matrices.values()))
