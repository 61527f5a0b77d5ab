"""Reliability diagrams for print, and the check that comes before any plot."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from redraft.calibrate.calibration import ReliabilityTable, wilson_interval
from redraft.errors import RedraftError
from redraft.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise RedraftError, before any measuring, where the plot could not be made."""
    if path.suffix.lower() not in FORMATS:
        raise RedraftError(f"the plot {path} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RedraftError(f"a plot needs {error.name}; install it with: pip install 'redraft[train]'") from error


def reliability_plot(table: ReliabilityTable, path: Path) -> None:
    """Draw accuracy over confidence, with intervals of 95% (Wilson), above how many answers each bin holds.

    Raises RedraftError for a path that is no picture's, or without matplotlib.
    """
    check_plot(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (reliability, counts) = plt.subplots(
        2, 1, figsize=(4.6, 5.6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    draw_reliability(reliability, table)
    left, width = table.edges[:-1], np.diff(table.edges)
    counts.bar(left, table.counts, width, align="edge", color="#8a8a8a", edgecolor="white")
    counts.set_ylabel("answers")
    counts.set_xlabel("confidence: the probability of the answer given")
    counts.set_xlim(0, 1)
    for axes in (reliability, counts):
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as new:
        figure.savefig(new, dpi=200)
    plt.close(figure)


def draw_reliability(axes: "Axes", table: ReliabilityTable) -> None:
    """Draw accuracy over confidence into ``axes``, as ``reliability_plot`` shows it."""
    filled = table.counts > 0
    left, width = table.edges[:-1][filled], np.diff(table.edges)[filled]
    accuracy, confidence = table.accuracy[filled], table.confidence[filled]
    low, high = wilson_interval(accuracy, table.counts[filled])
    axes.plot([0, 1], [0, 1], color="#222222", linewidth=1, linestyle="--", label="as sure as right")
    axes.bar(left, accuracy, width, align="edge", color="#8dc0ea", edgecolor="white", label="share of right answers")
    axes.errorbar(
        confidence, accuracy, yerr=[accuracy - low, high - accuracy], fmt="o", color="#0e3558", markersize=3.5,
        elinewidth=1, capsize=2.5, label="at their mean confidence, 95% interval",
    )  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.set_title(
        f"{table.counts.sum():,} answers, expected calibration error {100 * table.expected_error:.1f}% "
        f"({len(table.counts)} bins)",
        loc="left",
        fontsize=9,
    )
