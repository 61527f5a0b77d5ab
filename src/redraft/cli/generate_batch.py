"""``redraft generate --batch``: the prompts of a file, answered in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redraft.cli import batch
from redraft.cli.batch import Line, whole_number

if TYPE_CHECKING:
    from redraft.cli.options import Loading, Recordings, Sampling
    from redraft.engine.generation import Generate
    from redraft.engine.result import Result

MAX_SEED = (1 << 64) - 1
_FIELDS = batch.Fields({"seed": whole_number(0, MAX_SEED), "max_tokens": whole_number(1, MAX_SEED)})


def run(
    file: Path,
    out: Path | None,
    raw: bool,
    system: str | None,
    sampling: "Sampling",
    more: Mapping[str, Any],
    loading: "Loading",
    recordings: "Recordings",
) -> None:
    """Answer all lines of ``file`` that ``out`` has no answer to.

    Raises RequestError, before a model is loaded, naming the line that is no prompt.
    """
    lines = _seeded(batch.read(file, raw, system, _FIELDS), sampling.seed)
    left = batch.left(lines, out, "answer")
    if not left:
        return
    record = recordings.folder()
    engine = loading.engine()
    from redraft.engine.generation import Generate
    from redraft.engine.scheduler import MAX_CONCURRENCY
    from redraft.tasks.objects import as_object

    parameters = {**sampling.parameters(engine), **more}

    def request(line: Line) -> "Generate":
        return Generate(engine.runtime, engine.request(line.prompt, **{**parameters, **line.given}), record)

    def shown(line: Line, result: "Result") -> dict[str, Any]:
        return as_object(result)

    # A deadline counts from when a line is asked: then none waits for others.
    window = batch.WINDOW if sampling.deadline_ms is None else min(batch.WINDOW, MAX_CONCURRENCY)
    batch.answer(engine, left, len(lines), file, out, batch.Asking("answer", request, shown, window))


def _seeded(lines: Sequence[Line], seed: int | None) -> list[Line]:
    """Give a seed to the lines that have none: neighbours that ask the same are not to get the same noise."""
    if seed is None:
        return list(lines)
    seeds = [line.given.get("seed", (seed + place) % (MAX_SEED + 1)) for place, line in enumerate(lines)]
    return [replace(line, given={**line.given, "seed": own}) for line, own in zip(lines, seeds, strict=True)]
