"""A Sudoku as questions for ``choose``: which digit stands in each blank, the solution being the truth."""

import numpy as np

from redraft.calibrate.choice import ChoiceExample
from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, fresh_puzzles
from redraft.train.recipes.sudoku.rules import cell_name, grid

DIGITS = tuple("123456789")


def questions(board: np.ndarray, solution: np.ndarray, cells: int | None, rng: np.random.Generator) -> ChoiceExample:
    """All blanks of a puzzle asked at once, so many of them, drawn at random, with their truth; None for all."""
    blanks = np.flatnonzero(board == 0)
    counted = blanks if cells is None else rng.choice(blanks, cells, replace=False)
    return ChoiceExample(
        prompt=[{"role": "user", "content": as_text(board)}],
        options={cell_name(cell): DIGITS for cell in blanks.tolist()},
        truth={cell_name(cell): str(solution[cell]) for cell in counted.tolist()},
        frame=grid(board).text,
    )


def mixed(count: int, cells: int | None, seed: int) -> list[ChoiceExample]:
    """``count`` fresh puzzles as questions, the kinds in turn."""
    rng = np.random.default_rng(seed)
    kinds = [fresh_puzzles(kind, -(-count // len(KINDS)), seed) for kind in KINDS]
    pairs = [(p.boards[n], p.solutions[n]) for n in range(len(kinds[0].boards)) for p in kinds]
    return [questions(board, solution, cells, rng) for board, solution in pairs[:count]]
