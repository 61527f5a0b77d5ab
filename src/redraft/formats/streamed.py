"""Safetensors files that are written as their tensors are made: the header first, then piece after piece.

A file grows beside its place and is renamed when it is whole. Its header has room for a checksum (CRC-32) of each
tensor, filled in as the tensor is finished, so that where a writer was killed the next one goes on.
"""

import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.safetensors import DTYPE_NAMES, INDEX_FILE, WEIGHTS_FILE, Described

CHECKSUMS = "checksums"
"""The text in a header that has eight hexadecimal digits for the header itself, and for each tensor in the order of
their names."""
_DIGITS, _NONE = 8, "." * 8
# The widest vectors are of that many bytes; a tensor of whole ones begins with one.
_VECTOR = 64
_AT_A_TIME = 16 << 20
_LENGTH_BYTES = 8


class NoRoomError(CheckpointError):
    """The disk has no room for a file."""


@dataclass(frozen=True)
class Group:
    """Tensors that are made together, of which nothing is there before the writer asks."""

    described: Mapping[str, Described]
    """Shape and dtype by name."""
    pieces: Callable[[], Iterator[tuple[str, Tensor]]]
    """Makes them: the name of a tensor and the numbers that come next in it, until all are whole."""


class Layout:
    """The places of everything in a file of ``described`` tensors; ``metadata`` are texts for its header."""

    def __init__(self, described: Mapping[str, Described], metadata: Mapping[str, str]) -> None:
        # None begins where its dtype, or a vector of it, must not.
        order = sorted(
            described, key=lambda name: (_size(described[name]) % _VECTOR != 0, -described[name][1].itemsize)
        )
        texts = {"format": "pt", **metadata, CHECKSUMS: _NONE * (1 + len(described))}
        header: dict[str, Any] = {"__metadata__": texts}
        end = 0
        for name in order:
            shape, dtype = described[name]
            begin, end = end, end + _size(described[name])
            header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-(_LENGTH_BYTES + len(text)) % _VECTOR)
        self.beginning = len(text).to_bytes(_LENGTH_BYTES, "little") + text
        """All bytes before the first tensor, without a checksum yet."""
        start = len(self.beginning)
        self.places = {name: tuple(start + at for at in header[name]["data_offsets"]) for name in order}
        """The first byte of each tensor in the file, and the one behind its last."""
        self.size = start + end
        self.own_slot = _slots_begin(self.beginning)
        """The place of the header's own checksum in the file: of what it is without any."""
        self.slots = {name: self.own_slot + _DIGITS * index for index, name in enumerate(sorted(described), 1)}
        """The place of each tensor's checksum in the file."""

    def is_beginning_of(self, path: Path) -> bool:
        """Tell whether a file was laid out so; its checksums may be any."""
        try:
            with path.open("rb", buffering=0) as file:
                return self.matches(file) and os.fstat(file.fileno()).st_size == self.size
        except OSError:
            return False

    def matches(self, file: FileIO) -> bool:
        """Tell whether an open file begins so, but for its checksums."""
        found = os.pread(file.fileno(), len(self.beginning), 0)
        if len(found) != len(self.beginning):
            return False
        end = self.own_slot + _DIGITS * (1 + len(self.slots))
        same = found[: self.own_slot] == self.beginning[: self.own_slot]
        return same and found[end:] == self.beginning[end:]


def layout(groups: Sequence[Group], metadata: Mapping[str, str]) -> Layout:
    """Lay out the tensors of all groups in one file."""
    return Layout({name: one for group in groups for name, one in group.described.items()}, metadata)


def write(
    path: Path, groups: Sequence[Group], metadata: Mapping[str, str], on_bytes: Callable[[int], None] | None = None
) -> None:
    """Write a file piece by piece beside ``path``, and rename it when all of it is there.

    What an earlier call of the same groups and texts finished before it was killed is kept, if its checksums hold.
    Where another process is writing the same file, its end is waited for. on_bytes: told how many bytes are there, at
    first and after each group.

    Raises NoRoomError before anything is written where the disk has no room, or when it is full half way; OSError where
    the folder cannot be written; and what a group's pieces raise. Nothing is left then.
    """
    plan, aside = layout(groups, metadata), unfinished(path)
    with _locked(aside, path, plan) as file:
        if file is None:
            return
        try:
            _check_room(path, file, plan.size)
            done = _finished(file, plan)
            if on_bytes is not None:
                on_bytes(sum(end - begin for begin, end in map(plan.places.__getitem__, done)))
            _fill(file, plan, groups, done, on_bytes)
            os.pwrite(file.fileno(), f"{zlib.crc32(plan.beginning):08x}".encode(), plan.own_slot)
            os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if error.errno in (ENOSPC, EDQUOT):
                raise NoRoomError(
                    f"the disk was full before {path} was whole ({plan.size / 1e9:.3g} GB); what was written is removed"
                ) from error
            raise
        except Exception:
            aside.unlink(missing_ok=True)
            raise


def write_each(
    folder: Path,
    described: Mapping[str, Described],
    tensor: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of the shapes and dtypes ``described`` into a folder's only weight file, and ask ``tensor`` for one
    after the other: no two are in memory. ``metadata``: texts for the header. Raises as ``write``."""

    def alone(name: str, one: Described) -> Group:
        def pieces() -> Iterator[tuple[str, Tensor]]:
            made = tensor(name)
            if (tuple(made.shape), made.dtype) != one:
                raise ValueError(f"{name} is {made.dtype} {[*made.shape]}, and was to be {one[1]} {[*one[0]]}")
            yield name, made

        return Group({name: one}, pieces)

    write(folder / WEIGHTS_FILE, [alone(name, one) for name, one in described.items()], metadata or {})
    # An index left by a sharded checkpoint would be read in place of the file just written.
    (folder / INDEX_FILE).unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Return where ``write`` writes before it renames."""
    return path.with_name(f".{path.name}.part")


def checksums(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the checksum of each tensor that a file's header, as JSON, tells; empty where it tells none.

    Raises CheckpointError where they are damaged.
    """
    text = header.get("__metadata__", {}).get(CHECKSUMS)
    if text is None:
        return {}
    names = sorted(name for name in header if name != "__metadata__")
    found = [text[at : at + _DIGITS] for at in range(_DIGITS, len(text), _DIGITS)]
    try:
        return dict(zip(names, (int(digits, 16) for digits in found), strict=True))
    except ValueError as error:
        raise CheckpointError(f"the header's checksums are damaged ({error}); make the file again") from None


def read_header(path: Path) -> dict[str, Any]:
    """Read a file's header as JSON; raises CheckpointError where it is damaged, or the file is shorter or longer than
    the header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            size = os.fstat(file.fileno()).st_size
            if length > size:
                raise ValueError("it is shorter than its header")
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"weight file {path} is damaged or cut short ({error}); make it again") from None
    whole = _LENGTH_BYTES + length + max(ends, default=0)
    if size != whole:
        raise CheckpointError(f"weight file {path} has {size:,} bytes, and by its header {whole:,}; make it again")
    return header


def verify(path: Path) -> None:
    """Read a file once, and raise CheckpointError naming the first tensor that is not what was written, or the header.

    A file without checksums passes.
    """
    header = read_header(path)
    expected = checksums(header)
    if not expected:
        return
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        start = _LENGTH_BYTES + int.from_bytes(os.pread(file.fileno(), _LENGTH_BYTES, 0), "little")
        _check_header(path, bytearray(os.pread(file.fileno(), start, 0)), len(expected))

        def checked(name: str) -> int:
            begin, end = header[name]["data_offsets"]
            return _checksum_of(file, start + begin, start + end)

        for name, found in zip(expected, pool.map(checked, expected), strict=True):
            if found != expected[name]:
                raise CheckpointError(
                    f"{path}: tensor {name} is damaged: its checksum is {found:08x}, and was {expected[name]:08x} when "
                    "it was written; make the file again"
                )


def _check_header(path: Path, beginning: bytearray, count: int) -> None:
    first = _slots_begin(beginning)
    expected = beginning[first : first + _DIGITS].decode(errors="replace")
    beginning[first : first + _DIGITS * (1 + count)] = (_NONE * (1 + count)).encode()
    if f"{zlib.crc32(beginning):08x}" != expected:
        raise CheckpointError(f"{path}: the header is damaged; make the file again")


def _slots_begin(beginning: bytes | bytearray) -> int:
    # The texts are the first thing in the header; inside of one the quotes would be escaped.
    mark = f'"{CHECKSUMS}": "'.encode()
    return beginning.index(mark) + len(mark)


class _Writer:
    """Writes the pieces of some tensors to where they belong, and counts their checksums."""

    def __init__(self, file: FileIO, plan: Layout, described: Mapping[str, Described]) -> None:
        self._file, self._plan, self._described = file, plan, described
        self._next = {name: plan.places[name][0] for name in described}
        self._sums = dict.fromkeys(described, 0)

    def add(self, name: str, piece: Tensor) -> None:
        if piece.dtype != self._described[name][1]:
            raise ValueError(f"a piece of {name} is {piece.dtype}, and was to be {self._described[name][1]}")
        content = memoryview(b"")
        if piece.numel():
            content = piece.contiguous().view(-1).view(torch.uint8).numpy().data
        if self._next[name] + len(content) > self._plan.places[name][1]:
            raise ValueError(f"{name} has more numbers than its shape {[*self._described[name][0]]}")
        self._sums[name] = zlib.crc32(content, self._sums[name])
        while content:
            written = os.pwrite(self._file.fileno(), content, self._next[name])
            self._next[name] += written
            content = content[written:]

    def finish(self) -> None:
        for name, checksum in self._sums.items():
            if self._next[name] != self._plan.places[name][1]:
                raise ValueError(f"{name} has fewer numbers than its shape {[*self._described[name][0]]}")
            os.pwrite(self._file.fileno(), f"{checksum:08x}".encode(), self._plan.slots[name])


def _fill(
    file: FileIO, plan: Layout, groups: Sequence[Group], done: set[str], on_bytes: Callable[[int], None] | None
) -> None:
    there = sum(plan.places[name][1] - plan.places[name][0] for name in done)
    for group in groups:
        if done.issuperset(group.described):
            continue
        own = {name: plan.places[name][1] - plan.places[name][0] for name in group.described}
        there -= sum(size for name, size in own.items() if name in done)
        writer = _Writer(file, plan, group.described)
        for name, piece in group.pieces():
            writer.add(name, piece)
        writer.finish()
        there += sum(own.values())
        if on_bytes is not None:
            on_bytes(there)


def _finished(file: FileIO, plan: Layout) -> set[str]:
    """Return the tensors that an earlier writer finished; where the file is another, make it one of holes."""
    if not plan.matches(file) or os.fstat(file.fileno()).st_size != plan.size:
        file.truncate(0)
        file.truncate(plan.size)
        os.pwrite(file.fileno(), plan.beginning, 0)
        return set()
    found = set()
    for name, slot in plan.slots.items():
        digits = os.pread(file.fileno(), _DIGITS, slot)
        if digits != _NONE.encode() and digits == f"{_checksum_of(file, *plan.places[name]):08x}".encode():
            found.add(name)
    return found


def _checksum_of(file: FileIO, begin: int, end: int) -> int:
    # Read, not mapped: what is looked at once need not stay in this process's memory.
    checksum = 0
    for at in range(begin, end, _AT_A_TIME):
        checksum = zlib.crc32(os.pread(file.fileno(), min(_AT_A_TIME, end - at), at), checksum)
    return checksum


def _check_room(path: Path, file: FileIO, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    # What is there already of a file with holes.
    there = getattr(os.fstat(file.fileno()), "st_blocks", 0) * 512
    if size - there > free:
        raise NoRoomError(
            f"{path} takes {(size - there) / 1e9:.3g} GB, and {path.parent} has {free / 1e9:.3g} GB free; make room, "
            "or name another folder"
        )


@contextmanager
def _locked(aside: Path, path: Path, plan: Layout) -> Iterator[FileIO | None]:
    """Open the file that grows and keep all others from it; None if another process has made ``path`` meanwhile."""
    while True:
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT, 0o666)
        with FileIO(descriptor, "r+") as file:
            waited = _lock(file)
            try:
                same = os.path.samestat(os.fstat(descriptor), aside.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield file
                return
        # Whoever had it has renamed it, or given it up.
        if waited and plan.is_beginning_of(path):
            yield None
            return


def _lock(file: FileIO) -> bool:
    """Wait until no other process has the file; return whether one had."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False


def _size(described: Described) -> int:
    shape, dtype = described
    return prod(shape) * dtype.itemsize
