"""``redraft evaluate``: judges models on items with known answers, or on a recipe's fresh problems."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from redraft.cli import options, reading
from redraft.cli.train import Recipe, require_train_extra
from redraft.errors import RequestError, counted
from redraft.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

    from redraft.measure.evaluate import Contender, Item, Report
    from redraft.models.checkpoint import DType

_STDOUT = Path("-")


@dataclass(frozen=True)
class ItemOptions:
    """Options that are about items, and have no meaning for a recipe."""

    parameters: Annotated[
        list[str] | None,
        typer.Option(metavar="JSON", help="Arguments of the items' verbs, as an object; may be repeated to compare."),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None
    show_errors: Annotated[
        int, typer.Option(min=0, help="Print so many wrong answers, those on which contenders part first.")
    ] = 0
    allow_commands: Annotated[
        bool, typer.Option("--allow-commands", help="Run the commands that items name, on this machine.")
    ] = False
    command_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a command may take.")] = 60.0
    plot: Annotated[Path | None, typer.Option(help="Draw shares, and reliability: .png, .svg, .pdf.")] = None

    @property
    def named(self) -> list[str]:
        """The options that were given."""
        return [f"--{one.name.replace('_', '-')}" for one in fields(self) if getattr(self, one.name) != one.default]


@options.grouped
def evaluate(
    *,
    task: Annotated[str, typer.Argument(help="A file of items (.jsonl), or sudoku for fresh puzzles.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="As for all verbs; may be repeated to compare. Puzzles are for sudoku by default."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="As for all verbs; may be repeated to compare. By default auto.")
    ] = None,
    max_denoising_steps: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Step limit; may be repeated. By default the items' or checkpoint's."),
    ] = None,
    items: ItemOptions,
    count: Annotated[int | None, typer.Option(min=1, help="Of sudoku: puzzles of each kind; 1000 by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides noise, and the puzzles of sudoku.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures and answers to this file; - is standard output.")
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Judge answers to items whose right answer is known, and compare models and settings item by item.

    Example: redraft evaluate items.jsonl --model MODEL --dtype float32 --dtype int8 --show-errors 5 --json scores.json
    """
    if json_file is not None and json_file != _STDOUT:
        options.check_output(json_file)
    if task in list(Recipe):
        _refuse_for_recipe(task, items.named, [("--model", model), ("--dtype", dtype)])
        chosen, precision = (model or [Recipe.sudoku.value])[0], (dtype or ["auto"])[0]
        _evaluate_sudoku(chosen, precision, device, threads, count or 1000, max_denoising_steps, seed, json_file)
        return
    if count is not None:
        raise RequestError(f"--count is for {', '.join(Recipe)}; --limit says how many items are asked")
    report = _evaluate_items(Path(task), model, dtype, max_denoising_steps, items, seed, device, threads)
    # Files first: a reader of the tables may go away.
    if json_file is not None:
        _write(json_file, json.dumps(report.as_object(), ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    if items.plot is not None:
        from redraft.measure.evaluate.plot import plot

        plot(report, items.plot)
    if json_file != _STDOUT:
        report.print(_console(), items.show_errors)


def _refuse_for_recipe(task: str, named: Sequence[str], repeatable: Sequence[tuple[str, list[str] | None]]) -> None:
    if named:
        raise RequestError(f"{named[0]} is for a file of items; {task} has none")
    for name, values in repeatable:
        if len(values or ()) > 1:
            raise RequestError(f"{name} is given twice; {task} is solved by one model at a time")


def _evaluate_items(
    path: Path,
    models: list[str] | None,
    dtypes: list[str] | None,
    steps: list[int] | None,
    items: ItemOptions,
    seed: int,
    device: str | None,
    threads: int | None,
) -> "Report":
    """Check everything, then run a contender after the other; only one model is loaded at a time."""
    from redraft.calibrate.plot import check_plot
    from redraft.measure.evaluate import Report, read_items, run
    from redraft.models import checkpoint

    if items.plot is not None:
        check_plot(items.plot)
        options.check_output(items.plot)
    if str(path) != "-" and not path.exists():
        raise RequestError(f"there is no file {path} of items, nor a recipe of that name; recipes: {', '.join(Recipe)}")
    with reading.on_disk(path, "the items") as file:
        asked = read_items(file, allow_commands=items.allow_commands)[: items.limit]
    contenders = _contenders(models or [options.model_name(None)], dtypes or ["auto"], steps, items.parameters, asked)
    loads = list(dict.fromkeys((one.model, one.dtype) for one in contenders))
    for model, dtype in loads:
        checkpoint.read(checkpoint.find(model)).format(cast("DType", dtype))
    runs = []
    with _progress(len(contenders) * len(asked)) as advance:
        for model, dtype in loads:
            with options.load_engine(model, dtype, threads, device=device) as engine:
                for one in contenders:
                    if (one.model, one.dtype) == (model, dtype):
                        seconds = items.command_timeout
                        runs.append(run(engine, one, asked, seed=seed, command_seconds=seconds, on_item=advance))
                        # Told at once; with another before it, what that one did is not to be lost.
                        if len(runs) == 1 and len(runs[0].failed) == len(asked):
                            first = runs[0].failed[0]
                            raise RequestError(f"{one.name} answers no item; {first.item.place}: {first.error}")
    return Report(str(path), seed, runs)


def _contenders(
    models: list[str],
    dtypes: list[str],
    steps: list[int] | None,
    given: list[str] | None,
    items: "Sequence[Item]",
) -> "list[Contender]":
    """Make a contender of every combination, named by what it differs in from others."""
    from redraft.measure.evaluate import Contender
    from redraft.measure.evaluate.parameters import check_parameters

    limits: list[int | None] = [*steps] if steps else [None]
    texts = given or ["{}"]
    found = {text: _parameters(text) for text in texts}
    for text, parameters in found.items():
        for verb in dict.fromkeys(item.verb for item in items):
            try:
                check_parameters(verb, parameters)
            except RequestError as error:
                raise RequestError(f"--parameters {text}: {error}") from error
    contenders: list[Contender] = []
    for model, dtype, limit, text in product(models, dtypes, limits, texts):
        named = [(model, models), (dtype, dtypes), (counted(limit or 0, "step"), limits), (text, texts)]
        name = ", ".join(own for own, choices in named if len(cast(list[Any], choices)) > 1) or model
        if name in [one.name for one in contenders]:
            raise RequestError(f"{name} is given twice; each is one contender")
        parameters = found[text] | ({} if limit is None else {"max_denoising_steps": limit})
        contenders.append(Contender(name, model, dtype, parameters))
    return contenders


def _parameters(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise RequestError(f"--parameters {text} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RequestError(f'--parameters {text} must be an object, such as {{"temperature": 0}}')
    return found


def _evaluate_sudoku(
    model: str,
    dtype: str,
    device: str | None,
    threads: int | None,
    count: int,
    steps: list[int] | None,
    seed: int,
    json_file: Path | None,
) -> None:
    """Solve fresh puzzles, judge them by the rules, and print the scores; as JSON, an object a line."""
    require_train_extra()
    from rich.table import Table

    from redraft.train.recipes.sudoku import evaluate as sudoku

    engine = options.load_engine(model, dtype, threads, device=device)
    limits = steps or [engine.model.defaults.max_denoising_steps]
    scores = []
    with _progress(len(sudoku.KINDS) * len(limits) * count) as advance:
        for kind in sudoku.KINDS:
            puzzles = sudoku.fresh_puzzles(kind, count, seed)
            for limit in limits:
                scores.append(sudoku.evaluate(engine, kind, puzzles, limit, seed, on_puzzle=advance))
    if json_file is not None:
        _write(json_file, "".join(json.dumps(score.row()) + "\n" for score in scores))
        if json_file == _STDOUT:
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
    _console().print(table)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _write(path: Path, text: str) -> None:
    if path == _STDOUT:
        sys.stdout.write(text)
    else:
        write_text(path, text)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error, in a terminal; yields what advances it by one answer."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("answers", total=total)
        yield lambda: bar.advance(task)


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=140, soft_wrap=True, highlight=False)
