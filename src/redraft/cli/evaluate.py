"""``redraft evaluate``: judges a model on a recipe's fresh problems, as a table or JSON."""

import json
from typing import Annotated

import typer

from redraft.cli import options
from redraft.cli.train import Recipe, require_train_extra


def evaluate(
    recipe: Annotated[Recipe, typer.Argument(help="What to evaluate.")],
    model: options.Model = "sudoku",
    count: Annotated[int, typer.Option(min=1, help="Fresh puzzles of each kind.")] = 1000,
    max_denoising_steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Step limit; may be repeated. By default the checkpoint's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides puzzles and noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    dtype: options.DTypeOption = "auto",
    threads: options.Threads = None,
) -> None:
    """Solve fresh puzzles and judge the answers by the rules.

    Example: redraft evaluate sudoku --count 100
    """
    require_train_extra()
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from redraft.train.recipes.sudoku import evaluate as sudoku

    engine = options.load_engine(model, dtype, threads)
    limits = max_denoising_steps or [engine.model.defaults.max_denoising_steps]
    errors = Console(stderr=True)
    scores = []
    for kind in sudoku.KINDS:
        puzzles = sudoku.fresh_puzzles(kind, count, seed)
        for limit in limits:
            ticks = iter(track(range(count), f"{kind}, {limit} steps", console=errors, disable=not errors.is_terminal))
            scores.append(
                sudoku.evaluate(engine, kind, puzzles, limit, seed, on_puzzle=lambda ticks=ticks: next(ticks))  # type: ignore[misc]
            )
            next(ticks, None)
            if as_json:
                typer.echo(json.dumps(scores[-1].row()))
    if as_json:
        return
    table = Table(title=f"Sudoku, {count} fresh puzzles of each kind")
    columns = ("puzzles", "steps at most", "solved", "singles suffice", "needing more", "mean steps", "converged",
               "right of those", "corrections", "withdrawals")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "puzzles" else "right")
    for s in scores:
        table.add_row(
            s.kind, str(s.max_denoising_steps), f"{s.solved:.1%}", _share(s.solved_singles_suffice),
            _share(s.solved_needing_more), f"{s.mean_steps:.1f}", f"{s.converged:.1%}", _share(s.right_when_converged),
            f"{s.corrections_per_puzzle:.2f}", f"{s.withdrawals_per_puzzle:.2f}",
        )  # fmt: skip
    Console(width=None if errors.is_terminal else 140).print(table)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
