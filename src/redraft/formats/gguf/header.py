"""The header of a GGUF file: its metadata, and where its tensors lie.

The ``gguf`` package reads the same, but takes many seconds for a vocabulary of a quarter of a million tokens.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.errors import CheckpointError
from redraft.formats.pointer import check_no_pointer

SUFFIX = ".gguf"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
# struct's letters of the scalar types, by their numbers.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class Extent:
    """A tensor in the file: its shape as torch has it, the number of its type, and its first byte."""

    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Header:
    """The part of a GGUF file before its tensors."""

    path: Path
    metadata: dict[str, Any]
    extents: dict[str, Extent]
    """Tensors by llama.cpp's names, in the order of the file."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture; raises CheckpointError where there is none."""
        return str(self.field("general.architecture"))

    def field(self, name: str, default: Any = None) -> Any:
        """Return a field of the metadata; raises CheckpointError that names it where it is missing and there is no
        default."""
        found = self.metadata.get(name, default)
        if found is None:
            raise CheckpointError(f"{self.path}: the metadata has no {name!r}")
        return found

    def own(self, name: str, default: Any = None) -> Any:
        """Return a field whose name begins with the architecture's."""
        return self.field(f"{self.architecture}.{name}", default)


def is_gguf(path: Path) -> bool:
    """Tell whether a path is a file that begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Read the header; raises CheckpointError saying what of the file is damaged or not read."""
    if not is_gguf(path):
        check_no_pointer(path)
        raise CheckpointError(f"{path} is no GGUF file: it does not begin with {_MAGIC.decode()}")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(path, content).header()
    except (struct.error, UnicodeDecodeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); download it again") from error


class _Reader:
    """Reads one value after another."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path, self._content, self._at = path, content, len(_MAGIC)

    def header(self) -> Header:
        version = self._scalar("I")
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{self._path} is of GGUF version {version}; read are versions 2 and 3, little-endian"
            )
        tensors, fields = self._scalar("Q"), self._scalar("Q")
        metadata = {}
        for _ in range(fields):
            name = self._text()
            metadata[name] = self._value(self._scalar("I"))
        placed = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self._path}: general.alignment is {alignment!r}; it must be 1 or more")
        start = -(-self._at // alignment) * alignment
        extents = {name: Extent(shape, type, start + offset) for name, shape, type, offset in placed}
        return Header(self._path, metadata, extents)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        sizes = self._scalars("Q", self._scalar("I"))
        # The first dimension is the one that lies together.
        return name, tuple(reversed(sizes)), self._scalar("I"), self._scalar("Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind != _ARRAY:
            raise CheckpointError(f"{self._path}: the metadata has a value of the unknown type {kind}")
        of, count = self._scalar("I"), self._scalar("Q")
        if of in _SCALARS:
            return list(self._scalars(_SCALARS[of], count))
        if of == _STRING:
            return self._texts(count)
        return [self._value(of) for _ in range(count)]

    def _scalar(self, letter: str) -> Any:
        return self._scalars(letter, 1)[0]

    def _scalars(self, letter: str, count: int) -> tuple[Any, ...]:
        if count > len(self._content):
            raise CheckpointError(f"{self._path} is damaged: {count} values where there are fewer bytes")
        layout = f"<{count}{letter}"
        found = struct.unpack_from(layout, self._content, self._at)
        self._at += struct.calcsize(layout)
        return found

    def _text(self) -> str:
        (text,) = self._texts(1)
        return text

    def _texts(self, count: int) -> list[str]:
        """Read texts in one loop, as there may be as many as tokens."""
        content, size, texts = self._content, len(self._content), []
        length_at = struct.Struct("<Q")
        for _ in range(count):
            begin = self._at + length_at.size
            end = begin + length_at.unpack_from(content, self._at)[0]
            if end > size:
                raise CheckpointError(f"{self._path} is damaged or cut short: a text ends behind its last byte")
            texts.append(content[begin:end].decode("utf-8"))
            self._at = end
        return texts
