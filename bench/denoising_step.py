"""One denoising step and a whole ``generate`` against ``transformers``, on the same random checkpoint, in alternation.

    python -m bench.denoising_step                # all checkpoints and dtypes; needs about 8 GB and some minutes
    python -m bench.denoising_step --vocab 32768 --rounds 3 --json out.json
    python -m bench.denoising_step --deep --threads 1

Every round runs each contender once, one after the other in rotating order, so that a change in the machine's speed
meets all of them. Ratios are medians of those within a round, against the reference in the dtype in which it is faster,
with its fastest attention and experts. All run in this process; ``redraft bench`` measures any checkpoint, a process a
contender.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch
from tests.random_checkpoint import random_checkpoint

from redraft.api import Engine
from redraft.engine.memory import KVPool
from redraft.kernels import library
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import load
from redraft.measure.benchmark import LATER_STEP, SECONDS, SHARE_OF_PEAK, Measurement, measure
from redraft.measure.reference import ReferenceDType, TransformersContender
from redraft.measure.workload import Contender, RedraftContender, Workload
from redraft.models.base import Span

SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] + ["full_attention"],
    "sliding_window": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_global_key_value_heads": 2,
    "global_head_dim": 128,
    "num_experts": 16,
    "top_k": 4,
    "moe_intermediate_size": 256,
    "canvas_length": 256,
    "context_length": 4096,
}
DEEP_SHAPE = {
    **SHAPE,
    "hidden_size": 640,
    "intermediate_size": 1280,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
    "moe_intermediate_size": 320,
}
VOCABULARIES, DEEP_VOCABULARY = (32_768, 262_144), 16_384
PROMPT_TOKENS = 256
REFERENCE_DTYPES: tuple[ReferenceDType, ...] = get_args(ReferenceDType)
METRICS = {"step": LATER_STEP, "generate": SECONDS}


@torch.no_grad()
def agreement(
    engines: dict[Format, Engine], references: dict[ReferenceDType, Any], prompt: list[int]
) -> dict[str, dict[str, float]]:
    """How one step of every contender compares with the float32 reference on one canvas: logits and argmax."""
    vocab = engines["float32"].model.config.vocab_size
    canvas = torch.randint(16, vocab, (256,), generator=torch.Generator().manual_seed(5))
    context = torch.tensor(prompt)
    logits = {
        f"transformers {d}": m(input_ids=context[None], decoder_input_ids=canvas[None]).logits[0]
        for d, m in references.items()
    }
    for dtype, engine in engines.items():
        cache = KVPool.of(engine.model).open()[0]
        _, hidden = engine.model.forward([Span(context, cache, "encode"), Span(canvas, cache, "denoise")])
        assert hidden is not None, "a canvas has hidden states"
        logits[f"redraft {dtype}"] = engine.model.logits(hidden)
    exact = logits.pop("transformers float32")
    return {
        name: {
            "relative error": ((own - exact).norm() / exact.norm()).item(),
            "largest difference": (own - exact).abs().max().item(),
            "argmax equal": (own.argmax(-1) == exact.argmax(-1)).float().mean().item(),
        }
        for name, own in logits.items()
    }


def measure_checkpoint(shape: dict[str, Any], vocab: int, rounds: int, steps: int) -> dict[str, Any]:
    """All contenders on one random checkpoint: medians, spread and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = random_checkpoint(Path(folder), vocab_size=vocab, **shape)
        engines = {dtype: load(path, dtype=dtype) for dtype in FORMATS}
        references = {dtype: TransformersContender(path, dtype) for dtype in REFERENCE_DTYPES}
    prompt = torch.randint(16, vocab, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    checks = agreement(engines, {dtype: reference.model for dtype, reference in references.items()}, prompt)
    contenders: dict[str, Contender] = {f"redraft {dtype}": RedraftContender(engines[dtype]) for dtype in FORMATS}
    contenders |= {f"transformers {dtype}": references[dtype] for dtype in REFERENCE_DTYPES}
    workload = Workload(tuple(prompt), shape["canvas_length"], steps)
    theirs = [f"transformers {dtype}" for dtype in REFERENCE_DTYPES]
    [measurement] = measure(contenders, theirs, [workload], rounds, seed=0)
    described = {"hidden": shape["hidden_size"], "layers": len(shape["layer_types"]), "vocabulary": vocab}
    return {**described, "agreement": checks, **_summary(measurement)}


def _summary(measurement: Measurement) -> dict[str, Any]:
    rows: dict[str, dict[str, list[float]]] = {}
    for name in measurement.runs:
        spreads = {what: measurement.spread(name, metric) for what, metric in METRICS.items()}
        rows[name] = {
            f"{what} seconds": [s.extremes[0], s.median, s.extremes[1]] for what, s in spreads.items() if s is not None
        }
    ratios: dict[str, float | str] = {}
    for what, metric in METRICS.items():
        found = measurement.ratios(metric)
        if found is not None:
            for dtype in FORMATS:
                ratios[f"redraft {dtype}, {what}"] = found.by_contender[f"redraft {dtype}"].median
            ratios[f"against transformers, {what}"] = found.reference.removeprefix("transformers ")
    shares = {f"redraft {dtype}": measurement.spread(f"redraft {dtype}", SHARE_OF_PEAK) for dtype in FORMATS}
    return {
        "rows": rows,
        "ratios": ratios,
        "share of peak arithmetic": {name: share.median for name, share in shares.items() if share is not None},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, action="append", help="vocabulary of hidden 512, 8 layers; repeatable")
    parser.add_argument("--deep", action="store_true", help="hidden 640, 12 layers, vocabulary 16,384")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="denoising steps of one generate")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"kernels: {library.status().tier}, {library.status().threads} threads")
    chosen = [(SHAPE, vocab) for vocab in arguments.vocab or ()] + [(DEEP_SHAPE, DEEP_VOCABULARY)] * arguments.deep
    results = []
    for shape, vocab in chosen or [*((SHAPE, vocab) for vocab in VOCABULARIES), (DEEP_SHAPE, DEEP_VOCABULARY)]:
        result = measure_checkpoint(shape, vocab, arguments.rounds, arguments.steps)
        results.append(result)
        print(f"\nhidden {result['hidden']}, {result['layers']} layers, vocabulary {vocab:,}; canvas 256, "
              f"prompt {PROMPT_TOKENS}, {arguments.steps} steps, {arguments.rounds} rounds; "
              "seconds as min / median / max")  # fmt: skip
        for name, row in result["rows"].items():
            shown = "   ".join(f"{what.split()[0]} {a:.3f} / {b:.3f} / {c:.3f}" for what, (a, b, c) in row.items())
            print(f"  {name:<24}{shown}")
        for name, ratio in result["ratios"].items():
            print(f"  {name}: {ratio if isinstance(ratio, str) else f'{ratio:.2f} times as fast'}")
        for name, share in result["share of peak arithmetic"].items():
            print(f"  {name}: {share:.0%} of the peak in a step")
        for name, check in result["agreement"].items():
            shown = ", ".join(f"{what} {value:.3g}" for what, value in check.items())
            print(f"  {name}, logits against transformers float32: {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
