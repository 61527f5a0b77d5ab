"""Writes what stands between two texts: here all of a solved grid but its last row, which is given."""

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
LAST_ROW = "345286179"

with redraft.load("sudoku") as engine:
    filled = engine.fill(
        "",
        LAST_ROW,
        prompt=[{"role": "user", "content": PUZZLE}],
        hole=redraft.Hole(regex="([1-9]{9}\n){8}"),
        seed=1,
    )
    print(filled.text)
    print("the suffix stayed:", filled.text.endswith(LAST_ROW))
