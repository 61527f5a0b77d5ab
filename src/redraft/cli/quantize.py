"""``redraft quantize``: a checkpoint in fewer bits, packed once for every load."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, printing
from redraft.errors import RequestError

if TYPE_CHECKING:
    pass


def quantize(
    model: Annotated[str, typer.Argument(help="A bundled name, a checkpoint folder, a GGUF file, or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new checkpoint.")],
    dtype: Annotated[str, typer.Option(help="int8, int4 or bfloat16.")] = "int8",
    revision: options.Revision = None,
) -> None:
    """Write a checkpoint in fewer bits. It is loaded as it is, without the time and the memory that packing takes.

    Example: redraft quantize sudoku sudoku-int8 --dtype int8
    """
    options.check_folder(out, new=not options.same_place(out, model))
    from redraft.models import checkpoint
    from redraft.models.quantize import FORMATS
    from redraft.models.quantize import quantize as write_quantised

    if dtype not in FORMATS:
        raise RequestError(f"--dtype {dtype!r} is no format to quantise to; choose one of {', '.join(FORMATS)}")
    write_quantised(checkpoint.read(checkpoint.find(model, revision)), out, dtype)
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    typer.echo(f"checkpoint: {out}, weights {printing.size(size)}\nnext: redraft info {out}")
