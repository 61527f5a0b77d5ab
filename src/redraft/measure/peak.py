"""How far a denoising step is from what the processor could do: its multiply-adds against a peak measured on the spot.

The roofline's flat part (Williams et al. 2009): the time in which the arithmetic units, kept busy with independent
multiply-adds in registers on every thread, would do the step's arithmetic, over the time that the step took.
"""

import statistics
import time
from collections import Counter

from redraft.kernels import bindings
from redraft.kernels.packed import Format
from redraft.models.diffusion_gemma.model import DiffusionGemmaConfig

_SAMPLES = 3
_SAMPLE_SECONDS = 0.01


def step_multiply_adds(config: DiffusionGemmaConfig, format: Format, context: int, canvas: int) -> dict[Format, int]:
    """Multiply-adds of a denoising step with a signal over ``canvas`` positions after ``context`` tokens, by the
    format that they are done in."""
    return dict(sum(multiply_adds_by_kernel(config, format, context, canvas).values(), Counter[Format]()))


def multiply_adds_by_kernel(
    config: DiffusionGemmaConfig, format: Format, context: int, canvas: int
) -> dict[str, Counter[Format]]:
    """What ``step_multiply_adds`` is the sum of, by the kernel that does it."""
    hidden, linear, experts, attention = config.hidden_size, Counter[Format](), Counter[Format](), Counter[Format]()
    # Queries, keys and weights of attention are no weights of the model: they stay in bfloat16 or float32.
    unpacked: Format = "float32" if format == "float32" else "bfloat16"
    linear[format] += canvas * 3 * hidden * config.intermediate_size
    for spec in config.layers:
        queries, kv = config.num_attention_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        projections = hidden * (2 * queries + (kv if spec.window is None else 2 * kv))
        linear[format] += canvas * (projections + 3 * hidden * config.intermediate_size)
        linear["float32"] += canvas * hidden * config.num_experts
        experts[format] += canvas * config.top_k_experts * 3 * hidden * config.moe_intermediate_size
        seen = canvas + (context if spec.window is None else min(context, spec.window - 1))
        attention[unpacked] += 2 * canvas * queries * seen
    table: Format = "int8" if format == "int4" else format
    readout = Counter({bindings.signal_format(table): canvas * config.vocab_size * hidden})
    readout[table] += canvas * config.vocab_size * hidden
    return {"linear": linear, "experts": experts, "attention": attention, "readout": readout}


def seconds_at_peak(work: dict[Format, int]) -> float | None:
    """Seconds that ``work`` would take at the peaks measured now, on the kernels' threads; None without kernels."""
    if bindings.kernels() is None:
        return None
    return sum(count / multiply_adds_per_second(format) for format, count in work.items())


def multiply_adds_per_second(format: Format) -> float:
    """The median of a few measurements of some milliseconds each."""
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
