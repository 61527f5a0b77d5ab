"""The measurements of a training run: one JSON object a line, the curves drawn from it, and TensorBoard's events."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from redraft.errors import RedraftError
from redraft.files import replacing, write_text


class Metrics:
    """The log ``metrics.jsonl`` of a run folder. Lines after the step a run resumes from are dropped: it writes them
    again."""

    def __init__(
        self,
        folder: Path,
        resumed_at: int,
        *,
        rates: Sequence[str] = ("solve rate",),
        rates_of: str = "puzzles solved (%)",
        tensorboard: bool = False,
    ) -> None:
        """``rates``: what the names of shares from 0 to 1 begin with, which are drawn in percent of ``rates_of``.
        ``tensorboard``: events are written as well; RedraftError where its library is not installed."""
        self._path = folder / "metrics.jsonl"
        self._rates, self._rates_of = tuple(rates), rates_of
        self._events: Any = _event_writer(folder, resumed_at) if tensorboard else None
        self._rows = []
        if self._path.exists():
            self._rows = [row for row in _whole_rows(self._path.read_text()) if row["step"] <= resumed_at]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **{name: round(value, 6) for name, value in values.items()}}
        self._rows.append(row)
        with self._path.open("a") as log:
            log.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name.replace(" ", "_"), value, step)
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def draw(self, path: Path) -> None:
        """Loss above, every other rate below, over optimizer steps; written as a PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
        losses = [(row["step"], row["loss"]) for row in self._rows if "loss" in row]
        above.plot(*zip(*losses, strict=True), color="tab:blue", linewidth=1)
        above.set(ylabel="loss (nats per position)", yscale="log")
        names = sorted({name for row in self._rows for name in row if name.startswith(self._rates)})
        for name in names:
            points = [(row["step"], 100 * row[name]) for row in self._rows if name in row]
            below.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name)
        below.set(xlabel="optimizer steps", ylabel=self._rates_of if names else "", ylim=(0, 102))
        if names:
            below.legend()
        for axis in (above, below):
            axis.grid(alpha=0.3)
        with replacing(path) as new:
            figure.savefig(new, dpi=120)
        plt.close(figure)


def _event_writer(folder: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RedraftError("event files need tensorboard; install it with: pip install tensorboard") from error
    # Events after the step that a run resumes from are written again.
    return SummaryWriter(str(folder / "events"), purge_step=resumed_at + 1)


def _whole_rows(text: str) -> list[dict[str, Any]]:
    """Return the rows of a log; its last line may have been cut off by a kill, or by a full disk."""
    lines = text.splitlines()
    rows = [json.loads(line) for line in lines[:-1]]
    with suppress(ValueError):
        rows += [json.loads(line) for line in lines[-1:]]
    return rows
