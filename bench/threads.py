"""One thread of the kernels and of torch against one for each physical core, on a tiny model and on larger ones.

    python -m bench.threads
    python -m bench.threads --rounds 5 --dtype bfloat16

A round is one answer of one canvas and six steps by each; ratios are taken within a round.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tests.random_checkpoint import random_checkpoint

from bench.denoising_step import DEEP_SHAPE, DEEP_VOCABULARY, SHAPE
from redraft.api import Engine
from redraft.kernels import library
from redraft.kernels.packed import FORMATS
from redraft.loading import load
from redraft.measure.timing import alternate, times_as_fast
from redraft.measure.workload import RedraftContender, Workload

STEPS = 6


def answer(engine: Engine, workload: Workload, threads: int) -> Callable[[int], float]:
    """Seconds of one answer on so many threads."""
    contender = RedraftContender(engine)

    def seconds(seed: int) -> float:
        library.use_threads(threads)
        return contender.answer(workload, seed).seconds

    return seconds


def compare(name: str, engine: Engine, rounds: int, threads: int) -> None:
    """Measure and print one model."""
    canvas, vocab = engine.model.config.canvas_length, engine.model.config.vocab_size
    prompt = torch.randint(16, vocab, (canvas,), generator=torch.Generator().manual_seed(0)).tolist()
    workload = Workload(tuple(prompt), canvas, STEPS)
    seconds = alternate({"one": answer(engine, workload, 1), "all": answer(engine, workload, threads)}, rounds)
    ratio = times_as_fast(seconds["all"], seconds["one"])
    assert ratio is not None, "both were run in every round"
    least, greatest = ratio.extremes
    print(
        f"{name}: {threads} threads {ratio.median:.2f} times as fast as one ({least:.2f} to {greatest:.2f})", flush=True
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", choices=FORMATS, default="bfloat16", help="of the larger models")
    arguments = parser.parse_args()
    status = library.status()
    threads = status.threads
    if threads is None:
        raise SystemExit(f"there are no kernels to give threads to: {status.reason}")
    print(f"kernels: {status.tier}; {arguments.rounds} rounds")
    compare("bundled Sudoku model, float32", load("sudoku"), arguments.rounds, threads)
    for shape, vocab in ((SHAPE, 32_768), (DEEP_SHAPE, DEEP_VOCABULARY)):
        with tempfile.TemporaryDirectory() as folder:
            engine = load(random_checkpoint(Path(folder), vocab_size=vocab, **shape), dtype=arguments.dtype)
            name = f"hidden {shape['hidden_size']}, {len(shape['layer_types'])} layers, vocabulary {vocab:,}"
            compare(f"{name}, {arguments.dtype}", engine, arguments.rounds, threads)


if __name__ == "__main__":
    main()
