"""``python -m redraft.train.recipes.pocket``: writes training records or evaluation items into a file."""

import json
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from redraft.files import replacing
from redraft.train.recipes.pocket.records import items, records
from redraft.train.recipes.pocket.snippets import Split

app = typer.Typer(add_completion=False)


class Kind(StrEnum):
    """The kinds of lines that can be written."""

    records = "records"
    items = "items"


@app.command()
def main(
    write: Annotated[Path, typer.Option(help="File that is written, a JSON object a line.")],
    count: Annotated[int, typer.Option(min=1, help="Lines.")],
    split: Annotated[Split, typer.Option(help="What it is made of, by what training sees.")] = Split.train,
    kind: Annotated[Kind, typer.Option(help="Records to train on, or items to evaluate with.")] = Kind.records,
    seed: Annotated[int, typer.Option(min=0, help="Decides all that is drawn.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="Index of the first line; others are what they are.")] = 0,
) -> None:
    """Write data of the text model.

    Example: python -m redraft.train.recipes.pocket --write items.jsonl --count 200 --split templates --kind items
    """
    drawn = records(seed, split, start) if kind is Kind.records else items(seed, split, start)
    with replacing(write) as path, path.open("w", encoding="utf-8") as file:
        for line in islice(drawn, count):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    typer.echo(f"{count} {kind.value} of {split.value} from index {start} on: {write}")


if __name__ == "__main__":
    app()
