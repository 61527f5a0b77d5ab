"""A GGUF file opened: its configuration, and its tensors described and read, all under published names."""

from functools import lru_cache
from importlib import import_module
from pathlib import Path

from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.gguf.blocks import (
    check_extent,
    grid,
    is_quantised,
    read_rows,
    read_tensor,
    type_name,
    value_dtype,
)
from redraft.formats.gguf.header import Header, read_header
from redraft.formats.gguf.published import Published
from redraft.formats.tensors import Rows, StoredTensor, matrix_rows
from redraft.kernels.whole_numbers import WholeNumbers

# Modules with a ``published``, by llama.cpp's names of the architectures.
ARCHITECTURES = {
    "llama": "redraft.formats.gguf.llama",
    "gemma3": "redraft.formats.gguf.gemma3",
    "diffusion-gemma": "redraft.formats.gguf.diffusion_gemma",
}


class GgufFile:
    """A GGUF file under the names that the hub publishes the same model with."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError naming what is damaged, or not supported."""
        self.header: Header = read_header(path)
        parts = self.header.field("split.count", 1)
        if parts > 1:
            raise CheckpointError(f"{path} is one of {parts} parts; join them with: llama-gguf-split --merge")
        architecture = self.header.architecture
        if architecture not in ARCHITECTURES:
            known = ", ".join(map(repr, ARCHITECTURES))
            raise CheckpointError(f"{path}: GGUF architecture {architecture!r} is not supported; supported are {known}")
        self._published: Published = import_module(ARCHITECTURES[architecture]).published(self.header)

    @property
    def config(self) -> dict[str, object]:
        """The ``config.json`` of the same model."""
        return self._published.config

    @property
    def generation(self) -> dict[str, object]:
        """The ``generation_config.json`` of the same model."""
        return self._published.generation

    def stored_tensors(self) -> dict[str, StoredTensor]:
        """Describe all tensors by published name, from the header alone.

        Raises CheckpointError naming a tensor that is cut short, or of a type that is not read.
        """
        found = {}
        for name, origin in self._published.origins.items():
            kind = type_name(self.header, origin.name)
            check_extent(self.header, origin.name)
            dtype, shape = value_dtype(kind), self.header.extents[origin.name].shape
            label = kind if is_quantised(kind) else None
            # What has to be undone is done to values.
            own = grid(kind) if origin.undo is None else None
            found[name] = StoredTensor(self.header.path, shape, dtype, label, own)
        return found

    def tensor(self, name: str) -> Tensor:
        """Read one tensor by its published name."""
        origin = self._published.origins[name]
        stored = read_tensor(self.header, origin.name)
        return stored if origin.undo is None else origin.undo(stored)

    def rows(self, name: str, number: int, rows: Rows) -> Tensor | WholeNumbers:
        """Read some rows of one matrix of a tensor by its published name."""
        origin = self._published.origins[name]
        if origin.undo is not None:
            return matrix_rows(self.tensor(name), number, rows)
        return read_rows(self.header, origin.name, number, rows)


def open_gguf(path: Path) -> GgufFile:
    """Open a file; one that has not changed since it was last opened is not read again."""
    try:
        stat = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return _opened(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, changed: int) -> GgufFile:
    return GgufFile(path)
