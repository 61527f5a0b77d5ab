"""One denoising step and a whole ``generate`` against ``transformers``, on the same random checkpoint, in alternation.

    python -m bench.denoising_step                # both vocabularies, both dtypes; needs about 6 GB and some minutes
    python -m bench.denoising_step --vocab 32768 --rounds 3 --json out.json

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

from redraft.engine.engine import Engine
from redraft.engine.kv_cache import KVCache
from redraft.engine.load import load
from redraft.measure.benchmark import LATER_STEP, SECONDS, Measurement, measure
from redraft.measure.reference import ReferenceDType, TransformersContender
from redraft.measure.workload import Contender, RedraftContender, Workload

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
PROMPT_TOKENS = 256
DTYPES: tuple[ReferenceDType, ...] = get_args(ReferenceDType)
METRICS = {"step": LATER_STEP, "generate": SECONDS}


@torch.no_grad()
def agreement(
    engines: dict[ReferenceDType, Engine], references: dict[ReferenceDType, Any], prompt: list[int]
) -> dict[str, dict[str, float]]:
    """How one step of every contender compares with the float32 reference on one canvas: logits and argmax."""
    vocab = engines["float32"].model.config.vocab_size
    canvas = torch.randint(16, vocab, (1, 256), generator=torch.Generator().manual_seed(5))
    context = torch.tensor([prompt])
    logits = {
        f"transformers {d}": m(input_ids=context, decoder_input_ids=canvas).logits[0] for d, m in references.items()
    }
    for dtype, engine in engines.items():
        cache = KVCache(engine.model.cache_layout())
        engine.model.encode(context, cache)
        hidden = engine.model.denoise(canvas, cache, None)[0]
        logits[f"redraft {dtype}"] = engine.model.logits(hidden)  # type: ignore[attr-defined]
    exact = logits.pop("transformers float32")
    return {
        name: {
            "relative error": ((own - exact).norm() / exact.norm()).item(),
            "largest difference": (own - exact).abs().max().item(),
            "argmax equal": (own.argmax(-1) == exact.argmax(-1)).float().mean().item(),
        }
        for name, own in logits.items()
    }


def measure_vocabulary(vocab: int, rounds: int, steps: int) -> dict[str, Any]:
    """All contenders on one vocabulary: medians, spread and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = random_checkpoint(Path(folder), vocab_size=vocab, **SHAPE)
        engines = {dtype: load(path, dtype=dtype) for dtype in DTYPES}
        references = {dtype: TransformersContender(path, dtype) for dtype in DTYPES}
    prompt = torch.randint(16, vocab, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    checks = agreement(engines, {dtype: reference.model for dtype, reference in references.items()}, prompt)
    contenders: dict[str, Contender] = {}
    for dtype in DTYPES:
        contenders[f"redraft {dtype}"] = RedraftContender(engines[dtype])
        contenders[f"transformers {dtype}"] = references[dtype]
    workload = Workload(tuple(prompt), SHAPE["canvas_length"], steps)
    theirs = [f"transformers {dtype}" for dtype in DTYPES]
    [measurement] = measure(contenders, theirs, [workload], rounds, seed=0)
    return {"vocabulary": vocab, "agreement": checks, **_summary(measurement)}


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
            for dtype in DTYPES:
                ratios[f"redraft {dtype}, {what}"] = found.by_contender[f"redraft {dtype}"].median
            ratios[f"against transformers, {what}"] = found.reference.removeprefix("transformers ")
    return {"rows": rows, "ratios": ratios}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, action="append", help="vocabulary size; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="denoising steps of one generate")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    results = []
    for vocab in arguments.vocab or (32_768, 262_144):
        result = measure_vocabulary(vocab, arguments.rounds, arguments.steps)
        results.append(result)
        print(f"\nvocabulary {vocab:,}; canvas 256, prompt {PROMPT_TOKENS}, {arguments.steps} steps, "
              f"{arguments.rounds} rounds; seconds as min / median / max")  # fmt: skip
        for name, row in result["rows"].items():
            shown = "   ".join(f"{what.split()[0]} {a:.3f} / {b:.3f} / {c:.3f}" for what, (a, b, c) in row.items())
            print(f"  {name:<24}{shown}")
        for name, ratio in result["ratios"].items():
            print(f"  {name}: {ratio if isinstance(ratio, str) else f'{ratio:.2f} times as fast'}")
        for name, check in result["agreement"].items():
            shown = ", ".join(f"{what} {value:.3g}" for what, value in check.items())
            print(f"  {name}, logits against transformers float32: {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
