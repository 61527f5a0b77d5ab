"""The ``async`` twins: requests that run at the same time share the model's forwards."""

import asyncio

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


async def main() -> None:
    """Ask three times at once, and stream a fourth answer."""
    with redraft.load("sudoku") as engine:
        message = [{"role": "user", "content": PUZZLE}]
        results = await asyncio.gather(*(engine.agenerate(message, seed=seed) for seed in (1, 2, 3)))
        print([result.usage.denoising_steps for result in results], "steps")
        async for chunk in engine.astream(message, seed=4):
            print(chunk.text)


asyncio.run(main())
