"""A solved Sudoku with wrong digits planted in it: the model starts from the grid and corrects it, on one canvas.

python examples/repair_a_sudoku.py                              # the canvas after every step, as text
python examples/repair_a_sudoku.py docs/sudoku-repair.svg       # an animated drawing of it
"""

import random
import sys
from pathlib import Path

import torch

import redraft

PUZZLE = "2...8.3...6..7..84.3.5..2.9...1.54.8.........4.27.6...3.1..7.4.72..4..6...4.1...3"
PLANTED, SEED = 10, 3
SIZE, MARGIN, SECONDS = 36, 8, 1.1
GIVEN, WRONG, CHANGED, SAME = "#222", "#c22", "#0a7a2f", "#777"


def spoiled(solution: str, chance: random.Random) -> str:
    """Return a solution with wrong digits in some of the cells that the puzzle leaves blank."""
    digits = list(solution)
    blanks = [cell for cell, mark in enumerate(PUZZLE) if mark == "."]
    for cell in chance.sample(blanks, PLANTED):
        digits[cell] = chance.choice([digit for digit in "123456789" if digit != solution[cell]])
    return "".join(digits)


def lines(digits: str) -> str:
    """Return 81 digits as the model writes them."""
    return "\n".join(digits[start : start + 9] for start in range(0, 81, 9))


def svg(frames: list[tuple[str, str]], wrong: set[int]) -> str:
    """Draw grids one after the other, each with what is said below it; ``wrong``: the cells that were planted."""
    width, height = 9 * SIZE + 2 * MARGIN, 9 * SIZE + 2 * MARGIN + 28
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for line in range(10):
        at, thick = MARGIN + line * SIZE, 2 if line % 3 == 0 else 0.6
        drawn.append(
            f'<path d="M{at} {MARGIN}V{MARGIN + 9 * SIZE}M{MARGIN} {at}H{MARGIN + 9 * SIZE}" stroke="#444" '
            f'stroke-width="{thick}"/>'
        )
    total = SECONDS * (len(frames) + 2)
    first = frames[0][0]
    for number, (digits, said) in enumerate(frames):
        start = number / (len(frames) + 2)
        end = 1.0 if number + 1 == len(frames) else (number + 1) / (len(frames) + 2)
        shown = [(0, "visible")] if number == 0 else [(0, "hidden"), (start, "visible")]
        shown += [] if end == 1.0 else [(end, "hidden")]
        times, values = ";".join(f"{at:.4f}" for at, _ in shown), ";".join(value for _, value in shown)
        drawn.append(f'<g visibility="{"visible" if number == 0 else "hidden"}">')
        drawn.append(
            f'<animate attributeName="visibility" calcMode="discrete" dur="{total:.1f}s" repeatCount="indefinite" '
            f'keyTimes="{times}" values="{values}"/>'
        )
        for cell, digit in enumerate(digits):
            given, planted = PUZZLE[cell] != ".", cell in wrong
            colour = GIVEN if given else SAME if not planted else WRONG if digit == first[cell] else CHANGED
            x, y = MARGIN + SIZE * (cell % 9 + 0.5), MARGIN + SIZE * (cell // 9 + 0.68)
            weight = "bold" if given or planted else "normal"
            drawn.append(
                f'<text x="{x}" y="{y:.1f}" font-size="20" font-weight="{weight}" fill="{colour}">{digit}</text>'
            )
        drawn.append(f'<text x="{width / 2}" y="{height - 10}" font-size="14" fill="#444">{said}</text></g>')
    return "\n".join([*drawn, "</svg>\n"])


def main() -> int:
    """Solve, spoil, repair; exit code 1 if the answer is not the solution."""
    with redraft.load("sudoku") as engine:
        prompt = [{"role": "user", "content": PUZZLE}]
        solution = engine.generate(prompt, seed=SEED).text.replace("\n", "")
        grid = spoiled(solution, random.Random(SEED))
        tokens = torch.tensor(engine.tokenizer.encode_text(lines(grid)))
        steps: list[str] = []

        def keep(event: redraft.StepEvent) -> None:
            text = engine.tokenizer.decode(event.argmax.tolist())
            steps.append("".join(text.split())[:81])

        draft = redraft.Draft(tokens, torch.ones(len(tokens), dtype=torch.float64))
        found = engine.generate(prompt, seed=SEED, draft=draft, on_step=keep)
    planted = {cell for cell in range(81) if grid[cell] != solution[cell]}
    count = len(steps)
    frames = [(grid, f"a solved grid with {PLANTED} wrong digits")]
    frames += [(text, f"step {number} of {count}") for number, text in enumerate(steps, 1) if len(text) == 81]
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(svg(frames, planted), encoding="utf-8")
    else:
        for digits, said in frames:
            print(f"{said}, {sum(digits[cell] != solution[cell] for cell in range(81))} wrong\n{lines(digits)}\n")
    same = found.text.replace("\n", "") == solution
    print(f"{PLANTED} wrong digits, {count} steps: {'repaired' if same else 'not repaired'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
