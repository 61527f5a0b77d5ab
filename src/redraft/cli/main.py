"""The ``redraft`` command. A module a verb; what is slow to import is imported where a verb runs."""

import sys
from typing import Annotated

import typer

from redraft.cli import (
    adapt,
    bench,
    choose,
    diff,
    edit,
    evaluate,
    extract,
    fill,
    generate,
    info,
    quantize,
    replay,
    serve,
    train,
)
from redraft.errors import RedraftError

app = typer.Typer(
    name="redraft",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"redraft {version('redraft')}")
        raise typer.Exit


@app.callback()
def redraft(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version, and exit.")
    ] = False,
) -> None:
    """Run, constrain and train block-diffusion language models on the machine you have."""


app.command()(generate.generate)
for answers in (fill.fill, edit.edit, choose.choose, extract.extract):
    app.command()(answers)
app.command()(serve.serve)
app.command()(info.info)
app.command()(quantize.quantize)
app.command()(adapt.adapt)
app.add_typer(train.app, name="train")
app.command()(evaluate.evaluate)
app.command()(bench.bench)
app.command()(replay.replay)
app.command()(diff.diff)


def main() -> None:
    """Run the command. A user's own mistake ends with one line on stderr and exit code 1, never with a traceback."""
    try:
        app()
    except RedraftError as error:
        typer.echo(f"redraft: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Without a file's name it is no mistake of the user's, and its traceback is what helps.
        if error.filename is None:
            raise
        typer.echo(f"redraft: {error.filename}: {error.strerror}", err=True)
        sys.exit(1)
