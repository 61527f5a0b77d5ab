"""The verb and what can be trained: a recipe by its name, or whatever file is given in the place of one."""

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from redraft.cli.talk import talking
from redraft.cli.train.bundle import bundle
from redraft.cli.train.merge import merge
from redraft.cli.train.pocket import pocket
from redraft.cli.train.sudoku import sudoku
from redraft.cli.train.text import data


class RecipeOrData(TyperGroup):
    """Takes what is no recipe's name for a file of records."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments are for, and those that are left for it."""
        first = args[0] if args else ""
        if first in self.commands:
            return super().resolve_command(ctx, args)
        asks_for_help = not {"--help", "-h"}.isdisjoint(args)
        if first and not first.startswith("-") and not Path(first).is_file() and not asks_for_help:
            ctx.fail(f"there is no file {first!r}, and no recipe of that name; known are {', '.join(self.commands)}")
        return super().resolve_command(ctx, ["data", *args])


app = typer.Typer(
    cls=RecipeOrData,
    no_args_is_help=True,
    help="Train a model: a recipe by its name, or on the records of a file.\n\n"
    "Example: redraft train DATA.jsonl --model MODEL --out DIR, or: redraft train sudoku",
    context_settings={"help_option_names": ["--help", "-h"], "ignore_unknown_options": True},
)
for recipe in (data, pocket, sudoku, merge, bundle):
    app.command()(talking(recipe))
