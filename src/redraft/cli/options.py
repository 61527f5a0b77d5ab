"""Options that several verbs share."""

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from redraft.engine.engine import Engine
    from redraft.models.checkpoint import DType

Model = Annotated[
    str, typer.Option("--model", "-m", help="A bundled name, a checkpoint folder, or a hub id.", show_default=True)
]
DTypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, int8 or int4.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads; by default one a core.")]


def load_engine(model: str, dtype: str, threads: int | None, **more: Any) -> "Engine":
    """Load a model for a verb, on the number of threads it was given; ``more`` as in ``redraft.load``."""
    import redraft
    from redraft.kernels.library import use_threads

    if threads is not None:
        use_threads(threads)
    return redraft.load(model, dtype=cast("DType", dtype), **more)
