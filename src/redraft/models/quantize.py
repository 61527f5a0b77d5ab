"""Writes a checkpoint's weights in fewer bits: packed for the kernels once, as bfloat16 that everything reads, or as
compressed-tensors that vLLM and ``transformers`` read."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from redraft.errors import CheckpointError, RoomError
from redraft.files import make_new_folder
from redraft.formats import source, streamed
from redraft.formats.json_objects import write_object
from redraft.formats.safetensors import WEIGHTS_FILE
from redraft.formats.source import CONFIG_FILE, GENERATION_FILE, is_single_file
from redraft.formats.streamed import Group
from redraft.kernels.int4 import GROUP
from redraft.kernels.packed import Format
from redraft.models import compressed, packed_file
from redraft.models.checkpoint import OWN_FILE, Checkpoint
from redraft.models.companions import WRITTEN, copy, write_card, write_terms, write_tokenizer
from redraft.models.packing import Packing, blocks, packing_peak
from redraft.models.recipes import Importance
from redraft.room import MemoryLimit, allowed, check_disk, size_text

FORMATS: tuple[Format, ...] = ("int4", "int8", "bfloat16")
FileFormat = Literal["redraft", "compressed-tensors"]
"""The layout of the files: packed for our kernels, or as vLLM and ``transformers`` read it."""
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)


def quantize(
    found: Checkpoint,
    folder: Path,
    format: Format,
    *,
    file_format: FileFormat = "redraft",
    group: int = GROUP,
    importance: Importance | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
) -> None:
    """Write a folder that ``redraft.load`` serves as it is; its tokenizer, defaults and terms are those of ``found``.

    "int8" and "int4" are packed for the kernels or, with file_format "compressed-tensors", as other programs read them;
    "bfloat16" is a plain folder. group: inputs that share a scale in int4. importance: what an error counts in each
    input's weights in int4, see ``calibrate.moments``. on_bytes: told how many bytes are there, and of how many. One
    tensor is read at a time, and written as it is made; after a kill the same call goes on where it stood.

    Raises CheckpointError for what cannot be quantised so, and RoomError, before anything is read, for what the memory
    or the disk is too small for; nothing half-written stays under a final name.
    """
    check(found, folder, format, file_format, group)
    check_room(found, folder, format, file_format)
    weights = folder / WEIGHTS_FILE
    made_here = not folder.exists()
    if not begun(folder):
        make_new_folder(folder)
        # By it a later call knows that what else is there is of a call that was killed.
        streamed.unfinished(weights).touch()
    try:
        _write_companions(found, folder, format, file_format)
        if format != "bfloat16" and file_format == "redraft":
            packing = Packing(found, format, importance=importance)
            packing.write(weights, _told(on_bytes, packing.size))
        else:
            groups = _groups(found, format, importance)
            streamed.write(weights, groups, {}, _told(on_bytes, streamed.layout(groups, {}).size))
    except Exception:
        _discard(folder, made_here)
        raise


def check(
    found: Checkpoint, folder: Path, format: Format, file_format: FileFormat = "redraft", group: int = GROUP
) -> None:
    """Raise CheckpointError, before any work, for what ``quantize`` would not write."""
    if format not in FORMATS:
        raise CheckpointError(f"dtype {format!r} is no format to quantise to; choose one of {', '.join(FORMATS)}")
    if file_format not in FILE_FORMATS:
        raise CheckpointError(f"format {file_format!r} is unknown; choose one of {', '.join(FILE_FORMATS)}")
    if group != GROUP:
        raise CheckpointError(
            f"a group of {group} inputs is not supported: the kernels' int4 has a scale for every {GROUP} inputs; "
            f"leave it out, or give {GROUP}"
        )
    if found.packed is not None and format not in ("bfloat16", found.packed):
        raise CheckpointError(f"{found.path} holds {found.packed} weights; quantise the checkpoint it was made of")
    if folder.resolve() in (found.path.resolve(), found.path.resolve().parent):
        raise CheckpointError(f"{folder} is where the checkpoint lies; give another folder")
    if file_format == "compressed-tensors" and format != "bfloat16":
        compressed.check(found, format)


def _told(on_bytes: Callable[[int, int], None] | None, total: int) -> Callable[[int], None] | None:
    return None if on_bytes is None else lambda done: on_bytes(done, total)


def _discard(folder: Path, made_here: bool) -> None:
    """Remove what this call wrote, or one that was killed; what else somebody put there stays."""
    streamed.unfinished(folder / WEIGHTS_FILE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_file() and any(
            fnmatch(path.name, own) for own in (*WRITTEN, CONFIG_FILE, GENERATION_FILE, OWN_FILE)
        ):
            path.unlink()
    if made_here and not any(folder.iterdir()):
        folder.rmdir()


def begun(folder: Path) -> bool:
    """Tell whether a folder has what a killed call of ``quantize`` leaves."""
    weights = folder / WEIGHTS_FILE
    return streamed.unfinished(weights).exists() and not weights.exists()


def _plain(found: Checkpoint) -> list[Group]:
    def pieces(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
        with found.stored_weights([name]) as weights:
            yield from ((name, part.to(torch.bfloat16)) for part in blocks(weights, name, shape))

    return [
        Group({name: (tensor.shape, torch.bfloat16)}, partial(pieces, name, tensor.shape))
        for name, tensor in {**found.tensors, **found.carried}.items()
    ]


def _write_companions(found: Checkpoint, folder: Path, format: Format, file_format: FileFormat) -> None:
    """Write all that a folder has beside its weights."""
    write_tokenizer(found.path, folder)
    write_terms(found.path, folder)
    options = f"--dtype {format}" + ("" if file_format == "redraft" else f" --format {file_format}")
    write_card(folder, found.path, found.path.name, f"Made of `{{base}}` by `redraft quantize {options}`.")
    if is_single_file(found.path):
        write_object(folder / GENERATION_FILE, found.family.defaults_to_json(found.defaults, found.config))
    else:
        copy(found.path, folder, [GENERATION_FILE, OWN_FILE])
    write_object(folder / CONFIG_FILE, _config(found, format, file_format))


def _config(found: Checkpoint, format: Format, file_format: FileFormat) -> dict[str, Any]:
    config = source.read_config(found.path)
    config.pop("quantization_config", None)
    if format == "bfloat16":
        return {**config, "dtype": "bfloat16"}
    if file_format == "redraft":
        return {**config, "quantization_config": packed_file.quantization_config(format)}
    quantization = compressed.quantization_config(found, format)
    return {**config, "dtype": "bfloat16", "quantization_config": quantization}


def check_room(
    found: Checkpoint,
    folder: Path,
    format: Format,
    file_format: FileFormat = "redraft",
    memory: MemoryLimit = "auto",
) -> None:
    """Raise RoomError where the memory is too small to quantise a checkpoint, or the disk to hold the result."""
    left, peak = allowed(memory), packing_peak(found, format)
    if left is not None and peak > left.free:
        raise RoomError(
            f"quantising {found.path} as {format} takes {size_text(peak)} of memory, and {left.limit} has "
            f"{size_text(left.free)} left"
        )
    if format != "bfloat16" and file_format == "redraft":
        size = Packing(found, format).size
    else:
        size = streamed.layout(_groups(found, format, None), {}).size
    there = streamed.unfinished(folder / WEIGHTS_FILE)
    check_disk(folder, size - (_blocks(there) if there.exists() else 0), f"{found.path} as {format}")


def _blocks(path: Path) -> int:
    """Return the bytes on disk of a file that may have holes."""
    return getattr(path.stat(), "st_blocks", 0) * 512


def _groups(found: Checkpoint, format: Format, importance: Importance | None) -> list[Group]:
    return _plain(found) if format == "bfloat16" else compressed.groups(found, format, importance)
