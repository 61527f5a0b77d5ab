"""The distance of a denoising step from the processor's peak: its multiply-adds against a peak measured on the spot.

It is the flat part of the roofline (Williams et al. 2009). The arithmetic units, kept busy with independent
multiply-adds in registers on every thread, would do the step's arithmetic in a time that is set against the step's own.
"""

import statistics
import time
from collections import Counter

from redraft.kernels import bindings
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.packed import PackedModel

_SAMPLES = 3
_SAMPLE_SECONDS = 0.01


def step_multiply_adds(model: PackedModel, context: int, canvas: int) -> dict[Format, int]:
    """Return the multiply-adds of a denoising step over ``canvas`` positions after ``context`` tokens, by the format
    that they are done in; self-conditioning is part of it where the model has any."""
    return dict(sum(multiply_adds_by_kernel(model, context, canvas).values(), Counter[Format]()))


def multiply_adds_by_kernel(model: PackedModel, context: int, canvas: int) -> dict[str, Counter[Format]]:
    """Return what ``step_multiply_adds`` is the sum of, by the kernel that does it."""
    parts, linear, experts, attention = model.parts, Counter[Format](), Counter[Format](), Counter[Format]()
    # Queries, keys and weights of attention are no weights of the model: they stay in bfloat16 or float32.
    unpacked: Format = "float32" if model.format == "float32" else "bfloat16"
    conditioning = parts.self_conditioning
    dense = [] if conditioning is None else [conditioning.gate_up, conditioning.down]
    for layer, place in zip(parts.layers, parts.places, strict=True):
        dense += [layer.qkv, layer.o, layer.gate_up, layer.down]
        dense += [] if layer.router is None else [layer.router]
        for matrix in (layer.experts_gate_up, layer.experts_down):
            if matrix is not None:
                experts[matrix.format] += canvas * layer.top_k * _products(matrix)
        seen = canvas + (context if place.window is None else min(context, place.window - 1))
        attention[unpacked] += 2 * canvas * layer.heads * layer.head_dim * seen
    for matrix in dense:
        linear[matrix.format] += canvas * _products(matrix)
    table = parts.head.table
    readout = Counter({table.format: canvas * _products(table)})
    if conditioning is not None:
        readout[bindings.self_conditioning_format(table.format)] += canvas * _products(table)
    return {"linear": linear, "experts": experts, "attention": attention, "readout": readout}


def _products(matrix: PackedMatrix) -> int:
    """Return the multiply-adds of one row with the matrix, or with one of its experts."""
    return matrix.outputs * matrix.inputs * (2 if matrix.gated else 1)


def seconds_at_peak(work: dict[Format, int]) -> float | None:
    """Return the seconds of ``work`` at the peaks measured now, on the kernels' threads; None without kernels."""
    if bindings.kernels() is None:
        return None
    return sum(count / multiply_adds_per_second(format) for format, count in work.items())


def multiply_adds_per_second(format: Format) -> float:
    """Measure the peak of a format: the median of a few runs of some milliseconds each."""
    number = bindings.format_number(format)
    rounds = 1000
    while (elapsed := _seconds(number, rounds)[0]) < _SAMPLE_SECONDS / 2:
        rounds = int(rounds * min(10.0, 1.2 * _SAMPLE_SECONDS / max(elapsed, 1e-6)))
    samples = [_seconds(number, rounds) for _ in range(_SAMPLES)]
    return statistics.median(done / elapsed for elapsed, done in samples)


def _seconds(number: int, rounds: int) -> tuple[float, int]:
    began = time.perf_counter()
    done = bindings.saturate(number, rounds)
    return time.perf_counter() - began, done
