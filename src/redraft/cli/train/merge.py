"""``redraft train merge``: makes a checkpoint of an adapter and its base."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of an adapter, as training with --lora leaves it.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The base, if it is no longer where it was trained from.")
    ] = None,
) -> None:
    """Merge a LoRA adapter into the checkpoint that it was trained on.

    Example: redraft train merge runs/mine/adapter --out runs/mine/checkpoint
    """
    from redraft.train.text.adapters import merge

    typer.echo(f"checkpoint: {merge(adapter, out, model)}")
