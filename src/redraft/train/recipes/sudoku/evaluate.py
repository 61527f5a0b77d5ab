"""``redraft evaluate sudoku``: fresh puzzles through the same ``generate`` as any prompt, judged by the rules."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from redraft.api import Engine
from redraft.engine.trace import Trace
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.puzzles import Puzzles, generate, is_solution, singles_suffice

KINDS = {"36 or more givens": (36, 45), "24 to 30 givens": (24, 30)}
"""Range of givens, inclusive, of each kind of puzzle that is evaluated."""


@dataclass(frozen=True)
class Score:
    """A model's score on one kind of puzzle at one step limit. Shares are of puzzles unless they say otherwise."""

    kind: str
    max_denoising_steps: int
    puzzles: int
    solved: float
    solved_singles_suffice: float | None
    """The share of the puzzles that naked and hidden singles solve; None, as below, if there is none."""
    solved_needing_more: float | None
    mean_steps: float
    converged: float
    right_when_converged: float | None
    """The share of the puzzles that converged."""
    corrections_per_puzzle: float
    """Times a cell accepted with one token was later accepted, or committed, with another."""
    withdrawals_per_puzzle: float
    """Times a cell accepted at one step was renoised at the next."""
    acceptances_per_puzzle: float

    def row(self) -> dict[str, float | int | str | None]:
        return asdict(self)


def fresh_puzzles(kind: str, count: int, seed: int) -> Puzzles:
    """Puzzles of a kind that no training run has seen: training seeds are even, these are odd."""
    return generate(count, KINDS[kind], seed=2 * (seed * len(KINDS) + list(KINDS).index(kind)) + 1)


def evaluate(
    engine: Engine,
    kind: str,
    puzzles: Puzzles,
    max_denoising_steps: int | None = None,
    seed: int = 0,
    on_puzzle: Callable[[], None] | None = None,
) -> Score:
    """Solve every puzzle with ``engine.generate`` and judge the answers by the rules of Sudoku."""
    limit = engine.model.defaults.max_denoising_steps if max_denoising_steps is None else max_denoising_steps
    trace, steps, converged, answers = Trace(), [], [], np.zeros_like(puzzles.boards)
    for index, board in enumerate(puzzles.boards):
        result = engine.generate(
            [{"role": "user", "content": as_text(board)}],
            # An answer fits one canvas; a model that does not end there has not solved the puzzle.
            max_tokens=layout.CANVAS_LENGTH,
            max_denoising_steps=limit,
            seed=seed + index,
            on_step=trace,
        )
        steps.append(result.usage.denoising_steps)
        converged.append(result.converged)
        answers[index] = from_text(result.text)
        if on_puzzle is not None:
            on_puzzle()
    solved, sure = is_solution(puzzles.boards, answers), np.array(converged)
    easy = singles_suffice(puzzles.boards)
    count = len(puzzles.boards)
    return Score(
        kind=kind,
        max_denoising_steps=limit,
        puzzles=count,
        solved=float(np.mean(solved)),
        solved_singles_suffice=_share(solved[easy]),
        solved_needing_more=_share(solved[~easy]),
        mean_steps=float(np.mean(steps)),
        converged=float(np.mean(sure)),
        right_when_converged=_share(solved[sure]),
        corrections_per_puzzle=trace.corrections / count,
        withdrawals_per_puzzle=trace.withdrawals / count,
        acceptances_per_puzzle=trace.acceptances / count,
    )


def as_text(board: Sequence[int] | np.ndarray) -> str:
    """A board [81] as nine lines, ``.`` for blanks."""
    marks = ["." if value == 0 else str(value) for value in board]
    return "\n".join("".join(marks[row * 9 : row * 9 + 9]) for row in range(9))


def from_text(text: str) -> np.ndarray:
    """A generated answer as a board [81]; all blank where it is not nine lines of nine digits."""
    lines = text.splitlines()
    if len(lines) != 9 or any(len(line) != 9 or not set(line) <= set("123456789") for line in lines):
        return np.zeros(81, dtype=np.uint8)
    return np.array([int(mark) for mark in "".join(lines)], dtype=np.uint8)


def _share(of: np.ndarray) -> float | None:
    return float(of.mean()) if len(of) else None
