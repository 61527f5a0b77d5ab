"""The rules of Sudoku as ``generate`` takes them: givens and rows as constraints, and all of them as a verifier."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from redraft.constrain.constraint import Exactly, Template
from redraft.constrain.expression import AllOf, Characters, Expression, Literal, Repeat, joined
from redraft.constrain.language.template import Hole
from redraft.engine.verify import Candidate
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import from_text
from redraft.train.recipes.sudoku.puzzles import PEERS

_DIGITS = "123456789"
_DIGIT = Hole(regex="[1-9]")


def grid(board: np.ndarray) -> Template:
    """Nine lines of nine digits in which the givens of ``board`` [81] stand in their places."""
    cells = [f"{{{cell_name(cell)}}}" if value == 0 else str(value) for cell, value in enumerate(board)]
    lines = "\n".join("".join(cells[row * 9 : row * 9 + 9]) for row in range(9))
    return Template(lines, {cell_name(cell): _DIGIT for cell in np.flatnonzero(board == 0).tolist()})


def rows(board: np.ndarray) -> Exactly:
    """Besides ``grid``, each line has every digit: as much of the rules as a short automaton can hold."""
    parts: list[Expression] = []
    for row in board.reshape(9, 9):
        digits = [Characters.among(_DIGITS) if value == 0 else Literal(str(value)) for value in row]
        each = [joined(_but(digit), Literal(digit), _but(digit)) for digit in _DIGITS]
        parts += [AllOf((joined(*digits), *each)), Literal("\n")]
    return Exactly(joined(*parts[:-1]))


@dataclass(frozen=True, eq=False)
class Rules:
    """A verifier: marks the cells that clash in a row, column or box, and those that are not what was given.

    Of two cells that clash both are marked, for it does not show which is wrong; a given that stands as it was given
    is not. An answer that is no grid is wrong everywhere.
    """

    board: np.ndarray
    """[81], 0 for a blank."""

    def __call__(self, candidate: Candidate) -> Collection[int]:
        answer = from_text(candidate.text)
        if not answer.any():
            return range(len(candidate.token_ids))
        return layout.CELL_POSITIONS[self.wrong_cells(answer)].tolist()

    def wrong_cells(self, answer: np.ndarray) -> np.ndarray:
        """The numbers of the cells of ``answer`` [81] that are wrong, or may be."""
        clashes = (answer[PEERS] == answer[:, None]).any(1)
        return np.flatnonzero(np.where(self.board > 0, answer != self.board, clashes))


def cell_name(cell: int) -> str:
    """Name a cell that is a hole: row and column, as in r1c9."""
    return f"r{cell // 9 + 1}c{cell % 9 + 1}"


def _but(digit: str) -> Expression:
    return Repeat(Characters.among(_DIGITS.replace(digit, "")), 0, None)
