"""A checkpoint in numbers: parameters, and bytes by part, from headers alone."""

from collections import Counter
from math import prod

from redraft.models.checkpoint import Checkpoint

# "auto" chooses one of these.
_ITEM_BYTES = {"float32": 4, "bfloat16": 2}
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


def part_bytes(found: Checkpoint) -> dict[str, int]:
    """Bytes of each part in the dtype that "auto" computes in, largest first."""
    itemsize = _ITEM_BYTES[found.format("auto")]
    sizes: Counter[str] = Counter()
    for name, tensor in found.tensors.items():
        part = next((part for mark, part in _PARTS if mark in name), "norms and scalars")
        sizes[part] += prod(tensor.shape) * itemsize
    return dict(sizes.most_common())


def kv_bytes_per_token(found: Checkpoint) -> tuple[int, int]:
    """(bytes of all sliding layers once their windows are full, bytes a token of all full layers).

    A sliding layer's buffer holds twice its window, see ``engine.kv_cache``.
    """
    itemsize = _ITEM_BYTES[found.format("auto")]
    fixed = per_token = 0
    for spec in found.config.layers:
        token = 2 * spec.kv_heads * spec.head_dim * itemsize
        if spec.window is None:
            per_token += token
        else:
            fixed += token * 2 * (spec.window - 1)
    return fixed, per_token
