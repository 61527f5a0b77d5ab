"""What ``redraft plan`` estimates against what is then measured: a step, an answer, a token, and a process's memory.

    python -m bench.plan                              # all cases: the bundled model, and hidden 512 with 8 layers
    python -m bench.plan --case sudoku --dtype int8 --rounds 5

Estimate and measurement alternate, so that a machine that others use, too, slows both. The larger case is estimated
as a model is that is too deep to be run: from a layer of each kind, and from a part of its vocabulary. The ratio is
what was measured over what was estimated.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.random_checkpoint import random_checkpoint

from bench.denoising_step import SHAPE
from redraft.engine.result import Result
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
    found, canvas = checkpoint.read(folder), checkpoint.read(folder).config.canvas_length
    sample.WHOLE = whole
    plans: list[Plan] = []
    steps, answers, peaks, tokens = [], [], [], []
    prompts = _tokens(found.config.vocab_size, prompt)
    spec = ContenderSpec("redraft", str(folder), format, None)
    with (
        ProcessContender("redraft", spec, machine.malloc(None).environment) as contender,
        load(folder, dtype=format) as engine,
    ):
        libraries = contender.loaded.libraries_bytes
        for seed in range(rounds):
            plans.append(plan(folder, dtype=format, context=prompt + canvas, answer=canvas, steps=STEPS))
            run = contender.answer(Workload(prompts, canvas, STEPS), seed)
            steps.append(run.later_step or 0.0)
            answers.append(run.seconds)
            peaks.append((run.peak_bytes or 0) - (libraries or 0))
            tokens.append(_seconds_a_token(engine, prompts, seed) if "autoregressive" in plans[0].times else 0.0)
    yield Row("seconds a step", tuple(one.times["diffusion"].forward for one in plans), tuple(steps))
    yield Row("seconds an answer", tuple(one.times["diffusion"].answer for one in plans), tuple(answers))
    if "autoregressive" in plans[0].times:
        yield Row("seconds a token", tuple(one.times["autoregressive"].forward for one in plans), tuple(tokens))
    counted = tuple((one.footprint.running + one.footprint.looked_up) / 1e6 for one in plans)
    yield Row("MB of memory beside the libraries'", counted, tuple(peak / 1e6 for peak in peaks))


def _seconds_a_token(engine: Any, prompt: tuple[int, ...], seed: int) -> float:
    """Seconds that a further token takes: those of a long answer less those of a short one, the prompt being kept."""

    def seconds(count: int) -> float:
        result: Result = engine.generate(
            list(prompt), mode="autoregressive", max_tokens=count, min_tokens=count, ignore_eos=True, seed=seed
        )
        return result.usage.seconds

    seconds(1)
    return (seconds(1 + TOKENS) - seconds(1)) / TOKENS


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
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
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
