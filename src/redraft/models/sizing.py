"""A checkpoint in numbers: parameters, and bytes by part, from headers alone."""

from collections import Counter
from math import prod

from redraft.kernels.int4 import GROUP
from redraft.kernels.packed import Format
from redraft.models.base import KV_BLOCK, PREFILL_CHUNK, max_blocks
from redraft.models.checkpoint import Checkpoint

# An int4 weight has a share of its group's scale and minimum, in float16 each; int8's scales, one a row, are too few
# to count.
_ITEM_BYTES: dict[Format, float] = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.5 + 4 / GROUP}


def parameters(found: Checkpoint) -> tuple[int, int]:
    """Return (all, active for one token): of experts only the chosen share is active. Tied weights count once."""
    total = active = 0
    for name, tensor in found.tensors.items():
        size = prod(tensor.shape)
        total += size
        active += round(size * found.family.role(name, found.config).active)
    return total, active


def part_bytes(found: Checkpoint, format: Format) -> dict[str, int]:
    """Return bytes of each part's weights in ``format``, largest first; padding and the scales of int8 are left out."""
    stored, sizes = found.family.stored_name, Counter[str]()
    packed = {stored(name): recipe.format for recipe in found.recipes(format) for name in recipe.weights}
    # Only matrices are quantised.
    rest: Format = "float32" if format in ("int8", "int4") else format
    for name, tensor in found.tensors.items():
        kept = packed.get(name, format if len(tensor.shape) > 1 else rest)
        sizes[found.family.role(name, found.config).part] += round(prod(tensor.shape) * _ITEM_BYTES[kept])
    return dict(sizes.most_common())


def kv_bytes(found: Checkpoint, format: Format, positions: int, prefill_chunk: int = PREFILL_CHUNK) -> int:
    """Return the bytes of keys and values that a sequence of so many positions takes at a time at most."""
    item, blocks = 4 if format == "float32" else 2, -(-positions // KV_BLOCK)
    written, total = max(prefill_chunk, found.config.canvas_length), 0
    for kv_heads, head_dim, kept in found.cache_layout:
        held = blocks if kept is None else min(blocks, max_blocks(kept + written, KV_BLOCK))
        total += held * KV_BLOCK * 2 * kv_heads * head_dim * item
    return total


def kv_bytes_per_token(found: Checkpoint) -> tuple[int, int]:
    """Return (bytes that the sliding layers of one sequence take at most, bytes a token of all full layers).

    A sliding layer needs blocks for its window and for what is written at a time, see ``engine.memory``.
    """
    itemsize = 4 if found.format("auto") == "float32" else 2
    fixed = per_token = 0
    for kv_heads, head_dim, kept in found.cache_layout:
        token = 2 * kv_heads * head_dim * itemsize
        if kept is None:
            per_token += token
        else:
            written = max(PREFILL_CHUNK, found.config.canvas_length)
            fixed += token * KV_BLOCK * max_blocks(kept + written, KV_BLOCK)
    return fixed, per_token
