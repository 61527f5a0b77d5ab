"""``redraft.load``: from a name to an engine."""

from pathlib import Path

import torch

from redraft.api import Engine
from redraft.errors import CheckpointError
from redraft.kernels import bindings
from redraft.models import checkpoint
from redraft.models.base import PREFILL_CHUNK, BlockDiffusionModel, WindowPolicy
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.origin import Origin
from redraft.models.packed_cache import load_packed
from redraft.models.tokenizer import ChatTokenizer


def load(
    source: str | Path,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    prefill_chunk: int = PREFILL_CHUNK,
    window_policy: WindowPolicy = "shared",
    kv_bytes: int | None = None,
) -> Engine:
    """Load a checkpoint: a bundled name ("sudoku"), a folder, a GGUF file, or a hub id.

    dtype: "float32", which is exact, "bfloat16", "int8" or "int4" (weights in so many bits, activations in 8: lossy),
    or "auto", which is float32 for models below half a billion parameters and what the checkpoint stores for larger
    ones. device: any torch device; on the CPU the compiled kernels are used where there are any. prefill_chunk: prompt
    positions encoded in one forward. window_policy: what sliding layers show a canvas of a context longer than their
    window ("shared": to all positions what the first one sees; "per_query": to each its own); a model without such
    layers has the default alone. kv_bytes: what the keys and values of all requests together may take, with those
    that are kept for later prompts; without a limit, about as much is kept as was ever in use at a time.

    Raises CheckpointError saying what is missing, damaged or not supported.
    """
    found = checkpoint.read(checkpoint.find(source))
    tokenizer = ChatTokenizer.from_checkpoint(found.path)
    engine = Engine(_load_model(found, dtype, device, window_policy), tokenizer, prefill_chunk, kv_bytes)
    engine.runtime.origin = Origin(str(source), found, found.format(dtype), device, prefill_chunk, window_policy)
    return engine


def _load_model(found: Checkpoint, dtype: DType, device: str, window_policy: WindowPolicy) -> BlockDiffusionModel:
    # A family without sliding layers knows no such option: only a choice is passed on.
    options = {} if window_policy == "shared" else {"window_policy": window_policy}
    format = found.format(dtype)
    lossy = format in ("int8", "int4")
    if lossy and torch.device(device).type != "cpu":
        raise CheckpointError(f"dtype {format!r} runs on the CPU only; choose 'bfloat16' or 'float32' for {device!r}")
    if torch.device(device).type == "cpu" and (lossy or bindings.kernels() is not None):
        return load_packed(found, format, options)
    return found.load(format, options).to(device)
