"""Writes a checkpoint's weights in fewer bits: packed for the kernels once, or as bfloat16 that everything reads."""

from math import prod
from pathlib import Path

import torch

from redraft.errors import CheckpointError, RoomError
from redraft.files import make_new_folder
from redraft.formats import safetensors, source
from redraft.formats.json_objects import write_object
from redraft.formats.source import CONFIG_FILE, GENERATION_FILE, is_single_file
from redraft.kernels.packed import Format
from redraft.models import packed_folder
from redraft.models.checkpoint import OWN_FILE, Checkpoint
from redraft.models.companions import copy, write_card, write_terms, write_tokenizer
from redraft.models.footprint import footprint
from redraft.room import MemoryLimit, allowed, check_disk, size_text

FORMATS: tuple[Format, ...] = ("int4", "int8", "bfloat16")


def quantize(found: Checkpoint, folder: Path, format: Format) -> None:
    """Write a folder that ``redraft.load`` serves as it is; its tokenizer, defaults and terms are those of ``found``.

    "int8" and "int4" are packed for the kernels, "bfloat16" is a plain folder. One tensor is read at a time.

    Raises CheckpointError for other formats, and for weights that are packed already; RoomError, before anything is
    read, for what the memory or the disk is too small for.
    """
    if format not in FORMATS:
        raise CheckpointError(f"dtype {format!r} is no format to quantise to; choose one of {', '.join(FORMATS)}")
    if found.packed is not None:
        raise CheckpointError(f"{found.path} holds {found.packed} weights; quantise the checkpoint it was made of")
    if folder.resolve() in (found.path.resolve(), found.path.resolve().parent):
        raise CheckpointError(f"{folder} is where the checkpoint lies; give another folder")
    check_room(found, folder, format)
    make_new_folder(folder)
    config = source.read_config(found.path)
    if format == "bfloat16":
        _write_plain(found, folder)
        config["dtype"] = "bfloat16"
    else:
        _write_packed(found, folder, format)
        config["quantization_config"] = packed_folder.quantization_config(format)
    write_object(folder / CONFIG_FILE, config)
    write_tokenizer(found.path, folder)
    write_terms(found.path, folder)
    write_card(folder, found.path, found.path.name, f"Made of `{{base}}` by `redraft quantize --dtype {format}`.")
    if is_single_file(found.path):
        write_object(folder / GENERATION_FILE, found.family.defaults_to_json(found.defaults, found.config))
    else:
        copy(found.path, folder, [GENERATION_FILE, OWN_FILE])


def check_room(found: Checkpoint, folder: Path, format: Format, memory: MemoryLimit = "auto") -> None:
    """Raise RoomError where the memory is too small to pack a checkpoint, or the disk to hold the result."""
    own = footprint(found, format)
    there = allowed(memory)
    size = own.packed_file + own.looked_up
    if format == "bfloat16":
        size = sum(2 * prod(tensor.shape) for tensor in found.tensors.values())
    elif there is not None and own.packing > there.free:
        raise RoomError(
            f"packing {found.path} as {format} takes {size_text(own.packing)} of memory, and {there.limit} has "
            f"{size_text(there.free)} left"
        )
    check_disk(folder, size, f"{found.path} as {format}")


def _write_plain(found: Checkpoint, folder: Path) -> None:
    described = {name: (tensor.shape, torch.bfloat16) for name, tensor in found.tensors.items()}
    with source.reading(found.tensors) as tensor:
        safetensors.write_each(folder, described, lambda name: tensor(name).to(torch.bfloat16))


def _write_packed(found: Checkpoint, folder: Path, format: Format) -> None:
    family = found.family
    with found.weights() as weights:
        matrices = dict(family.pack(weights, found.config, format))
    model = found.load_beside(format)
    kept = {family.stored_name(name): tensor for name, tensor in model.state_dict().items() if family.beside(name)}
    packed = {name: tensor.shape for name, tensor in found.tensors.items() if name not in kept}
    packed_folder.write(folder, format, matrices, kept, packed)
