"""Options that several verbs share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from redraft.engine.engine import Engine
    from redraft.models.checkpoint import DType
    from redraft.record.recorder import RecordingFolder

Model = Annotated[
    str, typer.Option("--model", "-m", help="A bundled name, a checkpoint folder, or a hub id.", show_default=True)
]
DTypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, int8 or int4.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads; by default one a core.")]

Record = Annotated[
    Path | None, typer.Option("--record", metavar="DIR", help="Keep what happens, a file a request, in this folder.")
]
RecordPrompt = Annotated[bool, typer.Option("--record-prompt/--no-record-prompt", help="Keep the prompt as well.")]


def recordings(folder: Path | None, keep_prompts: bool) -> "RecordingFolder | None":
    """The folder for recordings, which must be writable, if one is wanted."""
    if folder is None:
        return None
    from redraft.record.recorder import RecordingFolder

    return RecordingFolder(folder, keep_prompts=keep_prompts)


def load_engine(model: str, dtype: str, threads: int | None) -> "Engine":
    """Load a model for a verb, on the number of threads it was given."""
    import redraft
    from redraft.kernels.library import use_threads

    if threads is not None:
        use_threads(threads)
    return redraft.load(model, dtype=cast("DType", dtype))
