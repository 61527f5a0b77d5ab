"""One denoising step and a whole ``generate`` against ``transformers``, on the same random checkpoint, in alternation.

    python -m bench.denoising_step                # both vocabularies, both dtypes; needs about 6 GB and some minutes
    python -m bench.denoising_step --vocab 32768 --rounds 3 --json out.json

Every round runs each contender once, one after the other, so that a change in the machine's speed meets all of them.
Ratios are taken against the reference in the dtype in which it is faster, with its own default settings.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import random_checkpoint, reference_model

from redraft.engine.engine import Engine
from redraft.engine.kv_cache import KVCache
from redraft.engine.load import load

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
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Timings:
    """Seconds of every denoising step after a canvas's first, and of every whole generate."""

    steps: list[float]
    wholes: list[float]


def run_ours(engine: Engine, prompt: Sequence[int], steps: int, seed: int, into: Timings) -> None:
    """One canvas through ``Engine.generate``."""
    marks: list[float] = []
    began = time.perf_counter()
    engine.prefixes.forget()
    engine.generate(
        prompt,
        max_tokens=256,
        max_denoising_steps=steps,
        seed=seed,
        on_step=lambda _: marks.append(time.perf_counter()),
    )
    into.wholes.append(time.perf_counter() - began)
    into.steps.extend(later - earlier for earlier, later in pairwise(marks))


def run_reference(model: Any, prompt: Sequence[int], steps: int, seed: int, into: Timings) -> None:
    """One canvas through ``DiffusionGemmaForBlockDiffusion.generate``."""
    torch.manual_seed(seed)
    own_step, seconds = model._denoising_step, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = own_step(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return result

    model._denoising_step = timed
    began = time.perf_counter()
    model.generate(torch.tensor([prompt]), max_new_tokens=256, max_denoising_steps=steps)
    into.wholes.append(time.perf_counter() - began)
    into.steps.extend(seconds[1:])
    del model._denoising_step


@torch.no_grad()
def agreement(engines: dict[str, Engine], references: dict[str, Any], prompt: list[int]) -> dict[str, dict[str, float]]:
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


def measure(vocab: int, rounds: int, steps: int) -> dict[str, Any]:
    """All contenders on one vocabulary: medians, spread and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = random_checkpoint(Path(folder), vocab_size=vocab, **SHAPE)
        engines = {name: load(path, dtype=name) for name in DTYPES}  # type: ignore[arg-type]
        references = {}
        for name, dtype in DTYPES.items():
            references[name] = reference_model(path, dtype)
            references[name].set_attn_implementation("sdpa")
            references[name].set_experts_implementation("grouped_mm")
            references[name].generation_config.eos_token_id = None
    for engine in engines.values():
        engine.model.defaults = replace(engine.model.defaults, end_token_ids=())
    prompt = torch.randint(16, vocab, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    checks = agreement(engines, references, prompt)
    contenders: dict[str, Callable[[int, Timings], None]] = {}
    for name in DTYPES:
        contenders[f"redraft {name}"] = lambda seed, into, n=name: run_ours(engines[n], prompt, steps, seed, into)  # type: ignore[misc]
        contenders[f"transformers {name}"] = lambda seed, into, n=name: run_reference(  # type: ignore[misc]
            references[n], prompt, steps, seed, into
        )
    timings = {name: Timings([], []) for name in contenders}
    for round_number in range(rounds + 1):
        for name, contender in contenders.items():
            # The first round warms up and is not counted.
            contender(round_number, Timings([], []) if round_number == 0 else timings[name])
    return {"vocabulary": vocab, "agreement": checks, **_summary(timings)}


def _summary(timings: dict[str, Timings]) -> dict[str, Any]:
    rows = {}
    for name, t in timings.items():
        rows[name] = {
            "step seconds": [min(t.steps), statistics.median(t.steps), max(t.steps)],
            "generate seconds": [min(t.wholes), statistics.median(t.wholes), max(t.wholes)],
        }
    ratios: dict[str, float | str] = {}
    for what in ("step seconds", "generate seconds"):
        best = min((rows[f"transformers {d}"][what][1], d) for d in DTYPES)
        for d in DTYPES:
            ratios[f"redraft {d}, {what.split()[0]}"] = best[0] / rows[f"redraft {d}"][what][1]
        ratios[f"against transformers, {what.split()[0]}"] = best[1]
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
        result = measure(vocab, arguments.rounds, arguments.steps)
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
