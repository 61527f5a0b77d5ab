"""A checkpoint in numbers: parameters, and bytes by part, from headers alone."""

from collections import Counter
from math import prod

from redraft.kernels.packed import GROUP, Format
from redraft.models.base import KV_BLOCK, PREFILL_CHUNK, most_blocks
from redraft.models.checkpoint import Checkpoint, StoredTensor

# An int4 weight has a share of its group's float32 scale; the scales of int8, one a row, are too few to count.
_ITEM_BYTES: dict[Format, float] = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.5 + 4 / GROUP}
# Looked for in a tensor's hub name, in this order.
_PARTS = (
    ("embed_tokens", "embedding and head"),
    ("self_attn", "attention"),
    (".experts.", "experts"),
    (".router.", "routers"),
    ("self_conditioning", "self-conditioning"),
    (".mlp.", "dense feed-forward"),
)


def parameters(found: Checkpoint) -> tuple[int, int]:
    """(all, active for one token): of the experts only the chosen share is active. Tied weights count once."""
    share = found.config.top_k_experts / found.config.num_experts
    total = active = 0
    for name, tensor in found.tensors.items():
        size = prod(tensor.shape)
        total += size
        active += round(size * share) if ".experts." in name else size
    return total, active


def part_bytes(found: Checkpoint, format: Format) -> dict[str, int]:
    """Bytes of each part's weights in ``format``, largest first; padding and the scales of int8 are left out."""
    sizes: Counter[str] = Counter()
    for name, tensor in found.tensors.items():
        part = next((part for mark, part in _PARTS if mark in name), "norms and scalars")
        sizes[part] += round(prod(tensor.shape) * _ITEM_BYTES[_stored_as(part, tensor, format)])
    return dict(sizes.most_common())


def _stored_as(part: str, tensor: StoredTensor, format: Format) -> Format:
    """What ``models.diffusion_gemma.packed`` keeps a tensor as where not all are packed alike."""
    if format in ("int8", "int4") and (part == "routers" or len(tensor.shape) < 2):
        return "float32"
    return "int8" if format == "int4" and part == "embedding and head" else format


def kv_bytes_per_token(found: Checkpoint) -> tuple[int, int]:
    """(bytes that the sliding layers of one sequence take at most, bytes a token of all full layers).

    A sliding layer needs blocks for its window and for what is written at a time, see ``engine.memory``.
    """
    itemsize = 4 if found.format("auto") == "float32" else 2
    fixed = per_token = 0
    for spec in found.config.layers:
        token = 2 * spec.kv_heads * spec.head_dim * itemsize
        if spec.window is None:
            per_token += token
        else:
            written = max(PREFILL_CHUNK, found.config.canvas_length)
            fixed += token * KV_BLOCK * most_blocks(spec.window - 1 + written, KV_BLOCK)
    return fixed, per_token
