"""The progress of training: a bar in a terminal, elsewhere a line now and then."""

import time
from collections.abc import Mapping

import typer

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Loss, tokens a second and the time that is left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._console = Console()
        self._bar = Progress(
            BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=1.0)
        self._last_line = 0.0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, progress: float, values: Mapping[str, float]) -> None:
        """Show a report of training, or print a measurement above the bar."""
        if "loss" not in values:
            shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            self._console.print(f"step {step}: {shown}", highlight=False, soft_wrap=True)
            return
        shown = f"step {step}, loss {values['loss']:.3f}, {values['tokens per second']:.0f} tokens/s"
        self._bar.update(self._task, completed=progress, description=shown)
        if not self._console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            typer.echo(f"{100 * progress:.1f}%: {shown}")
