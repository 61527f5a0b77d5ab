"""Rows of a data set in a file: JSONL, or Parquet by ``pyarrow``; a chunk of them is read at a time."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from redraft.errors import RedraftError, RequestError
from redraft.files import replacing

JSONL, PARQUET = ".jsonl", ".parquet"


@dataclass(frozen=True)
class Row:
    """A row as it was read."""

    where: str
    values: Mapping[str, Any]
    fault: str | None = None
    """The reason for which it has no values."""


class RowFile(Protocol):
    """A file of rows."""

    @property
    def count(self) -> int:
        """The number of rows."""
        ...

    def read(self, start: int, stop: int) -> list[Row]:
        """Read some rows, numbered from 0."""
        ...


class JsonLines:
    """One JSON object a line; lines without text are no rows."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError for a file that cannot be read."""
        self._path = path
        self._places: list[tuple[int, int]] = []
        """The place at which each row's line begins, in bytes, and its number, from 1."""
        place = 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._places.append((place, number))
                    place += len(line)
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from error

    @property
    def count(self) -> int:
        return len(self._places)

    def read(self, start: int, stop: int) -> list[Row]:
        found = []
        with self._path.open("rb") as file:
            for place, number in self._places[start:stop]:
                file.seek(place)
                found.append(_parsed(file.readline(), f"{self._path}:{number}"))
        return found


class Parquet:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError for a file that cannot be read, and RedraftError without ``pyarrow``."""
        self._path = path
        try:
            self._file = parquet_library().ParquetFile(path)
        except (OSError, ValueError) as error:
            raise RequestError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        metadata = self._file.metadata
        self._sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    @property
    def count(self) -> int:
        return sum(self._sizes)

    def read(self, start: int, stop: int) -> list[Row]:
        found: list[Row] = []
        first = 0
        for number, size in enumerate(self._sizes):
            begin, end = max(start, first), min(stop, first + size)
            if begin < end:
                own = self._file.read_row_group(number).slice(begin - first, end - begin)
                found += [
                    Row(f"{self._path}, row {place}", values) for place, values in enumerate(own.to_pylist(), begin + 1)
                ]
            first += size
        return found


def open_rows(path: Path) -> RowFile:
    """Open a data set by its suffix. Raises RequestError for another suffix, or a file that cannot be read."""
    check_suffix(path, "the data")
    return JsonLines(path) if path.suffix == JSONL else Parquet(path)


def check_suffix(path: Path, what: str) -> None:
    """Raise RequestError for a file whose name does not say how it is written; RedraftError for want of a library."""
    if path.suffix not in (JSONL, PARQUET):
        raise RequestError(f"{what} {path} must be named {JSONL} or {PARQUET}")
    if path.suffix == PARQUET:
        parquet_library()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all."""
    with replacing(path) as new, new.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def join(parts: Sequence[Path], out: Path, written: Sequence[str]) -> None:
    """Put parts, JSONL each, together in one file, by its suffix. Of a Parquet file the columns ``written``, whose
    fields differ from row to row, are JSON."""
    with replacing(out) as new:
        if out.suffix == JSONL:
            with new.open("wb") as file:
                for part in parts:
                    file.write(part.read_bytes())
            return
        _join_parquet(parts, new, written)


def parquet_library() -> Any:
    """Import ``pyarrow.parquet``; RedraftError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise RedraftError("Parquet files need pyarrow; install it with: pip install 'redraft[batch]'") from error
    return pyarrow.parquet


def _join_parquet(parts: Sequence[Path], out: Path, written: Sequence[str]) -> None:
    parquet = parquet_library()
    import pyarrow

    tables = []
    for part in parts:
        rows = [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            for name in written:
                row[name] = json.dumps(row[name], ensure_ascii=False) if row.get(name) is not None else None
        tables.append(pyarrow.Table.from_pylist(rows))
    parquet.write_table(pyarrow.concat_tables(tables, promote_options="permissive"), out)


def _parsed(line: bytes, where: str) -> Row:
    try:
        values = json.loads(line)
    except ValueError as error:
        return Row(where, {}, f"not valid JSON: {error}")
    if not isinstance(values, dict):
        return Row(where, {}, f"a row is a JSON object, not {type(values).__name__}")
    return Row(where, values)
