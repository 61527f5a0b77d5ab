"""The dtype that "auto" stands for: what is exact or as stored where that is little, else the most exact that fits."""

from collections import Counter
from dataclasses import dataclass
from math import prod

import torch

from redraft.kernels.packed import Format
from redraft.kernels.triton.status import status
from redraft.models.checkpoint import AUTO_FLOAT32, Checkpoint, DType
from redraft.models.footprint import PLAIN, Use, footprint
from redraft.room import Memory, size_text

_BY_EXACTNESS: tuple[Format, ...] = ("float32", "bfloat16", "int8", "int4")


@dataclass(frozen=True)
class Choice:
    """The format that a checkpoint is computed in."""

    format: Format
    reason: str
    """Why, in words that follow the format."""
    usual: bool = True
    """False where somebody may have expected another, and should be told."""


def choose(
    found: Checkpoint,
    dtype: DType = "auto",
    memory: Memory | None = None,
    use: Use = PLAIN,
    *,
    packed: frozenset[Format] = frozenset(),
) -> Choice:
    """Choose the format of a checkpoint on ``use.device``.

    memory: what may be taken; None for what nobody limits. packed: the formats that were packed before, and are kept.
    A dtype other than "auto" is taken as it is. "auto" is what packed weights are packed in; what the checkpoint's
    makers measured it in; float32, which keeps what any file holds, below half a billion parameters; the format that
    keeps the whole numbers of a quantised copy; else float32 or bfloat16, as the file has it, or the first of int8 and
    int4 that the memory holds. int8 and int4 are for the CPU, and for devices that have kernels for them.
    Raises CheckpointError as ``Checkpoint.format``.
    """
    packs = has_kernels(use.device)
    format = found.format(dtype)
    if dtype != "auto":
        return Choice(format, "as was asked for")
    if found.packed is not None:
        if packs or found.packed in ("float32", "bfloat16"):
            return Choice(found.packed, "as it is packed")
        reason = status(use.device).reason
        return Choice(
            "bfloat16", f"dequantised: {use.device} has no kernels for {found.packed} ({reason})", usual=False
        )
    if found.measured_in is not None and (packs or found.measured_in in ("float32", "bfloat16")):
        return Choice(found.measured_in, "as its makers measured it")
    if sum(prod(tensor.shape) for tensor in found.tensors.values()) < AUTO_FLOAT32:
        return Choice(format, "exact, for a model of less than half a billion parameters")
    if packs and (kept := _kept(found)) is not None:
        return Choice(kept, f"which keeps the numbers that it is stored in, {found.quantised}", usual=False)
    if not packs or memory is None:
        return Choice(format, "as exact as the file" if found.quantised is None else "more exact than the file")
    return _fitting(found, format, memory, use, packed)


def has_kernels(device: str) -> bool:
    """Tell whether int8 and int4 are computed with as they are on a device; elsewhere torch dequantises them for each
    product."""
    return torch.device(device).type == "cpu" or status(device).used


def _fitting(found: Checkpoint, best: Format, memory: Memory, use: Use, packed: frozenset[Format]) -> Choice:
    candidates = _BY_EXACTNESS[_BY_EXACTNESS.index(best) :]
    needed = {best: footprint(found, best, use, packed=best in packed).needed}
    if needed[best] <= memory.free:
        return Choice(best, "as exact as the file" if found.quantised is None else "more exact than the file")
    for format in candidates[1:]:
        needed[format] = footprint(found, format, use, packed=format in packed).needed
        if needed[format] <= memory.free:
            break
    # Where nothing fits, whoever loads it says so, of the smallest.
    return Choice(
        format,
        f"{size_text(needed[format])}: {best} takes {size_text(needed[best])}, and {memory.limit} has "
        f"{size_text(memory.free)} left",
        usual=False,
    )


def _kept(found: Checkpoint) -> Format | None:
    """Return the format that keeps the whole numbers of most of the parameters; None where none does."""
    sizes: Counter[Format | None] = Counter()
    for tensor in found.tensors.values():
        sizes[None if tensor.grid is None else tensor.grid.kept_as] += prod(tensor.shape)
    return sizes.most_common(1)[0][0]
