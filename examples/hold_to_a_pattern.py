"""Holds an answer to a pattern at every denoising step, so that it cannot be anything else."""

import re

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ROWS = r"([1-9]{9}\n){8}[1-9]{9}"

with redraft.load("sudoku") as engine:
    result = engine.generate([{"role": "user", "content": PUZZLE}], constraint=redraft.Regex(ROWS), seed=7)
    print(result.text)
    print("matches:", re.fullmatch(ROWS, result.text) is not None, "- log P(valid):", result.log_valid)
