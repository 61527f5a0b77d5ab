"""Checkpoints as they lie on disk: a folder as the hub has it, or one GGUF file, asked the same questions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redraft.formats import safetensors
from redraft.formats.gguf.file import open_gguf
from redraft.formats.gguf.header import SUFFIX
from redraft.formats.json_objects import read_object
from redraft.formats.tensors import StoredTensor, TensorReader

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"


def is_single_file(path: Path) -> bool:
    """Tell whether a path is a GGUF file, by its name."""
    return path.suffix == SUFFIX and path.is_file()


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``, or what a file says in its place; raises CheckpointError naming what cannot be read."""
    return dict(open_gguf(path).config) if is_single_file(path) else read_object(path / CONFIG_FILE)


def read_generation(path: Path) -> dict[str, Any]:
    """Read ``generation_config.json``, or what a file says in its place; empty where there is none."""
    if is_single_file(path):
        return dict(open_gguf(path).generation)
    return read_object(path / GENERATION_FILE) if (path / GENERATION_FILE).exists() else {}


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Describe all tensors by published name, from headers alone.

    Raises CheckpointError naming the file that is missing or damaged, or the tensor of a type that is not read.
    """
    return open_gguf(path).stored_tensors() if is_single_file(path) else safetensors.stored_tensors(path)


@contextmanager
def reading(tensors: Mapping[str, StoredTensor]) -> Iterator[TensorReader]:
    """Open the files of ``tensors`` and hand out what reads one of them by name.

    Raises CheckpointError naming the file that cannot be opened.
    """
    plain = {name: tensor for name, tensor in tensors.items() if tensor.file.suffix != SUFFIX}
    with safetensors.reading(plain) as mapped:
        yield lambda name: mapped(name) if name in plain else open_gguf(tensors[name].file).tensor(name)
