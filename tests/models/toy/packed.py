"""Inkwell for the kernels."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.kernels.layer import PackedLayer
from redraft.kernels.linear import Norm
from redraft.kernels.packed import Format, PackedMatrix, pack, pack_gated
from redraft.kernels.readout import PackedHead
from redraft.models.packed import LayerPlace, PackedModel, PackedParts
from tests.models.toy.model import Inkwell


def pack_weights(model: Inkwell, format: Format) -> Iterator[tuple[str, PackedMatrix]]:
    """The head is read as keys of the whole vocabulary, which int4 cannot be."""
    yield "head", pack(model.head.weight, "int8" if format == "int4" else format)
    for index, layer in enumerate(model.layers):
        parts = layer.query, layer.key, layer.value
        bias = torch.cat([part.bias for part in parts])
        yield f"{index}.qkv", pack(torch.cat([part.weight for part in parts]), format, bias)
        yield f"{index}.o", pack(layer.out.weight, format)
        yield f"{index}.gate_up", pack_gated(torch.cat((layer.gate.weight, layer.up.weight)), format, "silu")
        yield f"{index}.down", pack(layer.down.weight, format)


def packed_model(model: Inkwell, matrices: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
    config = model.config

    def embed(tokens: Tensor) -> Tensor:
        return F.embedding(tokens, model.embedding.weight).float()

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
        embed=embed,
        self_conditioning=None,
        norm=Norm(model.norm.weight.float(), config.norm_eps),
        head=PackedHead(matrices["head"], None, None),
        corruption=model.corruption,
        config=config,
        defaults=model.defaults,
        slides=False,
    )
    return PackedModel(parts, format, sum(matrix.nbytes for matrix in matrices.values()))
