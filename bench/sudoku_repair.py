"""Sudokus with planted mistakes: a model that is given a solved grid of which some digits are wrong, as a draft.

    python -m bench.sudoku_repair                      # the bundled model; some minutes
    python -m bench.sudoku_repair --puzzles 50 --planted 1 10

The prompt is the puzzle; the canvas starts from the grid in the place of noise. Wrong digits are planted in cells that
the puzzle leaves blank. A grid is repaired if the answer is the solution. Beside it the same puzzles from noise, at the
same limit of steps, and how many digits of the grid that were right are changed. Intervals are Wilson's.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

import redraft
from redraft.api import Engine
from redraft.canvas.draft import Draft
from redraft.measure.evaluate.estimates import Sums, share
from redraft.tasks.infill import draft_of
from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, fresh_puzzles
from redraft.train.recipes.sudoku.puzzles import Puzzles

PLANTED = (0, 1, 3, 5, 10)
SEED = 11


@dataclass(frozen=True)
class Repair:
    """The outcome of grids with planted mistakes."""

    kind: str
    planted: int | None
    """Wrong digits in the grid; None for noise in the place of a grid."""
    puzzles: int
    solved: float
    low: float | None
    """None, as ``high``, of a single puzzle."""
    high: float | None
    mean_steps: float
    spoilt: float | None
    """Digits a puzzle that were right and are wrong in the answer; None from noise."""


def planted(board: NDArray[np.uint8], solution: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.uint8]:
    """Return a solution [81] with ``count`` other digits in cells that the board [81] leaves blank."""
    rng = np.random.default_rng([SEED, seed])
    grid = solution.copy()
    for cell in rng.choice(np.flatnonzero(board == 0), size=count, replace=False):
        grid[cell] = rng.choice([digit for digit in range(1, 10) if digit != solution[cell]])
    return grid


def text_of(grid: NDArray[np.uint8]) -> str:
    """Return an answer as the model writes it: nine lines of nine digits."""
    return "\n".join("".join(map(str, row)) for row in grid.reshape(9, 9))


def repair(engine: Engine, kind: str, puzzles: Puzzles, count: int | None, steps: int | None) -> Repair:
    """Start each puzzle's canvas from its grid with ``count`` mistakes, or from noise, and judge the answers."""
    solved, taken, spoilt = [], [], []
    for index, (board, solution) in enumerate(zip(puzzles.boards, puzzles.solutions, strict=True)):
        board, solution = board.reshape(-1), solution.reshape(-1)
        grid = None if count is None else planted(board, solution, count, index)
        draft: Draft | None = None if grid is None else draft_of(engine.runtime, [(text_of(grid), 1.0)])
        found = engine.generate(
            [{"role": "user", "content": as_text(board)}], seed=index, draft=draft, max_denoising_steps=steps
        )
        right = text_of(solution)
        solved.append(found.text == right)
        taken.append(found.usage.denoising_steps)
        if grid is not None:
            pairs = zip(text_of(grid), right, found.text.ljust(len(right)), strict=False)
            spoilt.append(sum(was == should != now for was, should, now in pairs))
    ones = np.ones(len(solved))
    estimate = share(Sums(np.array(solved, float), ones, ones))
    assert estimate is not None, "there are puzzles"
    lost = float(np.mean(spoilt)) if spoilt else None
    return Repair(kind, count, len(solved), estimate.value, estimate.low, estimate.high, float(np.mean(taken)), lost)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku")
    parser.add_argument("--puzzles", type=int, default=200, help="of each kind")
    parser.add_argument("--planted", type=int, nargs="+", default=PLANTED)
    parser.add_argument("--steps", type=int, help="at most; by default the checkpoint's")
    given = parser.parse_args(arguments)
    with redraft.load(given.model) as engine:
        for kind in KINDS:
            puzzles = fresh_puzzles(kind, given.puzzles, SEED)
            for count in (None, *given.planted):
                print(json.dumps(asdict(repair(engine, kind, puzzles, count, given.steps))), flush=True)


if __name__ == "__main__":
    main()
