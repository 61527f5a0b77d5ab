"""``redraft quantize``: a checkpoint in fewer bits, packed once for every load, or as other programs read it."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, printing, talk
from redraft.cli.packing import writing
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.models.checkpoint import Checkpoint
    from redraft.models.recipes import Importance


class FileFormat(StrEnum):
    """The layouts of ``models.quantize``; a test compares them."""

    REDRAFT = "redraft"
    COMPRESSED_TENSORS = "compressed-tensors"


def quantize(
    model: Annotated[str, typer.Argument(help="A bundled name, a checkpoint folder, a GGUF file, or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new checkpoint.")],
    dtype: Annotated[str, typer.Option(help="int8, int4 or bfloat16.")] = "int8",
    group: Annotated[int | None, typer.Option(help="Inputs that share a scale in int4; there is 32 alone.")] = None,
    format: Annotated[
        FileFormat, typer.Option(help="redraft: packed for the kernels; compressed-tensors: for vLLM and transformers.")
    ] = FileFormat.REDRAFT,
    calibrate: Annotated[
        bool, typer.Option(help="Round int4 by what the model's own answers say of each input; takes the whole model.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts to calibrate with: a line each, or JSON lines with a 'prompt'; implies --calibrate."
        ),
    ] = None,
    revision: options.Revision = None,
) -> None:
    """Write a checkpoint in fewer bits. It is loaded as it is, without the time and the memory that packing takes.

    Example: redraft quantize sudoku sudoku-int8 --dtype int8
    """
    options.check_folder(out)
    given = None if prompts is None else read_prompts(prompts)
    from redraft.kernels.int4 import GROUP
    from redraft.models import checkpoint
    from redraft.models.quantize import FORMATS, begun, check
    from redraft.models.quantize import quantize as write_quantised

    if dtype not in FORMATS:
        raise RequestError(f"--dtype {dtype!r} is no format to quantise to; choose one of {', '.join(FORMATS)}")
    if (calibrate or prompts is not None) and dtype != "int4":
        raise RequestError(f"only int4 is rounded by calibration; leave it out for {dtype}, or give --dtype int4")
    if group is not None and dtype != "int4":
        raise RequestError(f"only int4 has groups; leave --group out for {dtype}")
    if not begun(out) or options.same_place(out, model):
        options.check_folder(out, new=not options.same_place(out, model))
    found = checkpoint.read(checkpoint.find(model, revision))
    check(found, out, dtype, format.value, GROUP if group is None else group)
    importance = _importance(found, given) if calibrate or prompts is not None else None
    with writing() as on_bytes:
        write_quantised(found, out, dtype, file_format=format.value, importance=importance, on_bytes=on_bytes)
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    typer.echo(f"checkpoint: {out}, weights {printing.size(size)}\nnext: redraft info {out}")


def read_prompts(path: Path) -> list[str]:
    """Read prompts: a line each, or JSON objects with a ``prompt``. RequestError names the line that is neither."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            found.append(line)
            continue
        try:
            found.append(str(json.loads(line)["prompt"]))
        except (ValueError, KeyError) as error:
            raise RequestError(f"{path}, line {number}: no JSON object with a 'prompt' ({error})") from None
    if not found:
        raise RequestError(f"{path} has no prompts")
    return found


def _importance(found: "Checkpoint", prompts: list[str] | None) -> "Importance":
    from redraft.calibrate.moments import ANSWERS, input_moments

    talk.note(f"calibrating with {len(prompts)} prompts" if prompts else f"calibrating with {ANSWERS} texts of its own")
    return input_moments(found, prompts)
