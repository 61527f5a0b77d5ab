"""Answers several prompts at once: they share the model's forwards, and each gets the answer that it gets alone."""

import redraft

PUZZLES = [
    "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
    "..3.2.6..9..3.5..1..18.64....81.29..7.......8..67.82....26.95..8..2.3..9..5.1.3..",
    "2...8.3...6..7..84.3.5..2.9...1.54.8.........4.27.6...3.1..7.4.72..4..6...4.1...3",
]

with redraft.load("sudoku") as engine:
    prompts = [[{"role": "user", "content": puzzle}] for puzzle in PUZZLES]
    results = engine.generate_many(prompts, seeds=[1, 2, 3])
    for puzzle, result in zip(PUZZLES, results, strict=True):
        print(puzzle[:9], "->", result.text.splitlines()[0], f"in {result.usage.denoising_steps} steps")
    alone = engine.generate(prompts[1], seed=2)
    print("the same as alone:", alone.token_ids == results[1].token_ids)
