"""What sampling parameters cost a denoising step: each against a step without, in alternation.

    python -m bench.sampled_step                        # bfloat16 and int8; needs about 2 GB and some minutes
    python -m bench.sampled_step --dtype int8 --flat --rounds 9 --json out.json

The model is random: hidden 640, 12 layers, canvas 256, and a vocabulary at which the readout is about the share of a
step's multiplications that it is in DiffusionGemma 26B (28 %). What filters leave of a row decides what they cost, so
there are two temperatures: at the schedule's rows are peaked, with --flat some thousand tokens are about as likely.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import random_checkpoint

from bench.constrained_step import timed
from bench.denoising_step import DEEP_SHAPE, PROMPT_TOKENS
from redraft.canvas.penalties import Standing
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.engine.memory import KVPool
from redraft.engine.sampling import Sampling
from redraft.kernels import bindings, library
from redraft.kernels.packed import FORMATS
from redraft.measure.timing import alternate, times_as_fast
from redraft.models import checkpoint
from redraft.models.base import Span
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import load_packed

VOCABULARY = 32_768
TEMPERATURE, FLAT = 0.6, 20.0
END_TOKENS = (1, 106)
ANSWER = 512
SAMPLINGS: dict[str, Sampling] = {
    "top_k 40": Sampling(top_k=40),
    "top_p 0.9": Sampling(top_p=0.9),
    "min_p 0.05": Sampling(min_p=0.05),
    "bias of 20 tokens, min_tokens": Sampling(logit_bias=tuple((n * 31, 1.0) for n in range(20)), min_tokens=2000),
    "penalties": Sampling(presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1),
    "all": Sampling(0.9, 40, 0.05, ((7, 1.0),), 0.5, 0.5, 1.1, 2000),
}


class Steps:
    """A model with a prompt, and denoising steps of one canvas behind it."""

    def __init__(self, model: PackedModel, temperature: float) -> None:
        config, generator = model.config, torch.Generator().manual_seed(0)
        self._model, self._temperature, length = model, temperature, config.canvas_length
        prompt, self._tokens = torch.randint(16, config.vocab_size, (2, length), generator=generator)
        self._answer = torch.randint(16, config.vocab_size, (ANSWER,), generator=generator).tolist()
        self._cache = KVPool.of(model).open()[0]
        model.forward([Span(prompt[:PROMPT_TOKENS], self._cache, "encode")])
        self._uniforms = torch.rand(length, dtype=torch.float64, generator=generator)
        self._soft = 0.1 * torch.randn(length, DEEP_SHAPE["hidden_size"], generator=generator)
        (hidden,) = model.forward([Span(self._tokens, self._cache, "denoise", self._soft)])
        assert hidden is not None, "a canvas has hidden states"
        self._hidden = hidden

    def read(self, hidden: torch.Tensor, sampling: Sampling | None, values: bool = True) -> Readout:
        shaping = None
        if sampling is not None:
            stands, stays = torch.ones(2, len(self._tokens), dtype=torch.bool)
            canvas = Standing(self._tokens, stands, ~stays)
            shaping = sampling.shaping(END_TOKENS, None, self._answer, canvas)
        spec = ReadoutSpec(self._temperature, self._uniforms, self_conditioning=values, shaping=shaping)
        return self._model.readout([hidden], [spec])[0]

    def step(self, sampling: Sampling | None) -> Callable[[int], None]:
        def work(_: int) -> None:
            (hidden,) = self._model.forward([Span(self._tokens, self._cache, "denoise", self._soft)])
            assert hidden is not None, "a canvas has hidden states"
            self.read(hidden, sampling)

        return work

    def readout(self, values: bool) -> Callable[[int], None]:
        def work(_: int) -> None:
            self.read(self._hidden, None, values)

        return work

    def describe(self) -> str:
        readout = self.read(self._hidden, None)
        return f"entropy {readout.entropy.mean():.2f} nats, likeliest {readout.confidence.mean():.1%}"


@torch.inference_mode()
def measure(model: PackedModel, temperature: float, rounds: int) -> dict[str, Any]:
    """Each sampling's step over one without, in the processors' time, as median, least and greatest; and how many
    products with the vocabulary that is."""
    steps = Steps(model, temperature)
    contenders = {"plain": steps.step(None), **{name: steps.step(one) for name, one in SAMPLINGS.items()}}
    contenders |= {"readout": steps.readout(values=True), "scores": steps.readout(values=False)}
    runs = alternate({name: timed(work) for name, work in contenders.items()}, rounds)
    seconds = {name: [run[1] for run in own] for name, own in runs.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    found: dict[str, Any] = {"distribution": steps.describe(), "seconds": median, "over plain": {}, "products": {}}
    for name in SAMPLINGS:
        ratio = times_as_fast(seconds["plain"], seconds[name])
        assert ratio is not None, "both were run in every round"
        found["over plain"][name] = [ratio.median, *ratio.extremes]
        more = [own - plain for own, plain in zip(seconds[name], seconds["plain"], strict=True)]
        found["products"][name] = statistics.median(more) / median["scores"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=VOCABULARY)
    parser.add_argument("--flat", action="store_true", help="rows in which some thousand tokens are about as likely")
    parser.add_argument("--dtype", choices=FORMATS, action="append")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    status = library.status()
    if bindings.kernels() is None:
        raise SystemExit(f"there are no kernels to time: {status.reason}")
    print(
        f"kernels: {status.tier}, {status.threads} threads; vocabulary {arguments.vocab:,}, {arguments.rounds} rounds"
    )
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        found = checkpoint.read(random_checkpoint(Path(folder), vocab_size=arguments.vocab, **DEEP_SHAPE))
        for format in arguments.dtype or ("bfloat16", "int8"):
            temperature = FLAT if arguments.flat else TEMPERATURE
            results[format] = row = measure(load_packed(found, format), temperature, arguments.rounds)
            times = ", ".join(f"{name} {1000 * row['seconds'][name]:.0f}" for name in ("plain", "readout", "scores"))
            print(f"{format}: {row['distribution']}; ms: {times}")
            for name, (ratio, least, greatest) in row["over plain"].items():
                spread = f"({least - 1:+.1%} to {greatest - 1:+.1%})"
                print(f"  {name}: {ratio - 1:+.1%} {spread}, {row['products'][name]:+.2f} products", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
