"""Options that several verbs share, and what they do to a process."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from redraft.engine.engine import Engine
    from redraft.models.checkpoint import DType

Model = Annotated[
    str, typer.Option("--model", "-m", help="A bundled name, a checkpoint folder, or a hub id.", show_default=True)
]
DTypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, int8 or int4.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads; by default one a core.")]


def load_engine(model: str, dtype: str, threads: int | None) -> "Engine":
    """Load a model for a verb, on the number of threads it was given."""
    import redraft

    if threads is not None:
        use_threads(threads)
    return redraft.load(model, dtype=cast("DType", dtype))


def use_threads(count: int) -> None:
    """Let torch and the kernels use so many threads each."""
    import torch

    from redraft.kernels import library

    torch.set_num_threads(count)
    library.set_threads(count)
