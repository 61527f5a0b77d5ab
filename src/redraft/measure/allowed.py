"""The least time that a forward can take: the longer of reading its weights once, and of its multiply-adds.

The roofline (Williams et al. 2009), with the bandwidth and the peaks measured on the spot. It leaves out activations,
keys and values, and everything that is no product, so that no forward is as fast.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from redraft.kernels import library
from redraft.kernels.packed import Format, PackedMatrix
from redraft.measure.modes import AUTOREGRESSIVE, Figures
from redraft.measure.peak import multiply_adds_per_second, step_multiply_adds
from redraft.models.packed import PackedModel

CLIENTS = (1, 4, 16, 64, 256)
_NUMBERS = 1 << 26
_SAMPLES = 5


@dataclass(frozen=True)
class Machine:
    """The bandwidth and the peaks of this machine, measured now."""

    bytes_per_second: float
    multiply_adds_per_second: dict[Format, float]

    @classmethod
    def measured(cls, model: PackedModel) -> "Machine":
        """Measure what the model's forwards need."""
        formats = step_multiply_adds(model, 0, 1)
        return cls(_bandwidth(), {format: multiply_adds_per_second(format) for format in formats})

    def seconds(self, model: PackedModel, rows: int) -> float:
        """Return the least time of a forward over so many rows that are all read."""
        work = step_multiply_adds(model, 0, 1)
        products = sum(rows * count / self.multiply_adds_per_second[format] for format, count in work.items())
        return max(products, weight_bytes(model, rows) / self.bytes_per_second)


def weight_bytes(model: PackedModel, rows: int) -> float:
    """Return the bytes of the weights that a forward of so many rows reads; of experts those that some row chooses, at
    random."""
    parts, total = model.parts, float(model.parts.head.table.nbytes)
    block = parts.self_conditioning
    matrices: list[PackedMatrix] = [] if block is None else [block.gate_up, block.down]
    for layer in parts.layers:
        matrices += [layer.qkv, layer.o, layer.gate_up, layer.down]
        if layer.router is not None:
            matrices.append(layer.router)
            share = 1 - (1 - layer.top_k / layer.router.outputs) ** rows
            total += share * sum(own.nbytes for own in (layer.experts_gate_up, layer.experts_down) if own is not None)
    return total + sum(matrix.nbytes for matrix in matrices)


def allowed(model: PackedModel, machine: Machine, figures: Sequence[Figures]) -> dict[str, dict[int, float]]:
    """Return the tokens a second that the machine allows each way, by name, at 1 to 256 clients, with the tokens that a
    forward gave as it was measured. Drafts, whose forwards have rows of two kinds, are left out."""
    canvas = model.config.canvas_length
    found = {}
    for one in figures:
        name = one.way.name
        if one.way.mode == "speculative" or name in found:
            continue
        rows = 1 if name == AUTOREGRESSIVE else canvas
        found[name] = {n: n * one.tokens_per_forward / machine.seconds(model, n * rows) for n in CLIENTS}
    return found


def _bandwidth() -> float:
    """Bytes a second that all threads together read from memory: the median of a few sums over 256 MB."""
    values, threads, samples = torch.ones(_NUMBERS), torch.get_num_threads(), []
    torch.set_num_threads(library.status().threads or threads)
    try:
        for _ in range(_SAMPLES):
            began = perf_counter()
            values.sum()
            samples.append(values.nbytes / (perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(samples)
