"""The ``redraft`` command. A module a verb; what is slow to import is imported where a verb runs."""

import errno
import os
import sys
import traceback
from typing import Annotated

import typer

from redraft.cli import (
    adapt,
    bench,
    chat,
    choose,
    diff,
    edit,
    evaluate,
    extract,
    fill,
    generate,
    info,
    models,
    plan,
    quantize,
    reading,
    replay,
    score,
    serve,
    talk,
    train,
    tune,
)
from redraft.cli.talk import talking
from redraft.errors import RedraftError

# What a write ends with where there is no room, and no file to name: standard output was sent there.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
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


for answers in (generate.generate, chat.chat, fill.fill, edit.edit, choose.choose, extract.extract, score.score):
    app.command()(talking(answers))
app.command()(talking(serve.serve))
app.command()(talking(models.pull))
app.command("list")(talking(models.list_models))
app.command("rm")(talking(models.remove))
for makes in (info.info, plan.plan, quantize.quantize, adapt.adapt):
    app.command()(talking(makes))
app.add_typer(train.app, name="train")
for judges in (evaluate.evaluate, tune.tune, bench.bench, replay.replay, diff.diff):
    app.command()(talking(judges))


def main() -> None:
    """Run the command. A user's own mistake ends with one line on stderr and exit code 1, never with a traceback."""
    reading.begin()
    talk.set_level(talk.NORMAL)
    try:
        try:
            app()
        finally:
            # What a full disk does not take is told here, and not when the interpreter has ended.
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except RedraftError as error:
        _end(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None:
            _end(f"{error.filename}: {error.strerror}")
        if error.errno not in _NO_ROOM:
            # It is no mistake of the user's, and its traceback is what helps.
            raise
        _let_go_of_output()
        _end(f"what was to be written could not be: {error.strerror}")


def _end(reason: str) -> None:
    if talk.level() >= talk.VERBOSE:
        traceback.print_exc()
    typer.echo(f"redraft: {reason}", err=True)
    sys.exit(1)


def _let_go_of_output() -> None:
    """Send what is still to be written to nowhere, so that the interpreter's end does not fail at it once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
