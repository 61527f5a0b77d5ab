"""The measurements of a training run: one JSON object a line, and the curves drawn from it."""

import json
from collections.abc import Mapping
from pathlib import Path

from redraft.files import replacing, write_text


class Metrics:
    """The log ``metrics.jsonl`` of a run folder. Lines after the step a run resumes from are dropped: it writes them
    again."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        self._path = folder / "metrics.jsonl"
        self._rows = []
        if self._path.exists():
            rows = [json.loads(line) for line in self._path.read_text().splitlines()]
            self._rows = [row for row in rows if row["step"] <= resumed_at]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **{name: round(value, 6) for name, value in values.items()}}
        self._rows.append(row)
        with self._path.open("a") as log:
            log.write(json.dumps(row) + "\n")

    def draw(self, path: Path) -> None:
        """Loss above, every other rate below, over optimizer steps; written as a PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
        losses = [(row["step"], row["loss"]) for row in self._rows if "loss" in row]
        above.plot(*zip(*losses, strict=True), color="tab:blue", linewidth=1)
        above.set(ylabel="loss (nats per position)", yscale="log")
        names = sorted({name for row in self._rows for name in row if name.startswith("solve rate")})
        for name in names:
            points = [(row["step"], 100 * row[name]) for row in self._rows if name in row]
            below.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name)
        below.set(xlabel="optimizer steps", ylabel="puzzles solved (%)" if names else "", ylim=(0, 102))
        if names:
            below.legend()
        for axis in (above, below):
            axis.grid(alpha=0.3)
        with replacing(path) as new:
            figure.savefig(new, dpi=120)
        plt.close(figure)
