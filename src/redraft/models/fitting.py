"""Refuses what does not fit the memory before weights are read, with the numbers and with what would fit.

A process that takes more memory than there is gets killed, and nobody is told why.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from redraft.errors import RequestError, RoomError
from redraft.kernels.packed import Format
from redraft.models.checkpoint import Checkpoint
from redraft.models.choice import has_kernels
from redraft.models.footprint import PLAIN, Footprint, Use, footprint
from redraft.models.published import Copy, copies
from redraft.models.sizing import kv_bytes
from redraft.room import Memory, size_text

# The share of what is left beside weights that keys and values may take: the rest is for what nobody counted.
_KV_SHARE = 0.9
# More bytes than a parameter takes in any format while it is packed, and than all else does: where so many are free,
# nothing has to be counted.
_SURELY, _SURELY_BESIDE = 16, 2_000_000_000
# The formats that take less, largest first.
_SMALLER: dict[Format, tuple[Format, ...]] = {
    "float32": ("bfloat16", "int8", "int4"),
    "bfloat16": ("int8", "int4"),
    "int8": ("int4",),
    "int4": (),
}


@dataclass(frozen=True)
class Alternative:
    """A way to have a model within some memory."""

    words: str
    needed: int
    """Bytes of memory."""


def check_fits(
    found: Checkpoint,
    format: Format,
    memory: Memory | None,
    use: Use = PLAIN,
    *,
    allowed: int | None = None,
    packed: bool = False,
) -> int | None:
    """Return the bytes that keys and values may take beside the weights; None where nothing limits them.

    ``allowed``: the bytes that a user allows keys and values. ``packed``: as in ``footprint``. Raises RoomError with
    the numbers, and with what would fit, where the weights with a request of ``use``, or packing, take more than there
    is.
    """
    if memory is None:
        return None
    surely = _SURELY * sum(prod(tensor.shape) for tensor in found.tensors.values()) + _SURELY_BESIDE
    if surely + (allowed or 0) < memory.free:
        return int(_KV_SHARE * (memory.free - surely))
    own = footprint(found, format, use, packed=packed)
    if allowed is not None:
        own = replace(own, keys_values=allowed)
    if own.needed > memory.free:
        raise RoomError(refusal(found, own, memory, use, packed=packed, allowed=allowed))
    return max(own.keys_values, int(_KV_SHARE * (memory.free - own.beside_keys_values)))


def refusal(
    found: Checkpoint,
    own: Footprint,
    memory: Memory,
    use: Use = PLAIN,
    *,
    packed: bool = False,
    allowed: int | None = None,
) -> str:
    """Say what does not fit, by how much, and what would."""
    parts = (
        f"weights {size_text(own.weights)}, keys and values {size_text(own.keys_values)}, scratch "
        f"{size_text(own.scratch)}, tokenizer {size_text(own.tokenizer)}"
    )
    if own.packing > own.running:
        parts += f"; at its peak packing them takes {size_text(own.packing)}"
    words = [one.words for one in alternatives(found, own, memory, use, packed=packed, allowed=allowed)]
    advice = f"what fits: {'; '.join(words)}" if words else "nothing smaller of it fits"
    return (
        f"{found.path} as {own.format} takes {size_text(own.needed)} of memory ({parts}), and {memory.limit} has "
        f"{size_text(memory.free)} left. {advice[0].upper()}{advice[1:]}. To load it all the same: --memory none, in "
        "Python memory=None"
    )


def alternatives(
    found: Checkpoint,
    own: Footprint,
    memory: Memory,
    use: Use = PLAIN,
    *,
    packed: bool = False,
    allowed: int | None = None,
) -> Iterator[Alternative]:
    """Yield what would fit: fewer keys and values, smaller formats, published copies of the same model."""
    left, one = memory.free - own.beside_keys_values, kv_bytes(found, own.format, use.context)
    if own.packing <= memory.free and left > 0:
        if allowed is not None:
            yield Alternative(f"kv_bytes {left:,} or less", memory.free)
        elif use.concurrency > 1 and left >= one:
            count = left // one
            yield Alternative(f"{count} of {use.concurrency} requests at a time", own.beside_keys_values + count * one)
        elif context := _longest(found, own.format, left):
            yield Alternative(f"a context of {context:,} tokens", memory.free)
    for format in smaller_formats(found, own.format, use.device):
        other = footprint(found, format, use)
        if other.needed <= memory.free:
            yield Alternative(f"dtype {format} ({size_text(other.needed)})", other.needed)
    for copy, needed in fitting_copies(found, memory, use):
        yield Alternative(f"{copy.name} ({copy.stored}, {size_text(needed)})", needed)


def fitting_copies(found: Checkpoint, memory: Memory, use: Use) -> Iterator[tuple[Copy, int]]:
    """Yield the published copies of a model, largest first, whose numbers take less than it and fit, with what they
    take."""
    for copy in copies(found.config):
        if copy.dtype in ("int8", "int4") and not has_kernels(use.device):
            continue
        needed = footprint(found, copy.dtype, use).needed
        if needed <= memory.free and copy.name != str(found.path):
            yield copy, needed


def smaller_formats(found: Checkpoint, format: Format, device: str) -> tuple[Format, ...]:
    """Return the formats that a checkpoint can be loaded in and that take less than ``format``, largest first."""
    if found.packed is not None:
        return ()
    return tuple(other for other in _SMALLER[format] if other == "bfloat16" or has_kernels(device))


def _longest(found: Checkpoint, format: Format, left: int) -> int:
    """Return the longest context whose keys and values fit, in hundreds of tokens; 0 for less than one canvas."""
    low, high = 0, found.config.context_length
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if kv_bytes(found, format, middle) <= left else (low, middle - 1)
    return low // 100 * 100 if low > max(100, found.config.canvas_length) else 0


def check_use(found: Checkpoint, use: Use) -> None:
    """Raise RequestError for a use that the model cannot be put to, whatever the memory."""
    if use.context > found.config.context_length:
        raise RequestError(
            f"a context of {use.context:,} tokens is more than the {found.config.context_length:,} of {found.path}"
        )
    if use.context < 1 or use.concurrency < 1:
        raise RequestError("a context and a number of requests are at least 1")
