"""``redraft.load``: from a name to an engine."""

import logging
import re
from contextlib import suppress
from pathlib import Path

import torch

from redraft.api import Engine
from redraft.engine.request import check_same_vocabulary, check_whole
from redraft.errors import RequestError
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.kernels.triton.status import status
from redraft.models import checkpoint, hub
from redraft.models.base import DEVICE_PREFILL_CHUNK, PREFILL_CHUNK, BlockDiffusionModel, WindowPolicy
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.choice import Choice, choose
from redraft.models.fitting import check_fits
from redraft.models.footprint import CONTEXT, Use
from redraft.models.on_device import DeviceModel
from redraft.models.origin import Origin
from redraft.models.packed_cache import OnPacking, PackFolder, PackingStep, is_kept, load_packed
from redraft.models.remote import is_here, read_headers
from redraft.models.tokenizer import ChatTokenizer
from redraft.room import MemoryLimit, allowed, size_text

_LOG = logging.getLogger("redraft")


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    prefill_chunk: int | None = None,
    window_policy: WindowPolicy = "shared",
    kv_bytes: int | None = None,
    pack_folder: PackFolder = "auto",
    on_packing: OnPacking | None = None,
    draft_model: str | Path | None = None,
    memory: MemoryLimit = "auto",
) -> Engine:
    """Load a checkpoint: a bundled name ("sudoku"), a folder, a GGUF file, or a hub id.

    revision: branch, tag or commit of a hub id. dtype: "float32", which is exact, "bfloat16", "int8" or "int4" (weights
    in so many bits, activations in 8 on the CPU and in bfloat16 elsewhere: lossy), or "auto": float32 for models below
    half a billion parameters, what keeps the numbers of a quantised copy, else what the files hold or, where the memory
    is too small for it, the first of int8 and int4 that fits; on a device without kernels for these, bfloat16
    (``engine.origin.choice`` says why). Weights that are packed already load dequantised in
    "float32" and "bfloat16". device: "cpu", where the compiled kernels are used if there are any,
    "cuda", "mps", or "auto", which is a CUDA device where there is one and the dtype runs on it, else the CPU.
    prefill_chunk: prompt positions encoded in one forward, by default 256 on the CPU and 2,048 elsewhere.
    window_policy: what sliding layers show a canvas of a context longer than their window ("shared": to all positions
    what the first one sees; "per_query": to each its own); a model without such layers has the default alone.
    kv_bytes: what the keys and values of all requests together may take, with those of a draft model and those that are
    kept for later prompts; without it they may take what the weights leave of the memory, and about as much is kept as
    was ever in use.
    pack_folder: where weights that were packed for the kernels are kept for the next load, "auto" for the checkpoint's
    folder or the user's cache, None for nowhere. on_packing: told how packing comes along; by default the logger
    "redraft" is, at level INFO. draft_model: the source of a small autoregressive model with the same vocabulary, which
    drafts in mode "speculative". memory: bytes that all of it may take; "auto" for what this machine, its control
    groups, or the device have left, None not to ask.

    Raises RequestError for a device that there is none of, RoomError, with what would fit, for what is larger than the
    memory, and CheckpointError saying what is missing, damaged or not supported; all before weights are read, and what
    can be known of a hub id before they are fetched.
    """
    check_device(device)
    if kv_bytes is not None:
        check_whole("kv_bytes", kv_bytes, 1)
    if not is_here(str(source), revision):
        # Before weights are fetched; the hub may be asked in vain, which ``find`` says.
        with suppress(hub.UnreachableError), read_headers(hub.survey(str(source), revision)) as remote:
            _judge(remote, dtype, device, memory, kv_bytes, pack_folder)
    found = checkpoint.read(checkpoint.find(source, revision))
    choice, device, left = _judge(found, dtype, device, memory, kv_bytes, pack_folder)
    format = choice.format
    if prefill_chunk is None:
        prefill_chunk = PREFILL_CHUNK if torch.device(device).type == "cpu" else DEVICE_PREFILL_CHUNK
    tokenizer = ChatTokenizer.from_checkpoint(found.path)
    if draft_model is not None:
        # Before weights are read.
        other = checkpoint.read(checkpoint.find(draft_model, None))
        drafting = ChatTokenizer.from_checkpoint(other.path)
        check_same_vocabulary(tokenizer, drafting, (found.config.vocab_size, other.config.vocab_size))
    model = _load_model(found, format, device, window_policy, pack_folder, on_packing or _log_packing)
    draft = None
    if draft_model is not None:
        draft = load(draft_model, device=device, prefill_chunk=prefill_chunk, pack_folder=pack_folder, memory=memory)
    engine = Engine(model, tokenizer, prefill_chunk, kv_bytes, draft=draft)
    if left is not None:
        engine.runtime.pool.limit(left)
    engine.runtime.origin = Origin(str(source), found, format, device, prefill_chunk, window_policy, choice)
    return engine


def _judge(
    found: Checkpoint,
    dtype: DType,
    device: str,
    memory: MemoryLimit,
    kv_bytes: int | None,
    pack_folder: PackFolder,
) -> tuple[Choice, str, int | None]:
    """Return what a checkpoint is computed in, where, and the bytes that the weights leave for keys and values, None
    where nobody can tell; RoomError where they leave too few, CheckpointError where nothing computes that there."""
    choice = chosen_format(found, dtype, device, memory, pack_folder)
    device = chosen_device(device, lossy=choice.format in ("int8", "int4"))
    use = Use(min(CONTEXT, found.config.context_length), device=device)
    packed = is_kept(found, choice.format, pack_folder)
    left = check_fits(found, choice.format, allowed(memory, device), use, allowed=kv_bytes, packed=packed)
    return choice, device, left


def chosen_format(found: Checkpoint, dtype: DType, device: str, memory: MemoryLimit, pack_folder: PackFolder) -> Choice:
    """Return the format that ``load`` computes a checkpoint in, and why, which is logged."""
    place = chosen_device(device, lossy=found.packed in ("int8", "int4"))
    use = Use(min(CONTEXT, found.config.context_length), device=place)
    # What is asked for is not counted; and what was packed before is not packed again.
    kept = frozenset(format for format in FORMATS if is_kept(found, format, pack_folder)) if dtype == "auto" else None
    choice = choose(found, dtype, allowed(memory, place), use, packed=kept or frozenset())
    _LOG.info("computing %s as %s: %s", found.path.name, choice.format, choice.reason)
    return choice


def why_device(found: Checkpoint, dtype: DType = "auto") -> str:
    """Say which device "auto" stands for, of a checkpoint that is loaded in ``dtype``, and why."""
    format = found.packed if dtype == "auto" else dtype
    if not torch.cuda.is_available():
        others = " (device mps has to be asked for)" if torch.backends.mps.is_available() else ""
        return f"cpu: torch {torch.__version__} finds no CUDA device here{others}"
    card = torch.cuda.get_device_properties(0)
    named = f"{card.name}, {size_text(card.total_memory)}"
    kernels = status("cuda")
    if format in ("int8", "int4") and not kernels.used:
        return f"cpu: {named} is there, but has no kernels for {format} ({kernels.reason})"
    return f"cuda: {named}"


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


def chosen_device(device: str, *, lossy: bool) -> str:
    """Return the device that "auto" stands for; others stand for themselves. ``lossy``: for int8 or int4, which a card
    computes with where it has kernels for them."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() and not (lossy and not status("cuda").used) else "cpu"


def _log_packing(step: PackingStep) -> None:
    if step.done == 0:
        kept = f"kept in {step.folder}" if step.folder is not None else f"not kept: {step.reason}"
        _LOG.info("packing %s as %s, about %.1f GB, %s", step.source, step.format, step.total / 1e9, kept)


def _load_model(
    found: Checkpoint,
    format: Format,
    device: str,
    window_policy: WindowPolicy,
    pack_folder: PackFolder,
    on_packing: OnPacking,
) -> BlockDiffusionModel:
    # A family without sliding layers knows no such option: only a choice is passed on.
    options = {} if window_policy == "shared" else {"window_policy": window_policy}
    lossy = format in ("int8", "int4")
    if torch.device(device).type == "cpu" and (lossy or bindings.kernels() is not None):
        return load_packed(found, format, options, pack_folder=pack_folder, on_packing=on_packing)
    if lossy:
        packed = load_packed(found, format, options, pack_folder=pack_folder, on_packing=on_packing)
        return DeviceModel(packed, device)
    return found.load(format, options).to(device)
