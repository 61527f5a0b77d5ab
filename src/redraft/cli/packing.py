"""Tells of weights that are packed for the kernels before they are first used: what, where to, how large, how far."""

from collections.abc import Iterator
from contextlib import contextmanager

from redraft.cli import talk
from redraft.models.packed_cache import OnPacking, PackingStep


@contextmanager
def told() -> Iterator[OnPacking]:
    """Make a listener to packing: a line before it, and in a terminal a bar while it lasts."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn("packing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = not errors.is_terminal or talk.level() == talk.QUIET
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        tasks: list[TaskID] = []

        def tell(step: PackingStep) -> None:
            if not tasks:
                talk.note(announcement(step))
                tasks.append(bar.add_task("packing", total=step.total))
            bar.update(tasks[0], completed=step.done)

        yield tell


def announcement(step: PackingStep) -> str:
    """Say what will be packed, how large it is, and where it will lie."""
    what = f"first load: packing {step.source.name} as {step.format} for the kernels, about {step.total / 1e9:.1f} GB"
    if step.folder is not None:
        return f"{what}, kept in {step.folder} (another place, or none: --pack-folder)"
    return f"{what}, not kept: {step.reason}"
