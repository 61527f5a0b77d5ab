"""Solves a Sudoku with the bundled model, drawn live, and checks the answer by the rules.

python examples/solve_sudoku.py                      # one of a few puzzles
python examples/solve_sudoku.py "53..7.... 6..195..." # your own: 81 characters, . or 0 for blanks
"""

import random
import shlex
import sys
from pathlib import Path

import redraft
from redraft.cli.watch import watch_answer
from redraft.engine.trace import Trace
from redraft.errors import counted

PUZZLES = [
    "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
    "..3.2.6..9..3.5..1..18.64....81.29..7.......8..67.82....26.95..8..2.3..9..5.1.3..",
    "2...8.3...6..7..84.3.5..2.9...1.54.8.........4.27.6...3.1..7.4.72..4..6...4.1...3",
]


def units() -> list[list[int]]:
    """The 27 rows, columns and boxes, as lists of cell numbers."""
    rows = [[9 * r + c for c in range(9)] for r in range(9)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    boxes = [[9 * (3 * a + i) + 3 * b + j for i in range(3) for j in range(3)] for a in range(3) for b in range(3)]
    return rows + columns + boxes


def faults(puzzle: str, answer: str) -> list[str]:
    """What is wrong with an answer by the rules alone; empty when it solves the puzzle."""
    given = [mark for mark in puzzle if mark in "0123456789."]
    cells = "".join(answer.split())
    if len(cells) != 81 or set(cells) - set("123456789"):
        return [f"the answer is not 81 digits: {answer!r}"]
    changed = [i for i, mark in enumerate(given) if mark in "123456789" and cells[i] != mark]
    wrong = [unit for unit in units() if len({cells[i] for i in unit}) < 9]
    return [f"given cell r{i // 9 + 1}c{i % 9 + 1} was changed" for i in changed] + [
        f"digits repeat in the unit that starts at r{unit[0] // 9 + 1}c{unit[0] % 9 + 1}" for unit in wrong
    ]


def command() -> str:
    """The command ``redraft`` of this Python, as a shell takes it in the present folder."""
    path = Path(sys.executable).with_name("redraft")
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def main() -> int:
    """Solve, check, report; exit code 1 for a wrong answer or a text that is no puzzle."""
    puzzle = " ".join(sys.argv[1:]) or random.choice(PUZZLES)
    try:
        engine = redraft.load("sudoku")
        messages = [{"role": "user", "content": puzzle}]
        if sys.stdout.isatty():
            written, trace = watch_answer(engine, messages, {})
            if written.result is None:
                return 130
            result = written.result
        else:
            trace = Trace()
            result = engine.generate(messages, on_step=trace)
            print(result.text)
    except redraft.RedraftError as error:
        print(f"redraft: {error}", file=sys.stderr)
        return 1
    wrong = faults(puzzle, result.text)
    verdict = "not solved: " + "; ".join(wrong) if wrong else "solved"
    print(
        f"{verdict}: {counted(result.usage.denoising_steps, 'denoising step')} for "
        f"81 cells, {counted(trace.corrections, 'self-correction')}, {result.usage.seconds:.2f} s, seed {result.seed}"
    )
    print(
        "\nnext:\n"
        f"- a puzzle, or one of your own with . for blanks:\n  {command()} generate --watch {PUZZLES[0]}\n"
        f"- what the model is:\n  {command()} info sudoku\n"
        f"- how many fresh puzzles it solves:\n  {command()} evaluate sudoku --count 100"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
