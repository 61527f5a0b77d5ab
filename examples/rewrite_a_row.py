"""Rewrites one part of a text; everything else comes back byte for byte."""

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"

rows = [PUZZLE[start : start + 9] for start in range(0, 81, 9)]
sheet = "".join("".join(f"<r{r}c{c}={mark}>" for c, mark in enumerate(row, 1)) + "\n" for r, row in enumerate(rows, 1))
text = sheet + "999999999\n672195348\n"

with redraft.load("sudoku") as engine:
    spoiled = (len(sheet), len(sheet) + 9)
    edited = engine.edit(text, [spoiled], hole=redraft.Hole(regex="[1-9]{9}"), seed=1)
    print("999999999 ->", edited.replacements[0])
    print("the rest stayed:", edited.text.replace(edited.replacements[0], "999999999") == text)
