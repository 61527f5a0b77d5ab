"""Where a denoising step's time goes: each kernel's share of it, and how near each comes to the processor's peak.

    python -m bench.step_parts                          # hidden 512, 8 layers, vocabulary 32,768, in every format
    python -m bench.step_parts --vocab 262144 --dtype bfloat16 --threads 1
    python -m bench.step_parts --deep                   # hidden 640, 12 layers, vocabulary 16,384

Kernels are timed where Python calls them, and called one by one for that, where a step goes through all layers in one
call otherwise. "between them" is what torch and Python do then.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import random_checkpoint

from bench.denoising_step import DEEP_SHAPE, DEEP_VOCABULARY, PROMPT_TOKENS, SHAPE
from redraft.canvas.readout import ReadoutSpec
from redraft.engine.memory import KVPool
from redraft.kernels import bindings, library
from redraft.kernels.forward import forward_by_layers
from redraft.kernels.layer import PackedLayer
from redraft.kernels.packed import FORMATS
from redraft.measure.peak import multiply_adds_by_kernel, multiply_adds_per_second
from redraft.models import checkpoint, packed
from redraft.models.base import Span
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import load_packed

TEMPERATURE = 0.6
WARM_UP = 2


def call_one_by_one() -> None:
    """Take the layers apart into their kernels."""
    PackedLayer.project = PackedLayer.project_by_parts  # type: ignore[method-assign]
    PackedLayer.finish = PackedLayer.finish_by_parts  # type: ignore[method-assign]
    packed.forward = forward_by_layers  # type: ignore[attr-defined]


class KernelClock:
    """Adds up the seconds spent in each C entry while it stands in for ``bindings.entry``."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._entry = bindings.entry

    def __enter__(self) -> "KernelClock":
        bindings.entry = self._timed  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        bindings.entry = self._entry

    def _timed(self, name: str) -> Callable[..., None]:
        entry = self._entry(name)

        def call(*arguments: Any) -> None:
            began = time.perf_counter()
            entry(*arguments)
            self.seconds[name.removeprefix("redraft_")] += time.perf_counter() - began

        return call


@torch.inference_mode()
def measure(model: PackedModel, rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of a self-conditioned step, and those of each kernel in it."""
    config, canvas = model.config, model.config.canvas_length
    assert canvas is not None, "the random checkpoints have a canvas"
    generator = torch.Generator().manual_seed(0)
    prompt, tokens = torch.randint(16, config.vocab_size, (2, canvas), generator=generator)
    cache = KVPool.of(model).open()[0]
    model.forward([Span(prompt[:PROMPT_TOKENS], cache, "encode")])
    uniforms = torch.rand(canvas, dtype=torch.float64, generator=generator)
    wanted = ReadoutSpec(TEMPERATURE, uniforms, self_conditioning=True)
    conditioning: torch.Tensor | None = None
    steps, kernels = [], []
    for _ in range(WARM_UP + rounds):
        with KernelClock() as clock:
            began = time.perf_counter()
            (hidden,) = model.forward([Span(tokens, cache, "denoise", conditioning)])
            assert hidden is not None, "a canvas has hidden states"
            (readout,) = model.readout([hidden], [wanted])
            steps.append(time.perf_counter() - began)
        conditioning = readout.self_conditioning
        kernels.append(clock.seconds)
    kernels = kernels[WARM_UP:]
    return statistics.median(steps[WARM_UP:]), {
        name: statistics.median(one[name] for one in kernels) for name in kernels[0]
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=32_768)
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--dtype", choices=FORMATS, action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    call_one_by_one()
    status = library.status()
    if bindings.kernels() is None:
        raise SystemExit(f"there are no kernels to time: {status.reason}")
    shape, vocab = (DEEP_SHAPE, DEEP_VOCABULARY) if arguments.deep else (SHAPE, arguments.vocab)
    print(f"kernels: {status.tier}, {status.threads} threads; vocabulary {vocab:,}, {arguments.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        found = checkpoint.read(random_checkpoint(Path(folder), vocab_size=vocab, **shape))
        for format in arguments.dtype or FORMATS:
            model = load_packed(found, format)
            step, kernels = measure(model, arguments.rounds)
            work = multiply_adds_by_kernel(model, PROMPT_TOKENS, shape["canvas_length"])
            peaks = {f: multiply_adds_per_second(f) for f in FORMATS}
            whole, shown = 0.0, []
            for name, seconds in sorted(kernels.items(), key=lambda item: -item[1]):
                ideal = sum(count / peaks[f] for f, count in work.get(name, Counter()).items())
                whole += ideal
                peak = f" at {ideal / seconds:.0%} of peak" if ideal else ""
                shown.append(f"{name} {seconds / step:.0%}{peak}")
            shown.append(f"between them {1 - sum(kernels.values()) / step:.0%}")
            print(f"{format}: {whole / step:.0%} of peak; {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
