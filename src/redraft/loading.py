"""``redraft.load``: from a name to an engine."""

import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from redraft.api import Engine
from redraft.engine.request import check_same_vocabulary, check_whole
from redraft.errors import RequestError
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS
from redraft.kernels.triton.status import status
from redraft.models import checkpoint, hub
from redraft.models.base import DEVICE_PREFILL_CHUNK, PREFILL_CHUNK, BlockDiffusionModel, WindowPolicy
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.choice import Choice, choose
from redraft.models.fitting import check_fits
from redraft.models.footprint import CONTEXT, Use, footprint
from redraft.models.names import DEFAULT_MODEL
from redraft.models.on_device import DeviceModel
from redraft.models.origin import Origin
from redraft.models.packed_cache import OnPacking, PackFolder, PackingStep, is_kept, load_packed
from redraft.models.remote import is_here, read_headers
from redraft.models.tokenizer import ChatTokenizer
from redraft.room import MemoryLimit, Taken, allowed, meant, size_text

_LOG = logging.getLogger("redraft")


def load(
    source: str | Path = DEFAULT_MODEL,
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
    """Load a checkpoint: a bundled name ("pocket", "sudoku"), a folder, a GGUF file, or a hub id.

    revision: branch, tag or commit of a hub id. dtype: "float32", which is exact, "bfloat16", "int8" or "int4" (weights
    in so many bits, activations in 8 on the CPU and in bfloat16 elsewhere: lossy), or "auto": what the makers of a
    checkpoint measured it in, where they say so; float32 for models below half a billion parameters, what keeps the
    numbers of a quantised copy, else what the files hold or, where the memory is too small for it, the first of int8
    and int4 that fits; on a device without kernels for these, bfloat16 (``engine.origin.choice`` says why). Weights
    that are packed already load dequantised in "float32" and "bfloat16". device: "cpu", where the compiled kernels are
    used if there are any, "cuda", "mps", or "auto", which is a CUDA device where there is one and the dtype runs on it,
    else the CPU.
    prefill_chunk: prompt positions encoded in one forward, by default 256 on the CPU and 2,048 elsewhere.
    window_policy: what sliding layers show a canvas of a context longer than their window ("shared": to all positions
    what the first one sees; "per_query": to each its own); a model without such layers has the default alone.
    kv_bytes: what the keys and values of all requests together may take, with those of a draft model and those that are
    kept for later prompts; without it they may take what the weights leave of the memory, and about as much is kept as
    was ever in use.
    pack_folder: where weights that were packed for the kernels are kept for the next load, "auto" for the checkpoint's
    folder or the user's cache, None for nowhere. on_packing: told how packing comes along; by default the logger
    "redraft" is, at level INFO. draft_model: the source of a small autoregressive model with the same vocabulary, which
    drafts in mode "speculative", and has to fit beside the model. memory: bytes that all of it may take; "auto" for
    what this machine, its control groups, or the device have left, None not to ask.

    Raises RequestError for a device that there is none of, RoomError, with what would fit, for what is larger than the
    memory, and CheckpointError saying what is missing, damaged or not supported; all before weights are read, and what
    can be known of a hub id before they are fetched.
    """
    check_device(device)
    if kv_bytes is not None:
        check_whole("kv_bytes", kv_bytes, 1)
    wanted = _Wanted(dtype, device, memory, kv_bytes, pack_folder)
    if not is_here(str(source), revision):
        # Before weights are fetched; the hub may be asked in vain, which ``find`` says.
        with suppress(hub.UnreachableError), read_headers(hub.survey(str(source), revision)) as remote:
            _judge(remote, wanted)
    found = checkpoint.read(checkpoint.find(source, revision))
    tokenizer = ChatTokenizer.from_checkpoint(found.path)
    judged, drafting = _judge(found, wanted), None
    if draft_model is not None:
        # Before weights are read.
        other = checkpoint.read(checkpoint.find(draft_model, None))
        sizes = (found.config.vocab_size, other.config.vocab_size)
        check_same_vocabulary(tokenizer, ChatTokenizer.from_checkpoint(other.path), sizes)
        judged, drafting = _judge_both(judged, other, wanted)
    device, told = judged.device, on_packing or _log_packing
    if prefill_chunk is None:
        prefill_chunk = PREFILL_CHUNK if torch.device(device).type == "cpu" else DEVICE_PREFILL_CHUNK
    model = _load_model(judged, window_policy, pack_folder, told)
    drafter = None
    if drafting is not None:
        draft = _load_model(drafting, "shared", pack_folder, told)
        drafter = Engine(draft, ChatTokenizer.from_checkpoint(drafting.found.path), prefill_chunk)
        drafter.runtime.origin = drafting.origin(str(draft_model), prefill_chunk, "shared")
    engine = Engine(model, tokenizer, prefill_chunk, kv_bytes, draft=drafter)
    if judged.left is not None:
        engine.runtime.pool.limit(judged.left)
    engine.runtime.origin = judged.origin(str(source), prefill_chunk, window_policy)
    return engine


def share_out(
    sources: Sequence[str | Path],
    *,
    dtype: DType = "auto",
    device: str = "auto",
    memory: MemoryLimit = "auto",
    kv_bytes: int | None = None,
    pack_folder: PackFolder = "auto",
) -> list[MemoryLimit]:
    """Judge several models together, before weights of any are fetched or read -> the ``memory`` to load each with, one
    after the other. Parameters as in ``load``; the models share ``kv_bytes``.

    Raises RoomError, with the numbers and the names, where one does not fit beside those before it; CheckpointError for
    one that cannot be read.
    """
    if len(sources) == 1:
        return [memory]
    check_device(device)
    limits: list[MemoryLimit] = []
    taken: list[Taken] = []
    for source in sources:
        limit = meant(memory)
        limits.append(max(1, limit - sum(one.nbytes for one in taken)) if isinstance(limit, int) else limit)
        with suppress(hub.UnreachableError), ExitStack() as stack:
            if is_here(str(source), None):
                found = checkpoint.read(checkpoint.find(source, None))
            else:
                found = stack.enter_context(read_headers(hub.survey(str(source), None)))
            # What all models' keys and values may take together is counted once, beside the last one's weights.
            last = len(limits) == len(sources)
            judged = _judge(found, _Wanted(dtype, device, memory, kv_bytes if last else None, pack_folder), taken)
            taken.append(judged.taken(str(source), with_keys_values=kv_bytes is None))
    return limits


@dataclass(frozen=True)
class _Wanted:
    """The wishes of a caller: the place and the format of computing, and the memory for it."""

    dtype: DType
    device: str
    memory: MemoryLimit
    kv_bytes: int | None
    pack_folder: PackFolder


@dataclass(frozen=True, eq=False)
class _Judged:
    """A checkpoint that fits."""

    found: Checkpoint
    choice: Choice
    device: str
    use: Use
    packed: bool
    left: int | None
    """The bytes that its weights leave for keys and values; None where nobody can tell."""

    def taken(self, name: str, with_keys_values: bool = True) -> Taken:
        """Return what it takes once it is loaded."""
        own = footprint(self.found, self.choice.format, self.use, packed=self.packed)
        return Taken(name, own.running if with_keys_values else own.beside_keys_values, self.device)

    def origin(self, source: str, prefill_chunk: int, window_policy: WindowPolicy) -> Origin:
        """Return the origin of its engine."""
        return Origin(source, self.found, self.choice.format, self.device, prefill_chunk, window_policy, self.choice)


def _judge(found: Checkpoint, wanted: _Wanted, taken: Sequence[Taken] = ()) -> _Judged:
    """Return what a checkpoint is computed in, and where, beside what is ``taken``; RoomError where it leaves too few
    bytes for keys and values, CheckpointError where nothing computes that there."""
    choice = chosen_format(found, wanted.dtype, wanted.device, wanted.memory, wanted.pack_folder, taken)
    device = chosen_device(wanted.device, lossy=choice.format in ("int8", "int4"))
    use = Use(min(CONTEXT, found.config.context_length), device=device)
    packed = is_kept(found, choice.format, wanted.pack_folder)
    room = allowed(wanted.memory, device, taken)
    left = check_fits(found, choice.format, room, use, allowed=wanted.kv_bytes, packed=packed)
    return _Judged(found, choice, device, use, packed, left)


def _judge_both(alone: _Judged, drafting: Checkpoint, wanted: _Wanted) -> tuple[_Judged, _Judged]:
    """Judge a model that fits alone and the model that drafts for it there, each beside the other; errors as of one."""
    of_draft = replace(wanted, dtype="auto", device=alone.device, kv_bytes=None)
    first = _judge(drafting, of_draft)
    judged = _judge(alone.found, wanted, [first.taken(f"the draft model {drafting.path}")])
    # Packed after the model is loaded.
    return judged, _judge(drafting, of_draft, [judged.taken(f"the model {alone.found.path}")])


def chosen_format(
    found: Checkpoint,
    dtype: DType,
    device: str,
    memory: MemoryLimit,
    pack_folder: PackFolder,
    taken: Sequence[Taken] = (),
) -> Choice:
    """Return the format that ``load`` computes a checkpoint in beside what is ``taken``, and why."""
    place = chosen_device(device, lossy=found.packed in ("int8", "int4"))
    use = Use(min(CONTEXT, found.config.context_length), device=place)
    # What is asked for is not counted; and what was packed before is not packed again.
    kept = frozenset(format for format in FORMATS if is_kept(found, format, pack_folder)) if dtype == "auto" else None
    return choose(found, dtype, allowed(memory, place, taken), use, packed=kept or frozenset())


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
    judged: _Judged, window_policy: WindowPolicy, pack_folder: PackFolder, on_packing: OnPacking
) -> BlockDiffusionModel:
    found, format, device = judged.found, judged.choice.format, judged.device
    _LOG.info("computing %s as %s: %s", found.path.name, format, judged.choice.reason)
    # A family without sliding layers knows no such option: only a choice is passed on.
    options = {} if window_policy == "shared" else {"window_policy": window_policy}
    lossy = format in ("int8", "int4")
    if torch.device(device).type == "cpu" and (lossy or bindings.kernels() is not None):
        return load_packed(found, format, options, pack_folder=pack_folder, on_packing=on_packing)
    if lossy:
        packed = load_packed(found, format, options, pack_folder=pack_folder, on_packing=on_packing)
        return DeviceModel(packed, device)
    return found.load(format, options).to(device)
