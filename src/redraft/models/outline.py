"""A checkpoint's model as the kernels would have it, without its numbers: for counting bytes and work from headers."""

from math import prod

import torch

from redraft.kernels import packed
from redraft.kernels.packed import Format
from redraft.models.checkpoint import Checkpoint
from redraft.models.packed import PackedModel


def outline(found: Checkpoint, format: Format) -> PackedModel:
    """Return the packed model with its matrices on torch's "meta" device. It takes no memory, and computes nothing;
    norms and scalars, which are read when a model is put together, are zeros."""
    model = found.without_weights()
    described = dict(model.state_dict())
    small = {name for name, tensor in described.items() if found.family.beside(name) and tensor.ndim < 2}
    model.load_state_dict({name: torch.zeros(described[name].shape) for name in small}, strict=False, assign=True)
    matrices = {
        recipe.name: packed.outline(recipe.shape(found.shape), biased=bool(recipe.biases))
        for recipe in found.recipes(format)
    }
    return found.family.packed(model, matrices, format)


def beside_bytes(found: Checkpoint) -> tuple[int, int]:
    """Return what stands beside packed matrices: bytes of norms and scalars in memory, and of tables that are looked
    up, as files store them."""
    small = tables = 0
    for name in found.without_weights().state_dict():
        if not found.family.beside(name):
            continue
        stored = found.tensors[found.family.stored_name(name)]
        if len(stored.shape) < 2:
            small += 4 * prod(stored.shape)
        else:
            tables += stored.dtype.itemsize * prod(stored.shape)
    return small, tables
