"""The numbers of ``redraft info`` against counting the reference model, and the cache's own buffers."""

from math import prod
from typing import Any

import pytest
import torch

from redraft.engine.memory import KVPool
from redraft.models import checkpoint
from redraft.models.base import KV_BLOCK
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.recipes import made_of
from redraft.models.sizing import kv_bytes_per_token, parameters, part_bytes
from tests.models.driving import encoded
from tests.random_checkpoint import random_checkpoint, reference_model

SHAPES = [{}, {"num_experts": 6, "top_k": 1, "layer_types": ["full_attention"]}, {"dtype": torch.bfloat16}]


@pytest.fixture(params=SHAPES, ids=str)
def found(request, tmp_path) -> checkpoint.Checkpoint:
    return checkpoint.read(random_checkpoint(tmp_path, **request.param))


def test_parameters_are_those_of_the_reference(found):
    model = reference_model(found.path)
    # Tied parameters appear once; both modes have a scalar a layer, which the reference keeps in buffers.
    sizes = {name: p.numel() for name, p in model.named_parameters() if "vision" not in name}
    scalars = 2 * len(found.config.layers)
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    idle = experts * (found.config.num_experts - found.config.top_k_experts) // found.config.num_experts
    total = sum(sizes.values()) + scalars
    assert parameters(found) == (total, total - idle)


def test_parts_add_up_to_the_loaded_model(found):
    state = found.load("auto").state_dict()
    assert sum(part_bytes(found, found.format("auto")).values()) == sum(value.nbytes for value in state.values())


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_packed_formats_take_what_is_said_and_their_padding(tmp_path, format):
    """Sizes that need no padding: the rest is the scales of int8, a float32 a row."""
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 128,
        "moe_intermediate_size": 128,
        "vocab_size": 256,
    }
    found = checkpoint.read(random_checkpoint(tmp_path, **sizes, head_dim=32, global_head_dim=32))
    model = found.load("float32")
    assert isinstance(model, DiffusionGemma)
    matrices = made_of(found.recipes(format), model.state_dict())
    packed = sum(matrix.nbytes for name, matrix in matrices.items() if "router" not in name)
    scales = sum(m.padded_outputs * m.count * 4 for m in matrices.values() if m.format == "int8")
    kept = sum(4 * prod(t.shape) for name, t in found.tensors.items() if len(t.shape) < 2 or "router" in name)
    assert sum(part_bytes(found, format).values()) == packed - scales + kept


def test_cache_bytes_are_what_the_layers_read(found):
    length = 40
    cache = encoded(found.load("auto"), torch.zeros(length, dtype=torch.long), chunk=1)
    read = 0
    for index, spec in enumerate(found.config.layers):
        own = sum(part.nbytes for blocks in cache.read(index) for part in blocks)
        read += own if spec.window is None else 0
    assert read == length * kv_bytes_per_token(found)[1]


def test_a_sequence_takes_at_most_what_is_said(found):
    pool = KVPool.of(found.load())
    fixed, per_token = kv_bytes_per_token(found)
    assert pool.bytes_for(KV_BLOCK * 1000) == fixed + KV_BLOCK * 1000 * per_token
