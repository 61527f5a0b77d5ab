"""``redraft replay``: runs a recorded request again, and says whether the same comes of it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from redraft.cli import options, reading
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.engine.result import Chunk
    from redraft.models.checkpoint import DType
    from redraft.record.recording import Recording
    from redraft.record.replay import Replay

NAMES = ("recorded", "replayed")


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings, as --record keeps them.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The checkpoint, by default by the name in the recording.")
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Replay although the weights are not the recorded ones.")
    ] = False,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt, if the recording was made without it.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="That prompt is raw text, not a user's chat message.")] = False,
    dtype: Annotated[str | None, typer.Option("--dtype", help="In another format than the recorded one.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Another device than the recorded one.")] = None,
    threads: options.Threads = None,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the canvas as it resolves (in a terminal).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run recorded requests again and compare every step, token for token and entropy for entropy. The exit code is 0
    if all is identical.

    Example: redraft replay runs/20261124T101500.123456Z-4f1c09d2.npz
    """
    changed: dict[str, Any] = {}
    if prompt is not None:
        changed["prompt"] = prompt if raw else [reading.message(prompt)]
    recordings = [_recording(file) for file in files]
    engines: dict[tuple[str, ...], Engine] = {}
    shown, identical = [], True
    for file, recording in zip(files, recordings, strict=True):
        key = (str(recording.model["name"]), *(str(recording.computed[name]) for name in _COMPUTED))
        if key not in engines:
            # One model at a time: of another there may be no room beside it.
            engines = {key: _engine(recording, model, dtype, device, threads)}
        if len(files) > 1 and not as_json:
            typer.echo(f"{file}:")
        outcome = _run(recording, engines[key], any_model, watch and not as_json and sys.stdout.isatty(), changed)
        shown.append(_show(recording, outcome, engines[key], as_json))
        identical = identical and outcome.identical
    if as_json:
        # One is an object, as it always was.
        typer.echo(json.dumps(shown if len(files) > 1 else shown[0], indent=2))
    if not identical:
        raise typer.Exit(1)


_COMPUTED = ("dtype", "device", "prefill_chunk", "window_policy")


def _recording(file: Path) -> "Recording":
    from redraft.record.recording import Recording

    with reading.on_disk(file, "the recording") as path:
        return Recording.load(path)


def _show(recording: "Recording", outcome: "Replay", engine: "Engine", as_json: bool) -> dict[str, Any]:
    """Return what came of one replay, and draw it where it is not to be JSON."""
    from redraft.cli import comparison
    from redraft.record.compare import parameters

    differing = parameters(recording, outcome.recording)
    if recording.model["weights"] == outcome.recording.model["weights"]:
        # The same checkpoint, wherever it lies.
        differing.pop("model.name", None)
    pieces = (engine.tokenizer.piece, engine.tokenizer.piece)
    if not as_json:
        from rich.console import Console

        console = Console(highlight=False)
        comparison.draw(console, outcome.comparison, (recording, outcome.recording), differing, NAMES, pieces)
    return comparison.as_object(outcome.comparison, differing, pieces)


def _engine(
    recording: "Recording", model: str | None, dtype: str | None, device: str | None, threads: int | None
) -> "Engine":
    """Load the recorded model as it was loaded."""
    import redraft
    from redraft.errors import CheckpointError, RecordingError
    from redraft.kernels.library import use_threads

    if threads is not None:
        use_threads(threads)
    computed = recording.computed
    try:
        return redraft.load(
            recording.model["name"] if model is None else model,
            dtype=cast("DType", dtype or computed["dtype"]),
            device=device or computed["device"],
            prefill_chunk=computed["prefill_chunk"],
            window_policy=computed["window_policy"],
        )
    except CheckpointError as error:
        if model is not None:
            raise
        raise RecordingError(f"{error}; the recording names it so, and --model tells where it is now") from error


def _run(recording: "Recording", engine: "Engine", any_model: bool, watch: bool, changed: dict[str, Any]) -> "Replay":
    from redraft.errors import RecordingError
    from redraft.record.replay import check_model
    from redraft.record.replay import replay as run

    try:
        if not any_model:
            check_model(recording, engine)
    except RecordingError as error:
        raise RecordingError(f"{error}: --model names one, --any-model replays with this one") from None
    if not isinstance(recording.request["prompt"], list) and "prompt" not in changed:
        raise RequestError("the recording was made without its prompt; give it with --prompt")
    if not watch:
        return run(recording, engine, any_model=True, **changed)

    from rich.console import Console
    from rich.live import Live

    from redraft.cli.watch import Watcher

    with Live(console=Console(highlight=False), auto_refresh=False, transient=True) as live:
        watcher = Watcher(engine, live)

        def settle(chunk: "Chunk") -> None:
            watcher.settled += chunk.text

        return run(recording, engine, any_model=True, on_step=watcher, on_chunk=settle, **changed)
