"""``redraft tune``: searches the settings that serve a task best, and shows what each is worth and what it costs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, reading, talk
from redraft.errors import counted
from redraft.files import write_text

if TYPE_CHECKING:
    from redraft.measure.tune import Setting, Tuning

_STDOUT = Path("-")


class By(StrEnum):
    """The costs of an answer."""

    seconds = "seconds"
    forwards = "forwards"


@dataclass(frozen=True)
class Tried:
    """The values to try."""

    steps: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Step limit to try; may be repeated. By default the checkpoint's, halved."),
    ] = None
    bound: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Entropy bound to try; may be repeated. By default around its own."),
    ] = None
    threshold: Annotated[list[float] | None, typer.Option(help="Confidence threshold to try; may be repeated.")] = None
    canvas_length: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Positions of a canvas to try; may be repeated. By default 1, 1/2, 1/4."),
    ] = None
    mode: Annotated[
        list[options.Mode] | None, typer.Option(help="Mode to try; may be repeated. By default all that there are.")
    ] = None


@options.grouped
def tune(
    *,
    task: Annotated[Path, typer.Argument(help="A file of items with known answers (.jsonl), as for evaluate.")],
    tried: Tried,
    by: Annotated[By, typer.Option(help="The cost that counts.")] = By.seconds,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the recipe: what generate and serve take as --recipe.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all that was tried to this file; - is standard output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw what each is worth over its cost: .png, .svg, .pdf.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Item i has the seed N + i.")] = 0,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Items asked together; with 1 the seconds are those of an answer alone.")
    ] = 1,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of right items that what is recommended may give up.")
    ] = 0.02,
    allow_commands: Annotated[
        bool, typer.Option("--allow-commands", help="Run the commands that items name, on this machine.")
    ] = False,
    command_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a command may take.")] = 60.0,
    loading: options.Loading,
) -> None:
    """Search steps, bound, canvas length and mode for a task, and print what is worth its cost.

    Example: redraft tune items.jsonl --model sudoku --steps 4 --steps 12 --out recipe.json --plot front.png
    """
    from redraft.calibrate.plot import check_plot
    from redraft.measure.evaluate import read_items
    from redraft.measure.tune import Grid
    from redraft.measure.tune import tune as search

    if plot is not None:
        check_plot(plot)
    for path in (out, plot, None if json_file == _STDOUT else json_file):
        if path is not None:
            options.check_output(path)
    with reading.on_disk(task, "the items") as file:
        items = read_items(file, allow_commands=allow_commands)[:limit]
    engine = loading.engine()
    grid = Grid.of(
        engine.model,
        steps=tried.steps or (),
        bounds=tried.bound or (),
        thresholds=tried.threshold or (),
        canvas_lengths=tried.canvas_length or (),
        modes=[one.value for one in tried.mode or ()],
        generates=all(item.verb == "generate" for item in items),
    )
    with _progress() as told:
        tuning = search(
            engine, items, grid,
            model=options.model_name(loading.model), source=str(task), by=by.value, seed=seed,
            at_once=concurrency, tolerance=tolerance, command_seconds=command_timeout, on_trial=told,
        )  # fmt: skip
    # Files first: a reader of the table may go away.
    if out is not None:
        tuning.recipe().write(out)
    if json_file is not None:
        _write(json_file, json.dumps(tuning.as_object(), ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    if plot is not None:
        from redraft.measure.tune.plot import plot as draw

        draw(tuning, plot)
    if json_file != _STDOUT:
        _print(tuning, len(items))
    kept = "" if out is None else f"; the recipe is in {out}"
    talk.note(f"recommended: {tuning.recommended.setting.name}{kept}")


def _print(tuning: "Tuning", count: int) -> None:
    """Print the front, the cheapest first, and what is recommended."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"{tuning.source}, {counted(count, 'item')}: what is worth its {tuning.by}"
    table = Table(title=Text(title), title_justify="left", box=None)
    for column in ("", "setting", "right (95% interval)", "seconds", "forwards"):
        table.add_column(column, justify="left" if column in ("", "setting") else "right")
    for trial in tuning.front:
        right = trial.right
        share = f"{right.value:.1%}"
        if right.low is not None and right.high is not None:
            share += f" ({100 * right.low:.1f} to {100 * right.high:.1f})"
        mark = ">" if trial is tuning.recommended else " "
        cells = [share, f"{trial.cost('seconds'):.3g}", f"{trial.cost('forwards'):.3g}"]
        table.add_row(mark, Text(trial.setting.name), *cells)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=140, highlight=False)
    console.print(table)
    others = len(tuning.trials) - len(tuning.front)
    talk.note(f"{counted(others, 'other setting')} tried on all items, {tuning.dropped} given up on a part of them")


def _write(path: Path, text: str) -> None:
    if path == _STDOUT:
        sys.stdout.write(text)
    else:
        write_text(path, text)


@contextmanager
def _progress() -> "Iterator[Callable[[Setting, int], None]]":
    """Show what is tried on standard error, in a terminal."""
    from rich.console import Console
    from rich.status import Status

    errors = Console(stderr=True)
    if not errors.is_terminal or talk.level() == talk.QUIET:
        yield lambda setting, count: talk.detail(f"{setting.name} on {counted(count, 'item')}")
        return
    with Status("reading", console=errors) as status:
        yield lambda setting, count: status.update(f"{setting.name} on {counted(count, 'item')}")
