"""``redraft adapt``: an autoregressive model becomes one that can be trained to denoise."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from redraft.cli import options, reading
from redraft.errors import RequestError


class Order(StrEnum):
    """Places of masks."""

    anywhere = "any"
    left_to_right = "left-to-right"


def adapt(
    base: Annotated[str, typer.Argument(help="A Llama's checkpoint folder, GGUF file, or hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new checkpoint.")],
    mask_token: Annotated[
        str | None,
        typer.Option(help="Token for what is unknown, added if there is none; by default a spare one, else a new one."),
    ] = None,
    canvas_length: Annotated[int, typer.Option(min=1, help="Positions of a canvas that it will be trained on.")] = 128,
    mask_order: Annotated[
        Order, typer.Option(help="Where training puts masks: anywhere, or on the rest of each gap; so it is revealed.")
    ] = Order.anywhere,
    chat_template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Chat template in place of the base's.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto (as stored; float32 for quantised weights), float32 or bfloat16.")
    ] = "auto",
    revision: options.Revision = None,
) -> None:
    """Make a block-diffusion checkpoint of an autoregressive one. The weights stay: redraft train is to teach them.

    Example: redraft adapt HuggingFaceTB/SmolLM2-135M-Instruct --out smol
    """
    options.check_folder(out, new=not options.same_place(out, base))
    import torch

    from redraft.models import checkpoint
    from redraft.train.adapt import adapt as write_adapted
    from redraft.train.adapt import read_base

    dtypes = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise RequestError(f"--dtype {dtype!r} is not supported; choose one of {', '.join(dtypes)}")
    template = None if chat_template is None else reading.file_text(chat_template, "the chat template")
    mask = write_adapted(
        read_base(checkpoint.find(base, revision, bases=True), base),
        out,
        mask_token=mask_token,
        canvas_length=canvas_length,
        mask_order=mask_order.value,
        chat_template=template,
        dtype=dtypes[dtype],
    )
    typer.echo(f"checkpoint: {out}\nmask: {mask.text} (id {mask.id}{', added' if mask.new else ''})")
