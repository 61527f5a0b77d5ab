"""The process a contender lives in: it loads, says so, and answers one workload a line until its input ends."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from redraft.errors import RedraftError
from redraft.measure.memory import peak_bytes, resident_bytes
from redraft.measure.workload import Contender, RedraftContender, Workload
from redraft.models.checkpoint import DType


@dataclass(frozen=True)
class ContenderSpec:
    """The contender that a process is to load."""

    implementation: Literal["redraft", "transformers"]
    folder: str
    dtype: str
    threads: int | None
    """None for the implementation's own choice."""
    device: str = "auto"
    """The device, as in ``redraft.load``; the reference is on the CPU."""


@dataclass(frozen=True)
class Loaded:
    """The report of a process whose contender can answer. Memory is the resident set, in bytes."""

    threads: int
    """Threads of the compiled kernels where they are in use, else of torch."""
    libraries_bytes: int | None
    """Memory with the libraries imported and no model."""
    loaded_bytes: int | None
    """Memory with the model loaded; weights mapped from files count once they are read."""


def _importer(spec: ContenderSpec) -> Callable[[], Contender]:
    folder = Path(spec.folder)
    if spec.implementation == "transformers":
        from redraft.measure.reference import TransformersContender

        return lambda: cast(Contender, TransformersContender(folder, spec.dtype))  # type: ignore[arg-type]
    return lambda: RedraftContender.load(folder, cast(DType, spec.dtype), spec.device)


def serve(spec: ContenderSpec, requests: Any, reply: Callable[[dict[str, Any]], None]) -> None:
    """Load ``spec`` and answer the lines of ``requests``."""
    import torch

    from redraft.kernels import library

    if spec.threads is not None:
        library.use_threads(spec.threads)
    load = _importer(spec)
    libraries = resident_bytes()
    contender = load()
    ours = library.status().threads if spec.implementation == "redraft" else None
    reply({"loaded": asdict(Loaded(ours or torch.get_num_threads(), libraries, resident_bytes()))})
    for line in requests:
        request = json.loads(line)
        workload = Workload(tuple(request["prompt"]), request["max_tokens"], request["steps"])
        run = contender.answer(workload, request["seed"])
        reply({"run": asdict(replace(run, peak_bytes=peak_bytes()))})


def main() -> None:
    """Speak JSON lines; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        serve(ContenderSpec(**json.loads(sys.argv[1])), sys.stdin, reply)
    except RedraftError as error:
        reply({"error": str(error)})
    # The parent has no traceback of another process: it gets what failed in words, and the rest on standard error.
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
