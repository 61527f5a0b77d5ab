"""``redraft train pocket``: trains the bundled text model on records that are generated."""

from pathlib import Path
from typing import Annotated

import typer

from redraft.cli import options
from redraft.cli.train.text import Learning, Running, Trained, recipe_of, train


@options.grouped
def pocket(
    model: Annotated[str, typer.Option("--model", "-m", help="The adapted base, as redraft adapt writes it.")],
    out: Annotated[Path, typer.Option(help="Run folder; a run found there is continued.")] = Path("runs/pocket"),
    *,
    trained: Trained,
    learning: Learning,
    running: Running,
) -> None:
    """Train the pocket model on generated texts and questions about them; another seed gives others.

    Example: redraft train pocket --model runs/base --out runs/pocket --limit-hours 8
    """
    from redraft.train.recipes.pocket.records import record
    from redraft.train.text import records
    from redraft.train.text.source import GeneratedSource

    recipe = recipe_of(model, trained, learning, running)
    source = GeneratedSource(record, running.seed, "pocket")
    held_out = records.read(running.evaluate) if running.evaluate is not None else []
    recipe.check_generated(source)
    recipe.check(held_out)
    train(recipe, source, "pocket", held_out, out, running)
