"""Sets estimates of ``redraft plan`` against what is measured: a step, an answer, a token, and a process's memory.

    python -m bench.plan                              # all cases: the bundled model, and hidden 512 with 8 layers
    python -m bench.plan --case sudoku --dtype int8 --rounds 5
    python -m bench.plan --processor-time             # on one thread, by the processor's time: for a busy machine

Estimate and measurement alternate, so that a machine that others use, too, slows both. The larger case is estimated
as a model is that is too deep to be run: from a layer of each kind, and from a part of its vocabulary. The ratio is
what was measured over what was estimated.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.random_checkpoint import random_checkpoint

from bench.denoising_step import SHAPE
from redraft.api import Engine
from redraft.canvas.stopping import StableAndConfident
from redraft.kernels import library
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import load
from redraft.measure import machine, sample
from redraft.measure.plan import Plan, plan
from redraft.measure.process import ProcessContender
from redraft.measure.worker import ContenderSpec
from redraft.measure.workload import Workload
from redraft.models import checkpoint

PROMPT, STEPS, TOKENS = 256, 6, 24
CASES = ("sudoku", "hidden-512")


@dataclass(frozen=True)
class Row:
    """One thing, estimated and measured in each round."""

    what: str
    estimated: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of what was measured over what was estimated."""
        return statistics.median(b / a for a, b in zip(self.estimated, self.measured, strict=True))

    def line(self) -> str:
        """The row in words."""
        ratios = [b / a for a, b in zip(self.estimated, self.measured, strict=True)]
        first, second = statistics.median(self.estimated), statistics.median(self.measured)
        return f"{self.what}: estimated {first:.4g}, measured {second:.4g}, ratio {self.ratio:.2f} " + (
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def rows(folder: Path, format: Format, rounds: int, prompt: int, whole: float) -> Iterator[Row]:
    """Estimate and measure one checkpoint in one format. ``whole``: as in ``measure.sample``."""
    found = checkpoint.read(folder)
    canvas, prompts = found.config.canvas_length, _tokens(found.config.vocab_size, prompt)
    sample.WHOLE = whole
    plans: list[Plan] = []
    steps, answers, tokens = [], [], []
    with load(folder, dtype=format) as engine:
        for seed in range(rounds):
            plans.append(plan(folder, dtype=format, context=prompt + canvas, answer=canvas, steps=STEPS))
            short, long = (_seconds(engine, prompts, seed, canvas, steps=count) for count in (2, STEPS))
            steps.append((long - short) / (STEPS - 2))
            answers.append(long)
            first, last = (_seconds(engine, prompts, seed, count) for count in (1, 1 + TOKENS))
            tokens.append((last - first) / TOKENS)
    yield Row("seconds a step", tuple(one.times["diffusion"].forward for one in plans), tuple(steps))
    yield Row("seconds an answer", tuple(one.times["diffusion"].answer for one in plans), tuple(answers))
    yield Row("seconds a token", tuple(one.times["autoregressive"].forward for one in plans), tuple(tokens))
    spec = ContenderSpec("redraft", str(folder), format, None)
    with ProcessContender("redraft", spec, machine.malloc(None).environment) as contender:
        peak = contender.answer(Workload(prompts, canvas, STEPS), 0).peak_bytes or 0
        own = peak - (contender.loaded.libraries_bytes or 0)
    counted = plans[0].footprint.running + plans[0].footprint.looked_up
    yield Row("MB of memory beside the libraries'", (counted / 1e6,), (own / 1e6,))


def _seconds(engine: Engine, prompt: tuple[int, ...], seed: int, tokens: int, steps: int | None = None) -> float:
    """Seconds of an answer of so many tokens: on a canvas in so many steps, or token after token. Its prompt is encoded
    anew."""
    engine.runtime.pool.forget()
    began = sample.clock()
    engine.generate(
        list(prompt),
        mode="autoregressive" if steps is None else "diffusion",
        max_denoising_steps=steps,
        # Before its last step no canvas can equal those of so many earlier ones, so that all steps are taken.
        stopping=None if steps is None else StableAndConfident(steps),
        max_tokens=tokens,
        min_tokens=tokens,
        ignore_eos=True,
        seed=seed,
    )
    return sample.clock() - began


def _tokens(vocabulary: int, count: int) -> tuple[int, ...]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randint(16, min(vocabulary, 256), (count,), generator=random).tolist())


def cases(names: list[str], folder: Path) -> Iterator[tuple[str, Path, int, float]]:
    """Yield each case: its name, its folder, tokens of its prompt, and up to when all layers are run."""
    if "sudoku" in names:
        path = checkpoint.bundled_checkpoints()["sudoku"]
        yield "sudoku", path, 2, sample.WHOLE
    if "hidden-512" in names:
        made = random_checkpoint(folder, vocab_size=65_536, letters=True, **SHAPE)
        yield "hidden 512, 8 layers, vocabulary 65,536", made, PROMPT, 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; by default all")
    parser.add_argument("--dtype", action="append", choices=FORMATS, help="may be repeated; by default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processor-time", action="store_true", help="on one thread, by the processor's time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.processor_time:
        arguments.threads, sample.clock = 1, time.process_time
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    status = library.status()
    print(f"kernels: {status.tier}, {status.threads} threads; medians of {arguments.rounds} rounds")
    found: list[Mapping[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path, prompt, whole in cases(arguments.case or list(CASES), Path(folder)):
            for format in arguments.dtype or FORMATS:
                for row in rows(path, format, arguments.rounds, prompt, whole):
                    print(f"{name}, {format}, {row.line()}", flush=True)
                    found.append({"case": name, "dtype": format, **vars(row), "ratio": row.ratio})
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
