"""Compares Redraft with ``transformers``' generate where tokens are written one by one: Gemma 3 270M, alone and for
eight clients at once.

    python -m bench.autoregressive                           # bfloat16, 1 and 8 clients
    python -m bench.autoregressive --reference float32       # faster where a processor has no products of bfloat16
    python -m bench.autoregressive --file other.gguf --clients 1 4 16 --tokens 64

The file's weights are written to a folder in bfloat16 first, which both load. Each contender is a process of its own,
has all threads or as many as are said, and waits while the other computes; they go in turns, and which goes first
changes from round to round. Both answer the same prompts of one length greedily with the same number of tokens,
whatever ends they would like: ``transformers`` in one batch, Redraft as clients of its scheduler. Ratios are those of
whole answers, prompts included, within a round.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tests.gguf_files import gemma3_path

from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.scheduler import Scheduler
from redraft.errors import counted
from redraft.kernels import library
from redraft.loading import load
from redraft.measure.timing import Spread, alternate, check_rounds, times_as_fast
from redraft.models import checkpoint
from redraft.models.checkpoint import DType
from redraft.models.quantize import quantize

OURS, THEIRS = "redraft", "transformers"


@dataclass(frozen=True)
class Work:
    """What is asked of a contender at once."""

    prompts: tuple[tuple[int, ...], ...]
    """Token ids, all of one length: one for each client."""
    tokens: int
    """Tokens of every answer."""


@dataclass(frozen=True)
class Outcome:
    """One number of clients: how many times as fast Redraft is."""

    clients: int
    times: Spread
    seconds: dict[str, Spread]
    same: float
    """The share of tokens that both wrote alike, up to the first that differs in each answer."""

    def line(self) -> str:
        """The case in words."""
        low, high = self.times.extremes
        return (
            f"{counted(self.clients, 'client')}: {self.times.median:.2f} times as fast as transformers at batch "
            f"{self.clients} ({low:.2f} to {high:.2f}); {self.same:.0%} of the tokens are alike"
        )


class Redraft:
    """The engine, with a scheduler that makes batches of all clients."""

    def __init__(self, folder: Path, dtype: DType) -> None:
        self._engine: Engine = load(folder, dtype=dtype, pack_folder=None)
        self._engine.model.defaults = replace(self._engine.model.defaults, end_token_ids=())

    def answer(self, work: Work) -> list[list[int]]:
        runtime = self._engine.runtime
        # Every answer encodes its prompt, as the reference does.
        runtime.pool.forget()
        scheduler = Scheduler(runtime, max_concurrency=len(work.prompts))
        try:
            requests = [self._engine.request(prompt, max_tokens=work.tokens, temperature=0) for prompt in work.prompts]
            handles = [
                scheduler.submit(Generate(runtime, request), client=str(number))
                for number, request in enumerate(requests)
            ]
            return [list(handle.result().token_ids) for handle in handles]
        finally:
            scheduler.close()


class Transformers:
    """``generate`` of the reference, on one batch."""

    def __init__(self, folder: Path, dtype: DType) -> None:
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def answer(self, work: Work) -> list[list[int]]:
        ids = torch.tensor(work.prompts)
        found = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=work.tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers: list[list[int]] = found[:, ids.shape[1] :].tolist()
        return answers


_contender: Redraft | Transformers


def _start(name: str, folder: Path, dtype: DType, threads: int | None) -> None:
    global _contender
    if threads is not None:
        torch.set_num_threads(threads)
        library.set_threads(threads)
    _contender = Redraft(folder, dtype) if name == OURS else Transformers(folder, dtype)


def _answer(work: Work) -> tuple[float, list[list[int]]]:
    began = perf_counter()
    answers = _contender.answer(work)
    return perf_counter() - began, answers


@contextmanager
def contender(
    name: str, folder: Path, dtype: DType, threads: int | None
) -> Iterator[Callable[[Work], tuple[float, list[list[int]]]]]:
    """What answers in a process of its own, once it is loaded."""
    context = get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=_start, initargs=(name, folder, dtype, threads)
    ) as process:
        yield lambda work: process.submit(_answer, work).result()


def prompts(vocab_size: int, length: int, count: int) -> tuple[tuple[int, ...], ...]:
    """``count`` random prompts of ``length`` tokens."""
    drawn = torch.randint(vocab_size // 2, (count, length), generator=torch.Generator().manual_seed(0))
    # The first tokens are markers.
    return tuple(map(tuple, (drawn + vocab_size // 4).tolist()))


def measure(
    folder: Path, dtypes: tuple[DType, DType], works: Sequence[Work], rounds: int, threads: int | None = None
) -> list[Outcome]:
    """Measure every work in ``rounds`` counted rounds after one that warms up; ``dtypes`` are ours and theirs."""
    check_rounds(rounds)
    found = []
    with contender(OURS, folder, dtypes[0], threads) as ours, contender(THEIRS, folder, dtypes[1], threads) as theirs:
        for work in works:
            runs = {name: partial(_once, one, work) for name, one in ((OURS, ours), (THEIRS, theirs))}
            results = alternate(runs, rounds)
            seconds = {name: [took for took, _ in own] for name, own in results.items()}
            times = times_as_fast(seconds[OURS], seconds[THEIRS])
            assert times is not None, "there are rounds"
            spreads = {name: Spread(tuple(own)) for name, own in seconds.items()}
            same = _alike(results[OURS][0][1], results[THEIRS][0][1])
            found.append(Outcome(len(work.prompts), times, spreads, same))
    return found


def _once(answer: Callable[[Work], tuple[float, list[list[int]]]], work: Work, _: int) -> tuple[float, list[list[int]]]:
    return answer(work)


def _alike(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    alike = total = 0
    for own, other in zip(ours, theirs, strict=True):
        assert len(own) == len(other), "both write as many tokens as they are asked for"
        alike += next((index for index, pair in enumerate(zip(own, other, strict=True)) if len({*pair}) > 1), len(own))
        total += len(own)
    return alike / total


def main() -> None:
    """Measure and print ratios; seconds go to the JSON file alone, for they are this machine's at this hour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="a GGUF file or a folder; by default the tests' Gemma 3 270M")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--reference", default="bfloat16", help="the dtype of transformers")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        read = checkpoint.read(arguments.file or gemma3_path(Path(temporary)))
        size, length, folder = read.config.vocab_size, arguments.prompt_tokens, Path(temporary) / "folder"
        quantize(read, folder, "bfloat16")
        works = [Work(prompts(size, length, count), arguments.tokens) for count in arguments.clients]
        found = measure(folder, (arguments.dtype, arguments.reference), works, arguments.rounds, arguments.threads)
    for outcome in found:
        print(outcome.line())
    if arguments.json is not None:
        described = [
            {
                "clients": one.clients,
                "times_as_fast": one.times.as_object(),
                "seconds": {name: own.as_object() for name, own in one.seconds.items()},
                "same": one.same,
            }
            for one in found
        ]
        arguments.json.write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    main()
