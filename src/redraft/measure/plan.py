"""``redraft.plan``: what a checkpoint takes on this machine, known before its weights are fetched or read.

Sizes are counted from headers, times measured on a sample of the model (``measure.sample``): both are estimates, and
say so. Of models whose shapes ship with Redraft, plans need no network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from redraft.errors import RequestError, counted
from redraft.kernels import bindings, library
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import check_device, chosen_device, chosen_format
from redraft.measure.allowed import weight_bytes
from redraft.measure.machine import describe as describe_machine
from redraft.measure.peak import step_multiply_adds
from redraft.measure.sample import Sample
from redraft.models import checkpoint, hub, published
from redraft.models.base import PREFILL_CHUNK, GenerationMode
from redraft.models.cache_folder import cache_folders
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.choice import has_kernels
from redraft.models.fitting import Alternative, alternatives, check_use
from redraft.models.footprint import CONTEXT, MAX_BATCH_ROWS, Footprint, Use, footprint
from redraft.models.outline import outline
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import PackFolder, is_kept
from redraft.models.remote import read_headers
from redraft.room import Memory, MemoryLimit, allowed, disk

STEPS = 16
"""Denoising steps of a canvas where nobody says how many: what published measurements of DiffusionGemma need."""
KEPT = ("exact", "scales rounded", "rounded again")
"""The fates of a copy's numbers here, the best first."""


@dataclass(frozen=True)
class Work:
    """A forward in numbers: what it reads and computes, and for how many tokens of the answer."""

    rows: int
    bytes: int
    """Bytes of the weights that some row needs."""
    multiply_adds: int
    experts: float | None
    """The share of the experts of a layer that some row is expected to choose; None without experts."""
    tokens: float
    """Tokens of the answer that it gives."""


@dataclass(frozen=True)
class Times:
    """Seconds, by the sample that was measured now; of all requests together where there are several."""

    prompt: float
    """To encode the prompt."""
    forward: float
    """A denoising step, or the forward that gives a token."""
    answer: float
    """The answer, its prompt included."""
    tokens_per_second: float
    """Tokens of the answer a second, of all requests together."""


@dataclass(frozen=True)
class CopyPlan:
    """A published copy of the same model."""

    name: str
    stored: str
    fetched: int
    """Bytes to fetch."""
    dtype: Format
    """The format that it is computed in here."""
    kept: str
    """The fate of its numbers, one of KEPT."""
    memory: int
    disk: int
    """Bytes of what is fetched and of what is packed of it, which is all that is looked at afterwards."""
    fits: bool
    """True if memory and disk have room for it."""


@dataclass(frozen=True)
class Plan:
    """A checkpoint on this machine: what it takes, what fits, and how long it takes."""

    source: str
    origin: str
    """The source of its shapes: its files, the hub, or the table that ships."""
    dtype: Format
    reason: str
    """Why it is computed in that."""
    device: str
    context: int
    concurrency: int
    answer: int
    """Tokens of an answer; the rest of the context is its prompt."""
    steps: int
    """Denoising steps of a canvas."""
    footprint: Footprint
    memory: Memory | None
    """The memory that there is; None where nobody can tell."""
    fetched: int
    """Bytes that are still to be fetched."""
    free_disk: int
    """Bytes that are free where packed weights are kept."""
    alternatives: tuple[Alternative, ...]
    """Ways that would fit, where this does not."""
    copies: tuple[CopyPlan, ...]
    work: dict[GenerationMode, Work]
    times: dict[GenerationMode, Times]
    """Empty where nothing was measured."""
    not_timed: str
    """Why nothing was measured; empty where it was."""
    kernels: str
    """The kernels and threads that times were measured with."""
    warning: str | None
    """The reason why the times are doubtful; None for a quiet machine."""

    @property
    def fits_memory(self) -> bool:
        """True if it runs, and can be packed, in the memory that there is."""
        return self.memory is None or self.footprint.needed <= self.memory.free

    @property
    def fits_disk(self) -> bool:
        """True if the disk holds what is to be fetched and what packing keeps."""
        return self.fetched + self.footprint.packed_file <= self.free_disk

    @property
    def fits(self) -> bool:
        """True if nothing stands in its way."""
        return self.fits_memory and self.fits_disk

    @property
    def best_copy(self) -> CopyPlan | None:
        """The published copy to fetch for this memory and disk: of the most bits, with its numbers kept, the smallest;
        None where none fits or the model is not a published one."""
        fitting = [copy for copy in self.copies if copy.fits]
        return min(
            fitting, default=None, key=lambda copy: (FORMATS.index(copy.dtype), KEPT.index(copy.kept), copy.fetched)
        )

    @property
    def faster(self) -> GenerationMode | None:
        """The mode that gives an answer sooner; None where fewer than two were measured."""
        if len(self.times) < 2:
            return None
        return min(self.times, key=lambda mode: self.times[mode].answer)


def plan(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: DType = "auto",
    device: str = "auto",
    context: int | None = None,
    concurrency: int = 1,
    answer: int | None = None,
    steps: int | None = None,
    memory: MemoryLimit = "auto",
    pack_folder: PackFolder = "auto",
    timed: bool = True,
) -> Plan:
    """Say what a checkpoint takes here, what fits, and how long it takes: a bundled name, a folder, a GGUF file, or a
    hub id, of which nothing but its configuration and headers is fetched.

    context: tokens of prompt and answer of each request, by default 1,024 or what the model has. concurrency: requests
    at a time. answer: tokens of an answer, by default a canvas. steps: denoising steps of a canvas, by default 16 or as
    many as the checkpoint allows. memory: bytes, "auto" for what is left here, None for any. timed: times are measured,
    which takes some seconds. The rest as in ``redraft.load``.

    Raises CheckpointError for what cannot be loaded, and RequestError for a use that the model cannot be put to.
    """
    check_device(device)
    with described(str(source), revision) as own_files:
        found = own_files.checkpoint
        wanted = own_files.dtype if dtype == "auto" else dtype
        choice = chosen_format(found, wanted, device, memory, pack_folder)
        format = choice.format
        device = chosen_device(device, lossy=format in ("int8", "int4"))
        context = min(CONTEXT, found.config.context_length) if context is None else context
        use = Use(context, concurrency, device)
        check_use(found, use)
        answer = min(context, max(1, found.config.canvas_length or 256)) if answer is None else answer
        if not 1 <= answer <= context:
            raise RequestError(f"an answer of {answer:,} tokens does not fit a context of {context:,}")
        steps = min(STEPS, found.defaults.max_denoising_steps) if steps is None else steps
        if steps < 1:
            raise RequestError(f"a canvas takes 1 step or more, not {steps}")
        there = allowed(memory, device)
        kept = is_kept(found, format, pack_folder)
        own = footprint(found, format, use, packed=kept)
        parts = outline(found, format)
        shape = _Shape(context, concurrency, answer, steps)
        reason = _why_not_timed(parts, own, allowed("auto"), device) if timed else "it was not asked for"
        times = {} if reason else _times(parts, shape)
        free_disk = max(disk(place) for place in cache_folders(found.path))
        return Plan(
            source=str(source),
            origin=own_files.origin,
            dtype=format,
            reason=choice.reason,
            device=device,
            context=context,
            concurrency=concurrency,
            answer=answer,
            steps=steps,
            footprint=own,
            memory=there,
            fetched=own_files.fetched,
            free_disk=free_disk,
            alternatives=()
            if there is None or own.needed <= there.free
            else tuple(alternatives(found, own, there, use)),
            copies=_copies(found, there, use, free_disk),
            work=_work(parts, shape),
            times=times,
            not_timed=reason,
            kernels=f"{library.status().tier}, {counted(library.status().threads or 1, 'thread')}" if times else "",
            warning=describe_machine().warning if times else None,
        )


@dataclass(frozen=True)
class Described:
    """A checkpoint read as far as its headers."""

    checkpoint: Checkpoint
    origin: str
    """The source of the headers, in words."""
    fetched: int
    """Bytes that are still to be fetched."""
    dtype: DType = "auto"
    """The format that "auto" stands for, where no headers say it."""


@contextmanager
def described(name: str, revision: str | None = None) -> Iterator[Described]:
    """Read a checkpoint as far as its headers, from its files, the hub, or the table that ships.

    Raises CheckpointError for what cannot be found or would not load.
    """
    here = checkpoint.find_local(name) or hub.find_cached(name, revision)
    if here is not None:
        yield Described(checkpoint.read(here), "its files", 0)
        return
    try:
        repository = hub.survey(name, revision)
    except hub.UnreachableError:
        known = _of_table(name)
        if known is None:
            raise
        yield known
        return
    known = _of_table(name)
    if known is not None and repository.config is None:
        # A repository of single files, which say what they are only when they are fetched.
        yield known
        return
    with read_headers(repository) as found:
        origin = f"the hub (headers alone, revision {repository.commit[:12]})"
        yield Described(found, origin, sum(repository.fetched.values()))


def _of_table(name: str) -> Described | None:
    known = published.known(name)
    if known is None:
        return None
    found, copy = known
    origin = "the table that ships with redraft: the hub gave no headers"
    return Described(found, origin, copy.nbytes, "auto" if copy.name == str(found.path) else copy.dtype)


@dataclass(frozen=True)
class _Shape:
    context: int
    concurrency: int
    answer: int
    steps: int

    @property
    def prompt(self) -> int:
        return self.context - self.answer


def _why_not_timed(parts: PackedModel, own: Footprint, there: Memory | None, device: str) -> str:
    if torch.device(device).type != "cpu":
        return f"on {device} no sample can be run without the weights"
    if bindings.kernels() is None:
        return "the compiled kernels are not in use here"
    if there is not None and Sample.nbytes(parts) + own.scratch > there.free:
        return "there is too little memory for a sample"
    return ""


def _work(parts: PackedModel, shape: _Shape) -> dict[GenerationMode, Work]:
    """Count what the forwards of each mode read and compute, of all requests at a time."""
    canvas = parts.config.canvas_length
    found: dict[GenerationMode, Work] = {}
    for mode in parts.modes:
        if mode == "speculative":
            continue
        own = canvas if mode == "diffusion" else 1
        together = min(shape.concurrency, max(1, MAX_BATCH_ROWS // own))
        rows = own * together
        tokens = min(canvas, shape.answer) / shape.steps if mode == "diffusion" else 1.0
        products = sum(step_multiply_adds(parts, shape.prompt, own).values()) * together
        if mode == "autoregressive" and parts.parts.self_conditioning is not None:
            block, table = parts.parts.self_conditioning, parts.parts.head.table
            spared = 2 * block.gate_up.outputs * block.gate_up.inputs + block.down.outputs * block.down.inputs
            products -= rows * (spared + table.outputs * table.inputs)
        found[mode] = Work(rows, round(weight_bytes(parts, rows)), products, _experts(parts, rows), tokens * together)
    return found


def _experts(parts: PackedModel, rows: int) -> float | None:
    layer = next((layer for layer in parts.parts.layers if layer.router is not None), None)
    if layer is None or layer.router is None:
        return None
    return float(1 - (1 - layer.top_k / layer.router.outputs) ** rows)


def _times(parts: PackedModel, shape: _Shape) -> dict[GenerationMode, Times]:
    """Measure a sample, and work out what a prompt and an answer take."""
    sample, canvas = Sample(parts), parts.config.canvas_length
    count = shape.concurrency
    chunks = -(-shape.prompt // PREFILL_CHUNK)
    found: dict[GenerationMode, Times] = {}
    rows = min(PREFILL_CHUNK, max(1, shape.prompt))
    encode = sample.encode(shape.prompt // 2, rows).forward if chunks else 0.0
    prompt = chunks * encode * count
    if "diffusion" in parts.modes:
        together = min(count, max(1, MAX_BATCH_ROWS // canvas))
        step = sample.step(shape.prompt, together).seconds * count / together
        canvases = -(-shape.answer // canvas)
        # Each canvas but the last is encoded before the next one begins.
        commits = (canvases - 1) * encode * count * canvas / rows
        total = prompt + canvases * shape.steps * step + commits
        found["diffusion"] = Times(prompt, step, total, count * shape.answer / total)
    if "autoregressive" in parts.modes:
        token = sample.encode(shape.prompt, 1, count, read=True).seconds
        total = prompt + shape.answer * token
        found["autoregressive"] = Times(prompt, token, total, count * shape.answer / total)
    return found


def _copies(found: Checkpoint, there: Memory | None, use: Use, free_disk: int) -> tuple[CopyPlan, ...]:
    sizes: dict[Format, Footprint] = {}
    rows = []
    for copy in published.copies(found.config):
        if copy.dtype not in sizes:
            sizes[copy.dtype] = footprint(found, copy.dtype, use)
        needed, both = sizes[copy.dtype].needed, copy.nbytes + sizes[copy.dtype].packed_file
        on_device = copy.dtype == "bfloat16" or has_kernels(use.device)
        fits = on_device and (there is None or needed <= there.free) and both <= free_disk
        rows.append(CopyPlan(copy.name, copy.stored, copy.nbytes, copy.dtype, copy.kept, needed, both, fits))
    return tuple(rows)
