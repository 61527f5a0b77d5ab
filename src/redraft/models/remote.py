"""A checkpoint on the hub, read as far as its headers: judged before its weights are fetched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from redraft.models import checkpoint, hub
from redraft.models.checkpoint import Checkpoint
from redraft.models.hub import Repository


@contextmanager
def read_headers(repository: Repository) -> Iterator[Checkpoint]:
    """Read a repository's configuration and the headers of its weights; the checkpoint's path is its name on the hub.

    Raises CheckpointError for what would not load.
    """
    hub.judge(repository)
    with hub.headers(repository) as folder:
        yield replace(checkpoint.read(folder), path=Path(repository.name))


def is_here(name: str, revision: str | None = None) -> bool:
    """Tell whether nothing of a checkpoint has to be fetched."""
    return checkpoint.find_local(name) is not None or hub.find_cached(name, revision) is not None
