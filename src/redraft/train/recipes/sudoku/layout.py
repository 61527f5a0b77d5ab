"""A Sudoku in tokens: the one place that knows ids, rows and the order of cells.

Prompt: <bos>, then nine rows of nine cell tokens and a newline; a cell token names its row, column and content
("<r1c1=5>"), so that the model need not count. Canvas: nine rows of nine digits, each but the last ended by a newline,
the last by <eos>. A cell and its answer are therefore always OFFSET positions apart.
"""

import numpy as np
import torch
from torch import Tensor

PAD, EOS, BOS, NEWLINE = 0, 1, 2, 3
FIRST_DIGIT = 4
IMAGE_TOKENS = (13, 14, 15)
FIRST_CELL = 16
VOCAB_SIZE = FIRST_CELL + 81 * 10
TARGET_VOCABULARY = FIRST_CELL
CANVAS_LENGTH = 90
OFFSET = 90

_CELL = np.arange(81)
CELL_POSITIONS = _CELL + _CELL // 9
"""Find where cell i stands among the 90 positions of a canvas, or of a prompt after its <bos>."""


def vocabulary() -> dict[str, int]:
    """Every token's text and id."""
    tokens = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS, "\n": NEWLINE}
    tokens |= {str(digit): FIRST_DIGIT + digit - 1 for digit in range(1, 10)}
    tokens |= {f"<image_{name}>": id for name, id in zip(("start", "end", "soft"), IMAGE_TOKENS, strict=True)}
    for cell in range(81):
        for value in range(10):
            tokens[f"<r{cell // 9 + 1}c{cell % 9 + 1}={value or '.'}>"] = FIRST_CELL + 10 * cell + value
    return tokens


def prompt_tokens(boards: np.ndarray) -> Tensor:
    """Boards [N, 81] of 0 (blank) .. 9 -> prompt ids [N, 91]."""
    rows = np.full((len(boards), 91), NEWLINE, dtype=np.int64)
    rows[:, 0] = BOS
    rows[:, 1 + CELL_POSITIONS] = FIRST_CELL + 10 * _CELL + boards
    return torch.from_numpy(rows)


def answer_tokens(solutions: np.ndarray) -> Tensor:
    """Solutions [N, 81] of 1 .. 9 -> canvas ids [N, 90]."""
    rows = np.full((len(solutions), CANVAS_LENGTH), NEWLINE, dtype=np.int64)
    rows[:, -1] = EOS
    rows[:, CELL_POSITIONS] = FIRST_DIGIT - 1 + solutions.astype(np.int64)
    return torch.from_numpy(rows)


def at_cells(values: np.ndarray, elsewhere: float) -> Tensor:
    """Per-cell values [N, 81] spread over canvas positions [N, 90], ``elsewhere`` at newlines and the end."""
    spread = np.full((len(values), CANVAS_LENGTH), elsewhere, dtype=np.float32)
    spread[:, CELL_POSITIONS] = values
    return torch.from_numpy(spread)
