"""Asks for the probability of each option, read off one denoising step."""

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"

with redraft.load("sudoku") as engine:
    asked = engine.choose([{"role": "user", "content": PUZZLE}], ["1", "2", "4"], frame="53{answer}", seed=1)
    for option, probability in asked.probabilities.items():
        print(f"{option}: {probability:6.1%}")
    print("chosen:", asked.choice, "in", asked.usage.denoising_steps, "step")
