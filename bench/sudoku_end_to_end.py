"""Sudoku end to end: the bundled model here and in ``transformers``, in alternation puzzle by puzzle.

    python -m bench.sudoku_end_to_end                     # 100 puzzles, half of each kind; a few minutes
    python -m bench.sudoku_end_to_end --count 20 --threads 1 --json out.json

Every contender runs in a process of its own and gets the same token ids; settings of sampling and stopping are the
checkpoint's, which both read. The noise differs, and with it now and then an answer: solved puzzles are counted for
each. Ratios are taken puzzle by puzzle against ``transformers`` in the dtype in which it is faster.
"""

import argparse
import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from redraft.measure import machine
from redraft.measure.benchmark import SECONDS, Measurement
from redraft.measure.process import ProcessContender
from redraft.measure.report import short
from redraft.measure.timing import Spread, alternate, check_rounds
from redraft.measure.worker import ContenderSpec
from redraft.measure.workload import Run, Workload
from redraft.models import checkpoint
from redraft.models.checkpoint import DType
from redraft.models.tokenizer import ChatTokenizer
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import KINDS, fresh_puzzles, from_text
from redraft.train.recipes.sudoku.puzzles import is_solution

REFERENCE_DTYPES = ("float32", "bfloat16")


def mixed_boards(count: int, seed: int) -> np.ndarray:
    """Fresh puzzles [N, 81], the kinds in turn."""
    kinds = [fresh_puzzles(kind, -(-count // len(KINDS)), seed).boards for kind in KINDS]
    return np.stack(kinds, axis=1).reshape(-1, 81)[:count]


def workload(board: np.ndarray) -> Workload:
    """The answer to one puzzle: a canvas, stopped as the checkpoint says."""
    return Workload(tuple(layout.prompt_tokens(board[None])[0].tolist()), layout.CANVAS_LENGTH)


def measure(
    model: str, dtypes: list[str], count: int, seed: int, threads: int | None, malloc: machine.Malloc
) -> dict[str, Any]:
    """Solve ``count`` puzzles with every contender, the last of them once more before, to warm up."""
    folder = checkpoint.find(model)
    decode = ChatTokenizer.from_folder(folder).decode
    specs = {f"redraft {dtype}": ContenderSpec("redraft", str(folder), dtype, threads) for dtype in dtypes}
    references = {
        f"transformers {dtype}": ContenderSpec("transformers", str(folder), dtype, threads)
        for dtype in REFERENCE_DTYPES
    }
    boards = mixed_boards(count, seed)
    with ExitStack() as running:
        answers = {}
        for name, spec in (specs | references).items():
            contender = running.enter_context(ProcessContender(name, spec, malloc.environment))
            answers[name] = partial(_answer, contender, boards, seed)
        runs = alternate(answers, count)
    solved = {}
    for name, own in runs.items():
        given = np.stack([from_text(decode(run.token_ids)) for run in own])
        solved[name] = is_solution(boards, given)
    return _summary(Measurement(workload(boards[0]), runs, tuple(references)), solved)


def _answer(contender: ProcessContender, boards: np.ndarray, seed: int, number: int) -> Run:
    # Rounds count from 1; round 0, the warm-up, takes the last puzzle.
    return contender.answer(workload(boards[number - 1]), seed + number)


def _summary(measurement: Measurement, solved: dict[str, np.ndarray]) -> dict[str, Any]:
    ratios = measurement.ratios(SECONDS)
    assert ratios is not None
    theirs = solved[ratios.reference]
    rows = {}
    for name, runs in measurement.runs.items():
        rows[name] = {
            "seconds": Spread(tuple(run.seconds for run in runs)).as_object(),
            "times_as_fast": ratios.by_contender[name].as_object(),
            "times_as_fast_in_all": sum(run.seconds for run in measurement.runs[ratios.reference])
            / sum(run.seconds for run in runs),
            "denoising_steps": Spread(tuple(float(run.denoising_steps) for run in runs)).as_object(),
            "mean_denoising_steps": float(np.mean([run.denoising_steps for run in runs])),
            "solved": int(solved[name].sum()),
            "solved_by_kind": {
                kind: f"{solved[name][place :: len(KINDS)].sum()} of {len(theirs[place :: len(KINDS)])}"
                for place, kind in enumerate(KINDS)
            },
            "solved_by_the_reference_too": int((solved[name] & theirs).sum()),
        }
    return {"reference": ratios.reference, "puzzles": len(theirs), "contenders": rows}


def _quartiles(of: dict[str, Any]) -> str:
    return f"{short(of['median'])} ({short(of['lower_quartile'])} to {short(of['upper_quartile'])})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku", help="a checkpoint of the Sudoku recipe")
    parser.add_argument("--dtype", action="append", choices=get_args(DType), help="may be repeated; by default auto")
    parser.add_argument("--count", type=int, default=100, help="puzzles, half of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--malloc", choices=get_args(machine.MallocChoice))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    check_rounds(arguments.count)
    here, malloc = machine.describe(), machine.malloc(arguments.malloc)
    print(f"{here.processor}, {here.cores} usable cores, torch {here.torch}, transformers {here.transformers}, "
          f"load {here.load_average}; malloc: {malloc.description}")  # fmt: skip
    if here.warning:
        print(f"warning: {here.warning}")
    result = measure(
        arguments.model, arguments.dtype or ["auto"], arguments.count, arguments.seed, arguments.threads, malloc
    )
    print(f"{result['puzzles']} puzzles; a puzzle's seconds and ratios as median (quartiles)")
    for name, row in result["contenders"].items():
        kinds = ", ".join(f"{kind}: {solved}" for kind, solved in row["solved_by_kind"].items())
        print(f"  {name}\n    solved {row['solved']} ({kinds}); {row['mean_denoising_steps']:.1f} steps a puzzle; "
              f"seconds {_quartiles(row['seconds'])}")  # fmt: skip
        if name != result["reference"]:
            print(f"    times as fast as {result['reference']}: {_quartiles(row['times_as_fast'])}, over all puzzles "
                  f"{row['times_as_fast_in_all']:.2f}; solved by both: {row['solved_by_the_reference_too']}"
            )  # fmt: skip
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": asdict(here), "malloc": malloc.description, **result}, indent=2)
        )


if __name__ == "__main__":
    main()
