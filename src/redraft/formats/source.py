"""Checkpoints as they lie on disk: a folder as the hub has it, or one GGUF file, asked the same questions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from redraft.formats import safetensors
from redraft.formats.gguf.file import open_gguf
from redraft.formats.gguf.header import SUFFIX
from redraft.formats.json_objects import read_object
from redraft.formats.quantised import published
from redraft.formats.tensors import Rows, StoredTensor, TensorReader
from redraft.kernels.whole_numbers import WholeNumbers

CONFIG_FILE, GENERATION_FILE = published.CONFIG_FILE, "generation_config.json"


def is_single_file(path: Path) -> bool:
    """Tell whether a path is a GGUF file, by its name."""
    return path.suffix == SUFFIX and path.is_file()


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``, or what a file says in its place; raises CheckpointError naming what cannot be read.

    What it says of a quantisation that is read is left out: tensors are described as though they were not quantised.
    """
    if is_single_file(path):
        return dict(open_gguf(path).config)
    return published.without_quantisation(read_object(path / CONFIG_FILE))


def read_generation(path: Path) -> dict[str, Any]:
    """Read ``generation_config.json``, or what a file says in its place; empty where there is none."""
    if is_single_file(path):
        return dict(open_gguf(path).generation)
    return read_object(path / GENERATION_FILE) if (path / GENERATION_FILE).exists() else {}


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Describe all tensors by published name, from headers alone.

    Raises CheckpointError naming the file that is missing or damaged, or the tensor of a type that is not read.
    """
    return open_gguf(path).stored_tensors() if is_single_file(path) else published.stored_tensors(path)


@contextmanager
def reading(tensors: Mapping[str, StoredTensor]) -> Iterator[TensorReader]:
    """Open the files of ``tensors`` and hand out what reads one of them by name.

    Raises CheckpointError naming the file that cannot be opened.
    """
    plain = {name: tensor for name, tensor in tensors.items() if tensor.file.suffix != SUFFIX}
    with safetensors.reading(plain) as mapped:
        yield _Reader(mapped, {name: tensor.file for name, tensor in tensors.items() if name not in plain})


class _Reader:
    """A ``TensorReader`` of both formats."""

    def __init__(self, mapped: TensorReader, of_gguf: Mapping[str, Path]) -> None:
        self._mapped, self._of_gguf = mapped, of_gguf

    def __call__(self, name: str, /) -> Tensor:
        file = self._of_gguf.get(name)
        return self._mapped(name) if file is None else open_gguf(file).tensor(name)

    def rows(self, name: str, number: int, rows: Rows, /) -> Tensor | WholeNumbers:
        file = self._of_gguf.get(name)
        return self._mapped.rows(name, number, rows) if file is None else open_gguf(file).rows(name, number, rows)
