"""``redraft.batch``: chunks of rows, each written whole as it is done, put together in the end."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.batching import replicas as on_ray
from redraft.batching import rows
from redraft.batching.job import Job, Verb, Worker
from redraft.batching.rows import RowFile
from redraft.batching.work import Done, Work
from redraft.errors import RedraftError, RequestError
from redraft.files import write_text

CHUNK = 64
JOB_FILE = "job.json"


@dataclass(frozen=True)
class BatchSummary:
    """The end of a batch."""

    out: Path
    rows: int
    failed: int
    """Rows that have a reason in the place of an answer."""
    answered_before: int
    """Rows that an earlier call, which was broken off, had done."""


def batch(
    data: str | Path,
    out: str | Path,
    verb: Verb = "generate",
    *,
    model: str | Path,
    parameters: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    into: str = "answer",
    chat: bool = False,
    replicas: int | None = None,
    chunk: int = CHUNK,
    loading: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> BatchSummary:
    """Ask a model one verb of every row of a data set, and write the rows with its answers, in their order.

    data, out: files named ``.jsonl`` or ``.parquet``. An argument of the verb is a column of its name, or of the name
    that ``columns`` has for it, or else one of ``parameters``, which are the same for all rows; other columns are
    carried along. Answers are in column ``into``, as ``--json`` prints them (in Parquet as JSON); of a row that cannot
    be answered ``into`` + "_error" has the reason, and the other rows go on. ``parameters["seed"]``, 0 by default, is
    the first row's; row i has that + i. chat: a prompt that is a text is a user's chat message. replicas: None answers
    here; a number lets so many processes on Ray answer, on the cluster that ``RAY_ADDRESS`` names or on this machine.
    chunk: rows that are written, and gone on from, at a time. loading: arguments of ``redraft.load``. on_progress:
    called with the rows done and all.

    Broken off and called again with the same arguments it goes on where it was; what is done lies in a folder beside
    ``out`` until then. Raises RequestError, before a model is loaded, for arguments, columns or files that cannot be
    used, and for an ``out`` that is there; RedraftError where replicas have different weights.
    """
    job = Job(verb, parameters or {}, columns or {}, into, chat)
    source, target = Path(data), Path(out)
    found = _checked(source, target, job, chunk, replicas)
    work = Work(
        source.absolute(), target.with_name(f"{target.name}.parts").absolute(), job, str(model), loading or {}, chunk
    )
    _begin(work)
    numbers = range(-(-found.count // chunk))
    left = [number for number in numbers if not work.part(number).exists()]
    before = _rows_of(work, sorted({*numbers} - {*left}))
    done = before
    for one in _here(work, left, found) if replicas is None else on_ray.answered(work, left, replicas):
        _same_weights(work, one.digest)
        done += one.rows
        if on_progress is not None:
            on_progress(done, found.count)
    parts = [work.part(number) for number in numbers]
    failed = _failed(parts, job)
    rows.join(parts, target, (job.into, job.error_column))
    shutil.rmtree(work.parts)
    return BatchSummary(target, found.count, failed, before)


def _checked(data: Path, out: Path, job: Job, chunk: int, replicas: int | None) -> RowFile:
    for name, value in (("chunk", chunk), ("replicas", replicas)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RequestError(f"{name} {value!r} must be a whole number above 0")
    rows.check_suffix(out, "the output")
    if out.exists():
        raise RequestError(f"{out} is there already; remove it, or name another file")
    if not out.absolute().parent.is_dir():
        raise RequestError(f"there is no folder {out.parent} to write {out.name} to")
    found = rows.open_rows(data)
    if not found.count:
        raise RequestError(f"{data} has no rows")
    # The first one that can be read says what columns there are.
    for row in found.read(0, chunk):
        if row.fault is None:
            job.check(row)
            break
    return found


def _begin(work: Work) -> None:
    """Make the folder of parts, or make sure that the one which is there is of the same work."""
    described = {
        "data": rows.digest(work.data),
        "model": work.model,
        "loading": _described(work.loading),
        "chunk": work.chunk,
        "job": _described(work.job),
    }
    file = work.parts / JOB_FILE
    if not file.exists():
        work.parts.mkdir(exist_ok=True)
        write_text(file, json.dumps(described, indent=2) + "\n")
        return
    before = _read_job(file)
    for name, value in described.items():
        if before.get(name) != value:
            raise RequestError(
                f"{work.parts} holds answers to other work ({name} was another); go on with that as it was begun, or "
                f"remove the folder"
            )


def _here(work: Work, numbers: Sequence[int], data: RowFile) -> Iterator[Done]:
    if not numbers:
        return
    worker = Worker(work.job, work.model, work.loading)
    try:
        for number in numbers:
            yield work.do(number, worker, data)
    finally:
        worker.close()


def _same_weights(work: Work, digest: str) -> None:
    """Raise RedraftError where a chunk was answered by other weights than the first one."""
    file = work.parts / JOB_FILE
    described = _read_job(file)
    known = described.get("weights")
    if known is None:
        write_text(file, json.dumps({**described, "weights": digest}, indent=2) + "\n")
    elif known != digest:
        raise RedraftError(
            f"model {work.model!r} has weights {digest[:12]} on one replica, and {known[:12]} on another, or when this "
            f"was begun; put the same checkpoint everywhere, and remove {work.parts}"
        )


def _read_job(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{file} is damaged: {error}; remove the folder {file.parent.name}") from error
    return found


def _rows_of(work: Work, numbers: Sequence[int]) -> int:
    return sum(work.part(number).read_bytes().count(b"\n") for number in numbers)


def _failed(parts: Sequence[Path], job: Job) -> int:
    lines = (line for part in parts for line in part.read_text(encoding="utf-8").splitlines())
    return sum(json.loads(line)[job.error_column] is not None for line in lines)


def _described(value: Any) -> str:
    """Return what tells arguments from others: their digest."""
    return hashlib.sha256(_text(value).encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{type(value).__qualname__}({_text(fields)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_text(value[key])}' for key in sorted(value, key=repr))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)
