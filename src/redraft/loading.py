"""``redraft.load``: from a name to an engine."""

import logging
import re
from pathlib import Path

import torch

from redraft.api import Engine
from redraft.engine.request import check_same_vocabulary
from redraft.errors import CheckpointError, RequestError
from redraft.kernels import bindings
from redraft.models import checkpoint
from redraft.models.base import PREFILL_CHUNK, BlockDiffusionModel, WindowPolicy
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.origin import Origin
from redraft.models.packed_cache import OnPacking, PackFolder, PackingStep, load_packed
from redraft.models.tokenizer import ChatTokenizer

_LOG = logging.getLogger("redraft")


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    prefill_chunk: int = PREFILL_CHUNK,
    window_policy: WindowPolicy = "shared",
    kv_bytes: int | None = None,
    pack_folder: PackFolder = "auto",
    on_packing: OnPacking | None = None,
    draft_model: str | Path | None = None,
) -> Engine:
    """Load a checkpoint: a bundled name ("sudoku"), a folder, a GGUF file, or a hub id.

    revision: branch, tag or commit of a hub id. dtype: "float32", which is exact, "bfloat16", "int8" or "int4" (weights
    in so many bits, activations in 8: lossy), or "auto", which is float32 for models below half a billion parameters
    and for files of float32, else bfloat16. device: "cpu", where the compiled kernels are used if there are any,
    "cuda", "mps", or "auto", which is a CUDA device where there is one and the dtype runs on it, else the CPU.
    prefill_chunk: prompt positions encoded in one forward. window_policy: what sliding layers show a canvas of a
    context longer than their window ("shared": to all positions what the first one sees; "per_query": to each its own);
    a model without such layers has the default alone. kv_bytes: what the keys and values of all requests together may
    take, with those of a draft model and those that are kept for later prompts; without a limit, about as much is kept
    as was ever in use.
    pack_folder: where weights that were packed for the kernels are kept for the next load, "auto" for the checkpoint's
    folder or the user's cache, None for nowhere. on_packing: told how packing comes along; by default the logger
    "redraft" is, at level INFO. draft_model: the source of a small autoregressive model with the same vocabulary, which
    drafts in mode "speculative".

    Raises RequestError for a device that there is none of, and CheckpointError saying what is missing, damaged or not
    supported; both before weights are read, and what can be known of a hub id before they are fetched.
    """
    check_device(device)
    found = checkpoint.read(checkpoint.find(source, revision))
    format = found.format(dtype)
    device = _chosen(device, lossy=format in ("int8", "int4"))
    tokenizer = ChatTokenizer.from_checkpoint(found.path)
    if draft_model is not None:
        # Before weights are read.
        other = checkpoint.read(checkpoint.find(draft_model, None))
        drafting = ChatTokenizer.from_checkpoint(other.path)
        check_same_vocabulary(tokenizer, drafting, (found.config.vocab_size, other.config.vocab_size))
    model = _load_model(found, dtype, device, window_policy, pack_folder, on_packing or _log_packing)
    draft = None
    if draft_model is not None:
        draft = load(draft_model, device=device, prefill_chunk=prefill_chunk, pack_folder=pack_folder)
    engine = Engine(model, tokenizer, prefill_chunk, kv_bytes, draft=draft)
    engine.runtime.origin = Origin(str(source), found, format, device, prefill_chunk, window_policy)
    return engine


def check_device(device: str) -> None:
    """Raise RequestError for a device that is unknown, or that this machine, or its torch, does not have."""
    if device == "auto":
        return
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise RequestError(f"device {device!r} is unknown; choose one of auto, cpu, cuda, mps") from error
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # What torch says after its first sentence is how it was built.
        reason = re.split(r"\.\s|\n", str(error).strip())[0] or type(error).__name__
        raise RequestError(
            f"device {device!r} cannot be used on this machine ({reason}); take 'cpu', or 'auto' for what there is"
        ) from error


def _chosen(device: str, *, lossy: bool) -> str:
    """Return the device that "auto" stands for; others stand for themselves."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() and not lossy else "cpu"


def _log_packing(step: PackingStep) -> None:
    if step.done == 0:
        kept = f"kept in {step.folder}" if step.folder is not None else f"not kept: {step.reason}"
        _LOG.info("packing %s as %s, about %.1f GB, %s", step.source, step.format, step.total / 1e9, kept)


def _load_model(
    found: Checkpoint,
    dtype: DType,
    device: str,
    window_policy: WindowPolicy,
    pack_folder: PackFolder,
    on_packing: OnPacking,
) -> BlockDiffusionModel:
    # A family without sliding layers knows no such option: only a choice is passed on.
    options = {} if window_policy == "shared" else {"window_policy": window_policy}
    format = found.format(dtype)
    lossy = format in ("int8", "int4")
    if lossy and torch.device(device).type != "cpu":
        raise CheckpointError(f"dtype {format!r} runs on the CPU only; choose 'bfloat16' or 'float32' for {device!r}")
    if torch.device(device).type == "cpu" and (lossy or bindings.kernels() is not None):
        return load_packed(found, format, options, pack_folder=pack_folder, on_packing=on_packing)
    return found.load(format, options).to(device)
