"""What each kernel gains: it against the same arithmetic in torch or ``transformers``, in alternation.

    python -m bench.kernels                       # all of them; needs about 6 GB and some minutes
    python -m bench.kernels experts readout --rounds 5 --json out.json

Ratios are taken within a round; the reference is bfloat16 unless the row says otherwise. Shares are of the processor's
peak in the format of the product, measured on the spot. Set MALLOC_MMAP_THRESHOLD_=4000000000 and
MALLOC_TRIM_THRESHOLD_=8000000000 to spare the reference the page faults of its temporaries.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaTextExperts

from redraft.kernels import bindings, library
from redraft.kernels.attention import attention
from redraft.kernels.experts import experts
from redraft.kernels.linear import linear
from redraft.kernels.packed import FORMATS, Format, PackedMatrix, pack, pack_gated
from redraft.kernels.readout import PackedHead
from redraft.layers.attention import Segment
from redraft.measure.peak import multiply_adds_per_second
from redraft.measure.timing import alternate, times_as_fast

CANVAS = 256


@dataclass(frozen=True)
class Case:
    """One piece of work, the reference for it, and our ways of doing it."""

    name: str
    reference: Callable[[], Any]
    ours: dict[str, Callable[[], Any]]
    multiply_adds: dict[str, dict[Format, int]]
    """Of each of our ways, by the format they are done in."""


def linear_cases() -> Iterator[Case]:
    """A projection, with a cast of its rows on both sides."""
    for inputs, outputs in ((512, 2048), (2816, 4096)):
        x, weight = torch.randn(CANVAS, inputs), torch.randn(outputs, inputs) * inputs**-0.5
        half, work = weight.bfloat16(), CANVAS * inputs * outputs
        packed = {format: pack(weight, format) for format in FORMATS}
        yield Case(
            f"linear {inputs} -> {outputs}",
            lambda x=x, w=half: F.linear(x.bfloat16(), w),  # type: ignore[misc]
            {f: lambda x=x, p=p: linear(p, x) for f, p in packed.items()},  # type: ignore[misc]
            {f: {f: work} for f in FORMATS},
        )


def experts_cases() -> Iterator[Case]:
    """A layer's experts, routed: a small one and the full-size one."""
    for hidden, inner, count, top_k in ((512, 256, 16, 4), (2816, 704, 128, 8)):
        config = DiffusionGemmaTextConfig(
            hidden_size=hidden, moe_intermediate_size=inner, num_experts=count, top_k_experts=top_k
        )
        config._experts_implementation = "grouped_mm"
        module = DiffusionGemmaTextExperts(config).bfloat16().requires_grad_(False)
        for weight in (module.gate_up_proj, module.down_proj):
            for one in weight:
                one.copy_(torch.randn(one.shape) * one.shape[-1] ** -0.5)
        x = torch.randn(CANVAS, hidden)
        chosen = torch.stack([torch.randperm(count)[:top_k] for _ in range(CANVAS)])
        weights = torch.full((CANVAS, top_k), 1 / top_k)
        formats: tuple[Format, ...] = ("bfloat16", "int8", "int4")
        packed = {f: (pack_gated(module.gate_up_proj, f), pack(module.down_proj, f)) for f in formats}

        def run(pair: tuple[PackedMatrix, PackedMatrix], x: Tensor = x, w: Tensor = weights, c: Tensor = chosen) -> Any:
            return experts(*pair, x, None, w, c)

        half, half_weights = x.bfloat16(), weights.bfloat16()
        yield Case(
            f"experts {hidden}, {top_k} of {count} x {inner}",
            lambda m=module, x=half, c=chosen, w=half_weights: m(x, c, w),  # type: ignore[misc]
            {f: lambda pair=pair, run=run: run(pair) for f, pair in packed.items()},  # type: ignore[misc]
            {f: {f: CANVAS * top_k * 3 * hidden * inner} for f in formats},
        )


def attention_cases() -> Iterator[Case]:
    """A canvas over prefixes of several lengths, in a sliding and in a full layer's shape."""
    for heads, kv_heads, dim in ((8, 4, 256), (8, 2, 512)):
        for prefix in (0, 1024, 8192, 32768):
            keys, values = (torch.randn(1, kv_heads, prefix + CANVAS, dim).bfloat16() for _ in range(2))
            queries = (torch.randn(1, heads, CANVAS, dim) * dim**-0.5).bfloat16()
            parts = [slice(0, prefix), slice(prefix, None)] if prefix else [slice(None)]
            segments = [Segment(keys[:, :, part], values[:, :, part]) for part in parts]
            yield Case(
                f"attention {heads}/{kv_heads} heads of {dim}, prefix {prefix:,}",
                lambda q=queries, k=keys, v=values: F.scaled_dot_product_attention(  # type: ignore[misc]
                    q, k, v, scale=1.0, enable_gqa=True
                ),
                {"bfloat16": lambda q=queries, s=segments: attention(q, s)},  # type: ignore[misc]
                {"bfloat16": {"bfloat16": 2 * CANVAS * heads * dim * (prefix + CANVAS)}},
            )


def readout_cases() -> Iterator[Case]:
    """From hidden states to argmax, entropy, sample and self-conditioning; the reference's operations in its
    order."""
    for vocab, hidden in ((32_768, 512), (262_144, 512)):
        states, table = torch.randn(CANVAS, hidden), torch.randn(vocab, hidden) * 2 * hidden**-0.5
        half, uniforms = table.bfloat16(), torch.rand(CANVAS, dtype=torch.float64)
        formats: tuple[Format, ...] = ("float32", "bfloat16", "int8")
        heads = {f: PackedHead(pack(table, f), 30.0, hidden**0.5) for f in formats}

        def reference(states: Tensor = states, table: Tensor = half) -> Any:
            logits = torch.tanh(F.linear(states.bfloat16(), table).float() / 30) * 30 / 0.6
            distribution = torch.distributions.Categorical(logits=logits)
            sample = torch.multinomial(logits.softmax(-1), 1)
            entropies = distribution.entropy(), torch.distributions.Categorical(logits=logits).entropy()
            return logits.argmax(-1), sample, entropies, logits.softmax(-1).bfloat16() @ table

        work = CANVAS * vocab * hidden
        yield Case(
            f"readout {hidden} x {vocab:,}",
            reference,
            {f: lambda h=h, s=states, u=uniforms: h.read(s, 0.6, u) for f, h in heads.items()},  # type: ignore[misc]
            {f: Counter({f: work}) + Counter({bindings.self_conditioning_format(f): work}) for f in formats},
        )


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "linear": linear_cases,
    "experts": experts_cases,
    "attention": attention_cases,
    "readout": readout_cases,
}


def timed(work: Callable[[], Any]) -> Callable[[int], float]:
    """Mean seconds of a few calls in a row, so that a round is not over before the clock has moved."""

    def seconds(_: int) -> float:
        began, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - began < 0.02:
            work()
            calls += 1
        return (time.perf_counter() - began) / calls

    return seconds


@torch.inference_mode()
def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Ratio to the reference and share of the peak of each of our ways: median, least and greatest."""
    contenders = {"reference": timed(case.reference)} | {name: timed(work) for name, work in case.ours.items()}
    seconds = alternate(contenders, rounds)
    row: dict[str, Any] = {"reference seconds": statistics.median(seconds["reference"])}
    for name in case.ours:
        ratio = times_as_fast(seconds[name], seconds["reference"])
        ideal = sum(count / multiply_adds_per_second(f) for f, count in case.multiply_adds[name].items())
        assert ratio is not None, "both were run in every round"
        row[name] = {
            "times as fast": [ratio.median, *ratio.extremes],
            "share of the peak": ideal / statistics.median(seconds[name]),
        }
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", choices=[*CASES, []], help=f"of {', '.join(CASES)}; by default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    status = library.status()
    print(f"kernels: {status.tier}, {status.threads} threads; torch {torch.__version__}, {arguments.rounds} rounds")
    results = {}
    for name in arguments.kernels or CASES:
        for case in CASES[name]():
            results[case.name] = row = measure(case, arguments.rounds)
            shown = []
            for way, values in row.items():
                if way != "reference seconds":
                    median, least, greatest = values["times as fast"]
                    share = f"{values['share of the peak']:.0%} of peak"
                    shown.append(f"{way} {median:.2f}x ({least:.2f} to {greatest:.2f}), {share}")
            print(f"{case.name}: {'; '.join(shown)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
