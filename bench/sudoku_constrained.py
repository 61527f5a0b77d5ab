"""What the rules of Sudoku add to the bundled model: as a constraint, as a verifier, and to choose among candidates.

    python -m bench.sudoku_constrained --count 300 --results results.jsonl     # may be interrupted, and goes on
    python -m bench.sudoku_constrained --variant plain --variant "givens, every step"

Every variant gets the same puzzles and seeds. With ``--results`` each answer is written down at once, and those that
are there already are not computed again. ``gained`` and ``lost`` count the puzzles that a variant solves and ``plain``
does not, and the other way round; steps are the forwards of all attempts.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redraft.api import Engine
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.canvas.readout import Readout
from redraft.canvas.step import Pinned
from redraft.constrain.constraint import Constraint, Regex
from redraft.engine.constrained import CanvasConstraint, ConstrainedStep
from redraft.engine.context import open_context, prefill
from redraft.engine.denoise import CanvasPlan, Denoising, FinishedCanvas, LastRead
from redraft.engine.request import Request
from redraft.engine.result import StepEvent
from redraft.engine.runtime import run as run_task
from redraft.engine.task import Task
from redraft.engine.verify import Candidate
from redraft.kernels import library
from redraft.loading import load
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, fresh_puzzles, from_text
from redraft.train.recipes.sudoku.puzzles import is_solution
from redraft.train.recipes.sudoku.rules import Rules, grid, rows

DIGITS = Regex("([1-9]{9}\n){8}[1-9]{9}")
PLAIN = "plain"


@dataclass(frozen=True)
class Outcome:
    """One puzzle, answered."""

    kind: str
    variant: str
    puzzle: int
    solved: bool
    steps: int
    converged: bool
    verified: bool | None
    """By the verifier; None without one."""
    givens_kept: bool


@dataclass(frozen=True)
class Answer:
    """What a variant makes of a puzzle."""

    text: str
    steps: int
    converged: bool
    verified: bool | None = None


Variant = Callable[[Engine, np.ndarray, int], Answer]
"""An engine, a board [81] and a seed -> an answer."""


class Restart(Rules):
    """Marks every blank where ``Rules`` marks any cell: another attempt, of which the givens are known."""

    def wrong_cells(self, answer: np.ndarray) -> np.ndarray:
        return np.flatnonzero(self.board == 0) if len(super().wrong_cells(answer)) else np.empty(0, dtype=np.int64)


def question(board: np.ndarray) -> list[dict[str, str]]:
    """The chat message that asks for a board's solution."""
    return [{"role": "user", "content": as_text(board)}]


def generated(
    constraint: Callable[[np.ndarray], Constraint] | None = None,
    verifier: Callable[[np.ndarray], Callable[[Candidate], Any]] | None = None,
    **parameters: Any,
) -> Variant:
    """``generate`` with these parameters."""

    def answer(engine: Engine, board: np.ndarray, seed: int) -> Answer:
        out = engine.generate(
            question(board),
            max_tokens=layout.CANVAS_LENGTH,
            seed=seed,
            constraint=None if constraint is None else constraint(board),
            verifier=None if verifier is None else verifier(board),
            **parameters,
        )
        return Answer(out.text, out.usage.denoising_steps, out.converged, out.verified)

    return answer


def last_step_only(constraint: Callable[[np.ndarray], Constraint]) -> Variant:
    """Denoised as if there were no constraint; the likeliest canvas that it allows is read off the last step."""

    def answer(engine: Engine, board: np.ndarray, seed: int) -> Answer:
        request = engine.request(question(board), max_tokens=layout.CANVAS_LENGTH, seed=seed)
        compiled = engine.runtime.compile(constraint(board))
        length = request.canvas_length
        held = CanvasConstraint.of(compiled, compiled.automaton.start, length, request.max_tokens)
        plan = CanvasPlan(0, length, request.prompt, read_classes=compiled.classes)
        last, converged = _read_last(engine, request, plan)
        draws = PositionRandom(seed, 0, INITIAL, length)
        tokens = held.apply(last.readout, draws, greedy=True, pinned=None).readout.argmax.tolist()
        return Answer(_text(engine, tokens), last.denoising_steps, converged)

    return answer


class MarginalEntropies(CanvasConstraint):
    """As the engine's, but what is accepted, and when it stops, goes by the marginals given that the text is valid."""

    def apply(
        self,
        readout: Readout,
        draws: PositionRandom,
        greedy: bool,
        pinned: Pinned | None,
        settled: Pinned | None = None,
    ) -> ConstrainedStep:
        """The constrained step with these entropies."""
        step = super().apply(readout, draws, greedy, pinned, settled)
        entropy = step.readout.entropy.clone()
        entropy[: self.positions] = torch.from_numpy(step.inference.entropy)
        return replace(step, readout=replace(step.readout, entropy=entropy))


def by_marginal_entropies(constraint: Callable[[np.ndarray], Constraint]) -> Variant:
    """Every step constrained, with ``MarginalEntropies``."""

    def answer(engine: Engine, board: np.ndarray, seed: int) -> Answer:
        request = engine.request(question(board), max_tokens=layout.CANVAS_LENGTH, seed=seed)
        compiled = engine.runtime.compile(constraint(board))
        length = request.canvas_length
        held = MarginalEntropies.of(compiled, compiled.automaton.start, length, request.max_tokens)
        finished = _denoised(engine, request, CanvasPlan(0, length, request.prompt, constraint=held))
        return Answer(_text(engine, finished.tokens.tolist()), finished.denoising_steps, finished.converged)

    return answer


def pinned_from_the_start(engine: Engine, board: np.ndarray, seed: int) -> Answer:
    """The givens stand on the canvas before the first step, in the place of noise, and stay."""
    request = engine.request(question(board), max_tokens=layout.CANVAS_LENGTH, seed=seed)
    given = layout.at_cells((board > 0)[None], 0)[0].bool()
    tokens = layout.answer_tokens(np.maximum(board, 1)[None])[0]
    finished = _denoised(
        engine, request, CanvasPlan(0, request.canvas_length, request.prompt, pinned=Pinned(given, tokens))
    )
    return Answer(_text(engine, finished.tokens.tolist()), finished.denoising_steps, finished.converged)


def _denoised(engine: Engine, request: Request, plan: CanvasPlan) -> FinishedCanvas:
    """The canvas after its last step."""

    def task() -> Task[FinishedCanvas]:
        cache, _ = yield from open_context(engine.runtime, request.prompt)
        try:
            commit = yield from prefill(engine.runtime, request.prompt, cache)
            return (yield from Denoising(engine.runtime, request, plan, cache).finish(commit, None))
        finally:
            cache.close()

    return run_task(engine.runtime, task())


def _read_last(engine: Engine, request: Request, plan: CanvasPlan) -> tuple[LastRead, bool]:
    """Read the last step in the place of taking it; return what was read, and if it converged."""
    events: list[StepEvent] = []

    def task() -> Task[LastRead]:
        cache, _ = yield from open_context(engine.runtime, request.prompt)
        try:
            commit = yield from prefill(engine.runtime, request.prompt, cache)
            return (yield from Denoising(engine.runtime, request, plan, cache).read_last(commit, events.append))
        finally:
            cache.close()

    return run_task(engine.runtime, task()), events[-1].finished


def _text(engine: Engine, tokens: list[int]) -> str:
    ends = engine.model.defaults.end_token_ids
    end = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return engine.tokenizer.decode(tokens[:end])


VARIANTS: dict[str, Variant] = {
    PLAIN: generated(),
    "digits and lines, every step": generated(lambda board: DIGITS),
    "givens, every step": generated(grid),
    "givens, last step only": last_step_only(grid),
    "givens on the canvas from the start": pinned_from_the_start,
    "rows, every step": generated(rows),
    "rows, every step, entropies of the marginals": by_marginal_entropies(rows),
    "rows, last step only": last_step_only(rows),
    "givens, rules, 1 round": generated(grid, Rules, verify_rounds=1),
    **{f"givens, rules, {n} rounds": generated(grid, Rules, verify_rounds=n) for n in (3, 10)},
    "rules, 3 rounds": generated(None, Rules, verify_rounds=3),
    **{f"givens, all blanks again, {n} rounds": generated(grid, Restart, verify_rounds=n) for n in (3, 10)},
    "best of 4": generated(best_of=4),
    "best of 4, rules choose": generated(None, Rules, verify_rounds=0, best_of=4),
}


def run(
    engine: Engine, variants: list[str], count: int, seed: int, done: dict[tuple[str, str, int], Outcome], out: Any
) -> list[Outcome]:
    """Answer the first ``count`` puzzles of each kind in all ``variants``; ``done`` ones are taken as they are."""
    outcomes = []
    for kind in KINDS:
        boards = fresh_puzzles(kind, count, seed).boards
        for name in variants:
            for number, board in enumerate(boards):
                outcome = done.get((kind, name, number))
                if outcome is None:
                    answer = VARIANTS[name](engine, board, seed + number)
                    cells = from_text(answer.text)
                    outcome = Outcome(
                        kind, name, number, bool(is_solution(board[None], cells[None])[0]), answer.steps,
                        answer.converged, answer.verified, bool(((board == 0) | (board == cells)).all()),
                    )  # fmt: skip
                    if out is not None:
                        out.write(json.dumps(asdict(outcome)) + "\n")
                        out.flush()
                outcomes.append(outcome)
    return outcomes


def summary(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """A row a kind and variant."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.kind, outcome.variant), []).append(outcome)
    table = []
    for (kind, name), own in groups.items():
        solved = np.array([outcome.solved for outcome in own])
        row: dict[str, Any] = {
            "kind": kind,
            "variant": name,
            "puzzles": len(own),
            "solved": float(solved.mean()),
            "mean_steps": float(np.mean([outcome.steps for outcome in own])),
            "converged": float(np.mean([outcome.converged for outcome in own])),
            "right_when_converged": _mean([outcome.solved for outcome in own if outcome.converged]),
            "verified": _mean([outcome.verified for outcome in own if outcome.verified is not None]),
            "givens_kept": float(np.mean([outcome.givens_kept for outcome in own])),
            "gained": None,
            "lost": None,
        }
        if (kind, PLAIN) in groups and len(groups[kind, PLAIN]) == len(own):
            plain = np.array([outcome.solved for outcome in groups[kind, PLAIN]])
            row |= {"gained": int((solved & ~plain).sum()), "lost": int((plain & ~solved).sum())}
        table.append(row)
    return table


def _mean(of: list[Any]) -> float | None:
    return float(np.mean(of)) if of else None


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "| puzzles | variant | solved | gained | lost | mean steps | converged | right of those | verified "
        "| givens kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        cells = [
            f"{row['puzzles']} with {row['kind']}", row["variant"], _percent(row["solved"]), _whole(row["gained"]),
            _whole(row["lost"]), f"{row['mean_steps']:.1f}", _percent(row["converged"]),
            _percent(row["right_when_converged"]), _percent(row["verified"]), _percent(row["givens_kept"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def _read(path: Path | None) -> dict[tuple[str, str, int], Outcome]:
    if path is None or not path.exists():
        return {}
    outcomes = [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]
    return {(outcome.kind, outcome.variant, outcome.puzzle): outcome for outcome in outcomes}


def main() -> None:
    """Answer, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sudoku", help="a checkpoint of the Sudoku recipe")
    parser.add_argument("--count", type=int, default=300, help="puzzles of each kind")
    parser.add_argument("--seed", type=int, default=0, help="decides puzzles and noise")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="may be repeated; by default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help="JSON lines, an answer each, of these settings; goes on with them")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    arguments = parser.parse_args()
    engine = load(arguments.model)
    library.use_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    done = _read(arguments.results)
    out = None if arguments.results is None else arguments.results.open("a")
    table = summary(run(engine, arguments.variant or list(VARIANTS), arguments.count, arguments.seed, done, out))
    print(markdown(table))
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
