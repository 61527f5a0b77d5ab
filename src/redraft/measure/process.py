"""A contender in a process of its own: its memory can be told apart, and a crash of it is no crash of the benchmark."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from redraft.errors import RedraftError
from redraft.measure.worker import ContenderSpec, Loaded
from redraft.measure.workload import Run, Workload


class ContenderError(RedraftError):
    """A contender could not be loaded, could not answer, or ended."""

    def __init__(self, contender: str, what: str) -> None:
        super().__init__(f"{contender}: {what}")
        self.contender = contender


class ProcessContender:
    """A contender whose process starts with ``with``, is ready when that returns, and is gone afterwards.

    Raises ContenderError for whatever goes wrong in the process.
    """

    def __init__(self, name: str, spec: ContenderSpec, environment: Mapping[str, str]) -> None:
        """``environment`` is the whole environment of the process."""
        self._name = name
        # What libraries print is shown only if the process dies without a word.
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed with it
        self._process = subprocess.Popen(
            # -P keeps the working directory off the import path.
            [sys.executable, "-P", "-m", "redraft.measure.worker", json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**environment, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"},
        )

    def __enter__(self) -> "ProcessContender":
        try:
            self.loaded = Loaded(**self._receive()["loaded"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def answer(self, workload: Workload, seed: int) -> Run:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({**asdict(workload), "seed": seed}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        run = self._receive()["run"]
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in run.items()}
        return Run(**fields)

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ContenderError(self._name, " ".join(message["error"].split()))
        return message

    def _died(self) -> ContenderError:
        code = self._process.wait()
        self._log.seek(0)
        said = [line.strip() for line in self._log if line.strip()]
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = "; the machine may be out of memory" if -code == signal.SIGKILL else ""
        return ContenderError(self._name, f"its process ended ({why}){hint}{': ' + said[-1] if said else ''}")

    def _end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        self._process.kill()
        self._process.wait()
        self._log.close()
