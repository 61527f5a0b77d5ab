"""Keeps what happens in a generation: a recorder listens to its steps, a folder keeps a file a request."""

import re
import secrets
import tempfile
import threading
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from redraft.engine.request import Request
from redraft.engine.result import Result, StepEvent
from redraft.engine.runtime import Runtime
from redraft.errors import RecordingError
from redraft.record.described import described, plain, prompt_digest
from redraft.record.recording import Recording, draws_of, result_object
from redraft.record.steps import Steps
from redraft.tasks.choose import ChooseResult, Reading
from redraft.tasks.gaps import Gaps
from redraft.tasks.read_slots import SlotReading, SlotsRead

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_ID = 80


class Recorder:
    """An ``on_step`` callback that keeps the steps, until ``finish`` or ``fail`` makes a recording of them.

    One thread at a time may call it; which, does not matter.
    """

    def __init__(
        self,
        request: Request,
        runtime: Runtime,
        id: str | None = None,
        *,
        keep_prompt: bool = True,
        reading: Reading | SlotReading | Gaps | None = None,
    ) -> None:
        """``id``: part of the file's name, by default a random one. ``keep_prompt``: without, only how many tokens the
        prompt has, and their SHA-256; what was generated is kept all the same, and so are a constraint and a draft.
        ``reading``: of a request for decisions, slots or gaps, what is read off its canvases; the text that strings are
        held to is kept as the prompt is.

        Raises RecordingError for an engine that ``redraft.load`` did not make, whose weights cannot be told.
        """
        origin = runtime.origin
        if origin is None:
            raise RecordingError(
                "only an engine that redraft.load has made can be recorded: others' weights are unknown"
            )
        self.id = _NOT_IN_A_NAME.sub("-", id or secrets.token_hex(4))[:_LONGEST_ID]
        self.began = datetime.now(UTC).isoformat(timespec="microseconds")
        self.noise = plain(runtime.corruption.noise)
        self.request = described(request)
        if not keep_prompt:
            self.request["prompt"] = prompt_digest(request.prompt)
            if isinstance(reading, SlotReading):
                reading = replace(reading, quoted=None)
        self.model = {"name": origin.source, "weights": origin.digest, "tokenizer": origin.tokenizer}
        self.computed = {
            "dtype": origin.dtype,
            "device": origin.device,
            "kernels": origin.kernels,
            "prefill_chunk": origin.prefill_chunk,
            "window_policy": origin.window_policy,
        }
        self._deadline = request.deadline
        self._read = None if reading is None else plain(reading)
        self._recorded = False
        self.begin()

    def begin(self) -> "Recorder":
        """Forget the steps so far: the request begins again from its start."""
        self._steps = Steps(draws_of(self.request, self.noise))
        return self

    def __call__(self, event: StepEvent) -> None:
        """Take in one step."""
        self._steps.add(event)

    def __len__(self) -> int:
        """Return the number of steps there were."""
        return len(self._steps)

    def finish(self, result: Result | ChooseResult | SlotsRead) -> Recording:
        """The recording of a request that was answered; ``result`` is the ``Generation``'s, or that of decisions or
        slots."""
        return self._done(result_object(result), None)

    def fail(self, error: BaseException) -> Recording:
        """The recording of a request that ended with an error, as far as it came."""
        return self._done(None, {"type": type(error).__name__, "message": str(error)})

    def _done(self, result: dict[str, Any] | None, error: dict[str, str] | None) -> Recording:
        if self._recorded:
            raise RuntimeError("this request is recorded already")
        self._recorded = True
        kept = None if self._deadline is None else self._deadline.as_object()
        if kept is not None:
            self.request["deadline"] = kept
        return Recording(
            id=self.id,
            began=self.began,
            versions={"redraft": version("redraft"), "torch": torch.__version__},
            model=self.model,
            computed=self.computed,
            noise=self.noise,
            request=self.request,
            result=result,
            error=error,
            arrays=self._steps.arrays(),
            read=self._read,
        )


class FileRecorder(Recorder):
    """A recorder whose recording becomes a file."""

    def __init__(
        self,
        folder: Path,
        request: Request,
        runtime: Runtime,
        id: str | None,
        keep_prompt: bool,
        reading: Reading | SlotReading | Gaps | None = None,
    ) -> None:
        super().__init__(request, runtime, id, keep_prompt=keep_prompt, reading=reading)
        self._folder = folder
        self.path: Path | None = None
        """The file, once there is one."""

    def _done(self, result: dict[str, Any] | None, error: dict[str, str] | None) -> Recording:
        recording = super()._done(result, error)
        self.path = recording.save(self._folder)
        return recording


class RecordingFolder:
    """A folder with a file for every request that was recorded. Safe for use from several threads."""

    def __init__(self, path: str | Path, *, keep_prompts: bool = True) -> None:
        """Make the folder if it is not there. ``keep_prompts`` as in ``Recorder``.

        Raises RecordingError if it cannot be made, or nothing can be written to it.
        """
        self.path, self._keep_prompts = Path(path), keep_prompts
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RecordingError(f"recordings cannot be written to {self.path}: {error}") from error
        self._lock = threading.Lock()

    def recorder(
        self,
        request: Request,
        runtime: Runtime,
        reading: Reading | SlotReading | Gaps | None = None,
        id: str | None = None,
    ) -> FileRecorder:
        """Make a recorder for one request; its ``finish`` or ``fail`` writes the file.

        ``reading``: of a request for decisions, slots or gaps, what is read off its canvases. The first recorder for a
        model may have to read its weight files through.
        """
        with self._lock:
            return FileRecorder(self.path, request, runtime, id, self._keep_prompts, reading)
