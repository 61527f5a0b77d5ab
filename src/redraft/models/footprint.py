"""The memory that a checkpoint takes, known from its headers before any weight is read.

Weights, keys and values are counted as what loads them lays them out; scratch is what kernels, or torch, keep between
products. What cannot fit is refused, with the numbers and with what would: a process is never killed for it.
"""

from dataclasses import dataclass
from math import prod

import torch

from redraft.kernels import bindings
from redraft.kernels.packed import Format, PackedMatrix
from redraft.kernels.triton.status import status
from redraft.models.base import DEVICE_PREFILL_CHUNK, PREFILL_CHUNK
from redraft.models.checkpoint import Checkpoint
from redraft.models.outline import beside_bytes, outline
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import CACHED_FROM
from redraft.models.packing import packed_bytes, packing_peak
from redraft.models.sizing import kv_bytes

CONTEXT = 1024
"""Tokens of prompt and answer that a model must have room for, where nobody says how many."""
MAX_BATCH_ROWS = 1024
"""Rows that a forward has at most; the scheduler's own, which a test compares it with."""
# A tokenizer's tables and merges, by token: of 262,144 tokens and 514,906 merges 326 MB were measured.
_TOKENIZER_BYTES = 1300
# A library of kernels keeps half as much again as it asks for, so that a growing context does not move it each step.
_GROWTH = 1.5
_TILE = 4096
_SCORES = 1 << 26


@dataclass(frozen=True)
class Use:
    """The way in which a model is to be used."""

    context: int = CONTEXT
    """Tokens of prompt and answer of each request."""
    concurrency: int = 1
    """Requests at a time."""
    device: str = "cpu"


PLAIN = Use()
"""One request of a modest length, on the CPU."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory, by what they are for."""

    format: Format
    weights: int
    """All that every step reads; packed for the kernels where there are any."""
    looked_up: int
    """The embedding, of which a step reads a few rows: it stays in its file, and counts as no memory."""
    keys_values: int
    scratch: int
    tokenizer: int
    packing: int
    """The peak of packing; 0 where nothing is left to pack."""
    packed_file: int
    """The bytes that packing leaves on disk; 0 where nothing is kept."""

    @property
    def beside_keys_values(self) -> int:
        """All that a loaded model takes but for keys and values."""
        return self.weights + self.scratch + self.tokenizer

    @property
    def running(self) -> int:
        """All that a loaded model takes."""
        return self.beside_keys_values + self.keys_values

    @property
    def needed(self) -> int:
        """The most that is taken at a time."""
        return max(self.running, self.packing)


def footprint(found: Checkpoint, format: Format, use: Use = PLAIN, *, packed: bool = False) -> Footprint:
    """Count what a checkpoint takes in ``format``. ``packed``: it was packed before, and what was made then is kept."""
    parts = outline(found, format)
    cpu, lossy = torch.device(use.device).type == "cpu", format in ("int8", "int4")
    on_packed = cpu and (lossy or bindings.kernels() is not None)
    item = 4 if format == "float32" else 2
    plain = sum(prod(tensor.shape) for tensor in found.tensors.values())
    small, looked_up = beside_bytes(found)
    chunk = PREFILL_CHUNK if torch.device(use.device).type == "cpu" else DEVICE_PREFILL_CHUNK
    rows = max(chunk, min(MAX_BATCH_ROWS, use.concurrency * max(1, found.config.canvas_length)))
    weights, packing, file = plain * item, 0, 0
    if on_packed:
        weights = parts.nbytes + small
        if found.packed is None and not packed and parts.nbytes >= CACHED_FROM:
            packing, file = packing_peak(found, format), packed_bytes(found, format)
    counted = _torch_scratch if bindings.kernels() is None or not cpu else _kernel_scratch
    scratch = counted(parts, rows, use.context)
    if lossy and not cpu:
        weights = _on_device(parts) + small + looked_up
        if not status(use.device).used:
            scratch += _dequantised(parts)
        if found.packed is None and not packed and parts.nbytes >= CACHED_FROM:
            file = packed_bytes(found, format)
    return Footprint(
        format=format,
        weights=weights,
        looked_up=looked_up if on_packed else 0,
        keys_values=use.concurrency * kv_bytes(found, format, use.context),
        scratch=scratch,
        tokenizer=_TOKENIZER_BYTES * found.config.vocab_size if cpu else 0,
        packing=packing,
        packed_file=file,
    )


def _on_device(parts: PackedModel) -> int:
    """Packed matrices but for the head's, which is the embedding as it is looked up, or dequantised."""
    head = parts.parts.head
    dense = 0 if head.embedding_scale is not None else 2 * head.table.outputs * head.table.inputs
    return parts.nbytes - head.table.nbytes + dense


def _dequantised(parts: PackedModel) -> int:
    """The largest matrix, or stack of experts, in float32 and in bfloat16, and once more while they are made."""
    matrices = [value for layer in parts.parts.layers for value in vars(layer).values()]
    sizes = [one.count * one.padded_outputs * one.padded_inputs for one in matrices if isinstance(one, PackedMatrix)]
    return 10 * max(sizes)


def _kernel_scratch(parts: PackedModel, rows: int, context: int) -> int:
    """Buffers of the widest layer, of the readout, and what Python hands to the kernels."""
    hidden = parts.parts.head.table.inputs
    widest = max(
        layer.qkv.outputs
        + 2 * (layer.heads + 2 * layer.kv_heads) * layer.head_dim
        + layer.gate_up.outputs
        + (0 if layer.router is None else layer.router.outputs)
        + layer.top_k * (2 * hidden + (0 if layer.experts_gate_up is None else 2 * layer.experts_gate_up.outputs))
        for layer in parts.parts.layers
    )
    # A row's mask over the context, a byte a position, for each kind of layer; rotations of twice the positions.
    kinds = {place.rotary: layer.head_dim for place, layer in zip(parts.parts.places, parts.parts.layers, strict=True)}
    masks, ropes = len(kinds) * rows * context, 8 * context * sum(kinds.values())
    return int(_GROWTH * 4 * rows * (widest + 8 * hidden)) + masks + ropes


def _torch_scratch(parts: PackedModel, rows: int, context: int) -> int:
    """Scores of attention, tiles of logits, what a packed table has in one of them, and rows between products, a few
    of each at a time."""
    hidden, heads = parts.parts.head.table.inputs, max(layer.heads for layer in parts.parts.layers)
    scores = min(_SCORES, heads * rows * (rows + context))
    return 4 * (3 * scores + 4 * rows * _TILE + 2 * _TILE * hidden + 16 * rows * hidden)
