"""Tells of weights that are packed for the kernels before they are first used: what, where to, how large, how far."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from redraft.cli import talk

if TYPE_CHECKING:
    from redraft.models.packed_cache import OnPacking, PackingStep


@contextmanager
def told() -> "Iterator[OnPacking]":
    """Make a listener to packing: a line before it, and in a terminal a bar while it lasts."""
    with writing("packing") as on_bytes:
        begun: list[PackingStep] = []

        def tell(step: "PackingStep") -> None:
            if not begun:
                talk.note(announcement(step))
                begun.append(step)
            on_bytes(step.done, step.total)

        yield tell


@contextmanager
def writing(what: str = "writing") -> Iterator[Callable[[int, int], None]]:
    """Make a listener to bytes that are there, of so many: in a terminal it draws a bar."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = not errors.is_terminal or talk.level() == talk.QUIET
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def announcement(step: "PackingStep") -> str:
    """Say what will be packed, how large it is, and where it will lie."""
    what = f"first load: packing {step.source.name} as {step.format} for the kernels, about {step.total / 1e9:.1f} GB"
    if step.folder is not None:
        return f"{what}, kept in {step.folder} (another place, or none: --pack-folder)"
    return f"{what}, not kept: {step.reason}"
