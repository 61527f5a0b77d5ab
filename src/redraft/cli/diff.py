"""``redraft diff``: finds where two recorded runs part."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import reading
from redraft.errors import CheckpointError

if TYPE_CHECKING:
    from redraft.cli.comparison import Piece
    from redraft.record.recording import Recording


def diff(
    a: Annotated[Path, typer.Argument(help="A recording, as --record keeps them.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Checkpoint whose tokenizer tells what tokens say, if the recordings' is elsewhere now.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what two recorded requests asked for otherwise, the first step at which they part, and how their answers
    differ. The exit code is 0 if every step and the answer are identical.

    Example: redraft diff runs/20261124T101500.123456Z-4f1c09d2.npz runs/20261124T101502.654321Z-88d0b1aa.npz
    """
    from rich.console import Console

    from redraft.cli import comparison
    from redraft.record.compare import compare, parameters
    from redraft.record.recording import Recording

    with reading.on_disk(a, "the first recording") as first, reading.on_disk(b, "the other one") as other:
        runs = Recording.load(first), Recording.load(other)
    found, differing = compare(*runs), parameters(*runs)
    pieces = _piece(runs[0], model), _piece(runs[1], model)
    if as_json:
        typer.echo(json.dumps(comparison.as_object(found, differing, pieces), indent=2))
    else:
        comparison.draw(Console(highlight=False), found, runs, differing, ("A", "B"), pieces)
    if not found.identical:
        raise typer.Exit(1)


def _piece(recording: "Recording", model: str | None) -> "Piece":
    """Return what spells a recording's tokens: its tokenizer if it is on this machine, else their numbers."""
    from redraft.models.checkpoint import find_here
    from redraft.models.digest import tokenizer_digest
    from redraft.models.tokenizer import ChatTokenizer

    folder = find_here(recording.model["name"] if model is None else model)
    if folder is not None:
        try:
            if model is not None or tokenizer_digest(folder) == recording.model["tokenizer"]:
                return ChatTokenizer.from_checkpoint(folder).piece
        except (CheckpointError, OSError):
            if model is not None:
                raise
    elif model is not None:
        raise CheckpointError(f"there is no checkpoint {model!r} on this machine")
    return lambda token: f"<{token}>"
