"""``redraft train sudoku``: makes the bundled model, with a progress bar, and leaves a checkpoint folder."""

import time
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options
from redraft.errors import RedraftError

if TYPE_CHECKING:
    from redraft.models.diffusion_gemma.model import DiffusionGemma


class Recipe(StrEnum):
    """Recipes that there are."""

    sudoku = "sudoku"


def sudoku(
    out: Annotated[Path, typer.Option(help="Run folder; a run found there is continued.")] = Path("runs/sudoku"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps in all.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Decides weights, data and noise.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Canvases trained at once.")] = 32,
    pool: Annotated[int, typer.Option(min=1, help="Base puzzles of each kind; symmetries multiply them.")] = 150_000,
    hard_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of training puzzles with 24 to 30 givens; others have more.")
    ] = 0.7,
    start_from: Annotated[
        str | None, typer.Option(help="Checkpoint of this recipe to start from, e.g. sudoku; else fresh weights.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Learning rates, as a multiple of the recipe's.")] = 1.0,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between measurements of the solve rate.")] = 500,
    evaluate_count: Annotated[int, typer.Option(min=1, help="Fresh puzzles of each kind for a measurement.")] = 50,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 50,
    compile_model: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile with torch.compile (needs a C++ compiler).")
    ] = True,
    threads: options.Threads = None,
) -> None:
    """Train the Sudoku model. Kill it at any time; the same command continues it to the same result.

    Example: redraft train sudoku --out runs/sudoku --steps 5000
    """
    require_train_extra()
    import torch

    from redraft.kernels.library import use_threads
    from redraft.train.optimizer import OptimizerConfig
    from redraft.train.recipes.sudoku.export import DEFAULTS, export
    from redraft.train.recipes.sudoku.recipe import SudokuRecipe

    if threads is not None:
        use_threads(threads)
    rates = OptimizerConfig()
    job = SudokuRecipe(
        steps=steps,
        seed=seed,
        batch=batch,
        pool=pool,
        hard_share=hard_share,
        start_from=start_from,
        optimizer=replace(rates, matrix_lr=learning_rate * rates.matrix_lr, other_lr=learning_rate * rates.other_lr),
    )
    typer.echo(f"making {2 * job.pool:,} puzzles, then compiling the model: a minute or two before the first step")
    with _Progress(steps) as progress:
        model = job.train(
            out,
            evaluate=lambda average: progress.note(_solve_rates(average, out, evaluate_count, seed)),
            on_progress=progress.update,
            compile_model=compile_model,
            evaluate_every=evaluate_every,
            save_every=save_every,
        )
    export(model, out / "checkpoint", DEFAULTS, torch.bfloat16)
    typer.echo(f"checkpoint: {out / 'checkpoint'}\ncurves: {out / 'curves.png'}")
    typer.echo(f"next: redraft evaluate sudoku --model {out / 'checkpoint'}")


def require_train_extra() -> None:
    """Raise RedraftError that says what to install where the extra ``train`` is not there."""
    try:
        import matplotlib  # noqa: F401
        import numba  # noqa: F401
    except ImportError as error:
        raise RedraftError(
            f"training and Sudoku evaluation need {error.name}; install them with: pip install 'redraft[train]'"
        ) from error


def _solve_rates(model: "DiffusionGemma", out: Path, count: int, seed: int) -> Mapping[str, float]:
    """Measure a model in training on ``count`` puzzles of each kind that stay the same through the run."""
    import torch

    from redraft.loading import load
    from redraft.train.recipes.sudoku import evaluate
    from redraft.train.recipes.sudoku.export import DEFAULTS, export

    export(model, out / "checkpoint", DEFAULTS, torch.float32)
    engine, rates = load(out / "checkpoint"), {}
    for kind in evaluate.KINDS:
        puzzles = evaluate.fresh_puzzles(kind, count, seed=10_000 + seed)
        score = evaluate.evaluate(engine, kind, puzzles)
        rates[f"solve rate, {kind}"] = score.solved
        rates[f"mean steps, {kind}"] = score.mean_steps
    return rates


class _Progress:
    """A bar in a terminal; elsewhere a line now and then."""

    SECONDS_BETWEEN_LINES = 30

    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console()
        self._bar = Progress(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=steps)
        self._steps = steps
        self._last_line = 0.0

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the newest loss."""
        shown = f"loss {values['loss']:.3f}, {100 * values['solved in training']:.0f}% of canvases right"
        self._bar.update(self._task, completed=step, description=shown)
        if not self._console.is_terminal and time.monotonic() - self._last_line > self.SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            typer.echo(f"step {step} of {self._steps}: {shown}")

    def note(self, rates: Mapping[str, float]) -> Mapping[str, float]:
        """Print a measurement above the bar, and hand it on."""
        self._console.print(
            ", ".join(f"{name} {value:.3g}" for name, value in rates.items()), highlight=False, soft_wrap=True
        )
        return rates
