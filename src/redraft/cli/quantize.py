"""``redraft quantize``: a checkpoint in fewer bits, packed once for every load."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from redraft.kernels.packed import Format


def quantize(
    model: Annotated[str, typer.Argument(help="A bundled name, a checkpoint folder, a GGUF file, or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new checkpoint.")],
    dtype: Annotated[str, typer.Option(help="int8, int4 or bfloat16.")] = "int8",
) -> None:
    """Write a checkpoint in fewer bits. It is loaded as it is, without the time and the memory that packing takes.

    Example: redraft quantize sudoku sudoku-int8 --dtype int8
    """
    from redraft.models import checkpoint
    from redraft.models.quantize import quantize as write_quantised

    write_quantised(checkpoint.read(checkpoint.find(model)), out, cast("Format", dtype))
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    typer.echo(f"checkpoint: {out}, weights {printing.size(size)}\nnext: redraft info {out}")
