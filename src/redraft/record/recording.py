"""One recorded request, and its file: a zip of ``header.json`` and numpy arrays, as ``numpy.load`` opens it."""

import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redraft.canvas.corruption import AbsorbingCorruption, Corruption, MaskNoise, UniformCorruption
from redraft.canvas.draft import Draft
from redraft.canvas.noise import UniformNoise
from redraft.constrain.language.template import Hole
from redraft.engine.result import Result, StepEvent
from redraft.errors import RecordingError
from redraft.record.described import restored
from redraft.record.steps import NAMES, Draws
from redraft.record.steps import read as read_steps
from redraft.tasks.choose import ChooseResult, Reading
from redraft.tasks.gaps import Gaps
from redraft.tasks.read_slots import SlotReading, SlotsRead

FORMAT, SUFFIX = "redraft recording", ".npz"
VERSION = 4
_HEADER = "header.json"
_OPTIONAL = ("arrays", "read")
# The entry of the header that says what is read off canvases, by its kind. Generations have none, and are of the first
# version; decisions came with the second, slots with the third, gaps in slots with the fourth.
_READ = {Reading.__name__: "decision", SlotReading.__name__: "slots", Gaps.__name__: "gaps"}
# Files of the same contents are the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Recording:
    """A record of what was asked, of which model, what computed it, every denoising step, and what came of it."""

    id: str
    began: str
    """ISO 8601, UTC."""
    versions: Mapping[str, str]
    """The versions of redraft and torch."""
    model: Mapping[str, Any]
    """``name``, ``weights`` and ``tokenizer``: SHA-256, see ``models.digest``."""
    computed: Mapping[str, Any]
    """``dtype``, ``device``, ``kernels``, ``prefill_chunk``, ``window_policy``: what rounding depends on."""
    noise: Mapping[str, Any]
    request: Mapping[str, Any]
    """The parameters by the names of ``request.generate``, the prompt as token ids, or their number and SHA-256."""
    result: Mapping[str, Any] | None
    """The fields of ``Result``, of slots with ``confidence``, or of ``ChooseResult``; None where the request failed."""
    error: Mapping[str, str] | None
    """``type`` and ``message`` of what ended it."""
    arrays: Mapping[str, NDArray[Any]]
    """The steps, see ``record.steps``."""
    read: Mapping[str, Any] | None = None
    """The reading of a request for decisions, slots or gaps: what was read off canvases; see ``reading``."""

    @cached_property
    def events(self) -> list[StepEvent]:
        """The steps as they were handed out, bit for bit."""
        return read_steps(self.arrays, draws_of(self.request, self.noise), self.request["max_denoising_steps"])

    @cached_property
    def reading(self) -> Reading | SlotReading | Gaps | None:
        """The reading of a request for decisions, slots or gaps; None for any other."""
        found = restored(self.read)
        if not isinstance(found, Reading | SlotReading | Gaps | None):
            raise ValueError("what it says was read is no reading")
        return found

    @property
    def header(self) -> dict[str, Any]:
        """All but the steps, as the file has it."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "arrays"}
        read, version = own.pop("read"), 1
        if read is not None:
            own[_READ[read["is"]]] = read
            version = VERSION if read["is"] == Gaps.__name__ else 2 if read.get("layout") == "text" else 3
        return {"format": FORMAT, "version": version, **own}

    @property
    def name(self) -> str:
        """The name of its file, without the suffix; names sort by time."""
        return f"{self.began.replace('-', '').replace(':', '').replace('+0000', 'Z')}-{self.id}"

    def save(self, folder: Path) -> Path:
        """Write a file into ``folder`` and return it. There is the whole file or none; nothing is overwritten.

        Raises RecordingError where that fails.
        """
        content = self._packed()
        aside = folder / f".{self.name}.{secrets.token_hex(4)}.part"
        try:
            try:
                with aside.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                return _put(aside, folder, self.name)
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise RecordingError(f"the recording cannot be written to {folder}: {error}") from error

    def _packed(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            header = json.dumps(self.header, ensure_ascii=True, separators=(",", ":"))
            archive.writestr(_entry(_HEADER), header)
            for name in NAMES:
                array = io.BytesIO()
                np.lib.format.write_array(array, np.ascontiguousarray(self.arrays[name]), allow_pickle=False)
                archive.writestr(_entry(f"{name}.npy"), array.getvalue())
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> "Recording":
        """Read a recording; RecordingError for a file that is none, is damaged, or was made by a newer redraft."""
        try:
            with zipfile.ZipFile(path) as archive:
                header = _header(path, archive)
                recording = cls(
                    **{field.name: header[field.name] for field in fields(cls) if field.name not in _OPTIONAL},
                    read=next((header[entry] for entry in _READ.values() if entry in header), None),
                    arrays={name: _array(archive, name) for name in NAMES},
                )
            # What cannot be read is to be told now, not when somebody draws it.
            recording._check()
        except FileNotFoundError:
            raise RecordingError(f"there is no recording {path}") from None
        except _BROKEN as error:
            raise RecordingError(f"{path} is no recording, or is damaged: {error or type(error).__name__}") from error
        return recording

    def _check(self) -> None:
        for name in ("versions", "model", "computed", "noise", "request"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"its {name} is not an object")
        for name in ("result", "error"):
            if not isinstance(getattr(self, name), dict | None):
                raise ValueError(f"its {name} is not an object")
        if self.result is None and self.error is None:
            raise ValueError("it has neither a result nor an error")
        for name, value in {"id": self.id, "began": self.began, "model": self.model["name"]}.items():
            if not isinstance(value, str):
                raise ValueError(f"its {name} is not a text")
        len(self.events)
        match self.reading:
            case Reading(questions=questions) if not isinstance(questions, dict):
                raise ValueError("its questions are not an object")
            case Gaps() as gaps if not _whole(gaps):
                raise ValueError("its gaps do not fit together")
            case SlotReading(schema=schema) if not isinstance(schema, str):
                raise ValueError("its schema is not a text")
            case SlotReading(characters=int(), quoted=None) if isinstance(self.request["prompt"], list):
                raise ValueError("it does not have the text that its strings are held to")


_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError),
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError),
)


# What the noise that a recording names belongs to.
_CORRUPTIONS: dict[str, Callable[[Any], Corruption]] = {
    UniformNoise.__name__: UniformCorruption,
    MaskNoise.__name__: AbsorbingCorruption,
}


def draws_of(request: Mapping[str, Any], noise: Mapping[str, Any]) -> Draws | None:
    """Make what a described request's seed puts on a canvas; None where its noise is not one that is known."""
    kind = _CORRUPTIONS.get(str(noise.get("is")))
    if kind is None:
        return None
    draft = restored(request["draft"])
    if not isinstance(draft, Draft | None):
        raise ValueError("its draft is not a draft")
    return Draws(
        request["seed"], kind(restored(noise)), draft, request["canvas_length"], request["max_denoising_steps"]
    )


def result_object(result: Result | ChooseResult | SlotsRead) -> dict[str, Any]:
    """A result as JSON has it; of results with more fields, those that every result has, of slots their confidences
    too."""
    if isinstance(result, SlotsRead):
        return {**result_object(result.result), "confidence": result.confidence}
    if isinstance(result, ChooseResult):
        answers = {name: decision.probabilities for name, decision in result.answers.items()}
        return {**asdict(result), "answers": answers}
    own = {field.name: getattr(result, field.name) for field in fields(Result)}
    return json.loads(json.dumps({**own, "usage": asdict(result.usage)}))


def _whole(gaps: Gaps) -> bool:
    """Tell whether there is a hole and a width for each gap, and text around all."""
    holes, widths, between = gaps.holes, gaps.widths, gaps.between
    return (
        0 < len(holes) == len(widths) == len(between) - 1
        and all(isinstance(one, Hole) for one in holes)
        and all(type(one) is int and one > 0 for one in widths)
        and all(isinstance(one, str) for one in between)
    )


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _NO_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _put(aside: Path, folder: Path, name: str) -> Path:
    """Give a file that is whole its name, or with a number behind it the next one that is free."""
    number = 1
    while True:
        path = folder / f"{name}{'' if number == 1 else f'-{number}'}{SUFFIX}"
        try:
            # Unlike a rename, a link never replaces what is there.
            os.link(aside, path)
            return path
        except FileExistsError:
            number += 1
        except OSError:
            if path.exists():
                number += 1
                continue
            # Not every file system has links.
            aside.rename(path)
            return path


def _header(path: str | Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    if _HEADER not in archive.namelist():
        raise ValueError(f"it has no {_HEADER}")
    header = json.loads(archive.read(_HEADER))
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"its {_HEADER} is not that of a recording")
    version = header.get("version")
    if isinstance(version, int) and version > VERSION:
        raise RecordingError(
            f"{path} was recorded by a newer redraft (format {version}; this one reads up to {VERSION}); update redraft"
        )
    if version not in range(1, VERSION + 1):
        raise ValueError(f"its version {version!r} is unknown")
    return header


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    content = io.BytesIO(archive.read(f"{name}.npy"))
    array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    if content.read(1):
        raise ValueError(f"{name} is followed by something else")
    return array
