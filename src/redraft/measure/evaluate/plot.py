"""An evaluation for print: shares of right and wrong items, and a reliability diagram where there were decisions."""

from pathlib import Path
from typing import TYPE_CHECKING

from redraft.calibrate.plot import draw_reliability
from redraft.errors import counted
from redraft.files import replacing
from redraft.measure.evaluate.estimates import Estimate
from redraft.measure.evaluate.metrics import FAULTS, RIGHT, choice_calibration
from redraft.measure.evaluate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by lightness and hatching too, for readers without colour.
_PARTS = {
    "right": ("#4f93ce", ""),
    "wrong_values": ("#c5e0f5", ""),
    "artefacts": ("#c4c4c4", "///"),
    "failed": ("#8a8a8a", "xxx"),
}


def plot(report: Report, path: Path) -> None:
    """Write the figure: a bar a contender, with what its items are, and a reliability diagram a contender.

    ``calibrate.plot.check_plot`` says before any work whether it can be made.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tables = [(run.contender.name, found) for run in report.runs if (found := choice_calibration(run)) is not None]
    width, height = 6.5 + 4.2 * len(tables), max(2.4, 1.4 + 0.5 * len(report.runs), 4.2 if tables else 0)
    figure, panels = plt.subplots(1, 1 + len(tables), figsize=(width, height), squeeze=False, layout="constrained")
    _draw_shares(panels[0][0], report)
    for axes, (name, found) in zip(panels[0][1:], tables, strict=True):
        draw_reliability(axes, found.table)
        axes.set_xlim(0, 1)
        axes.set_xlabel("confidence: the probability of the answer given")
        if len(report.runs) > 1:
            axes.set_title(f"{name}\n{axes.get_title(loc='left')}", loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as new:
        figure.savefig(new, dpi=200)
    plt.close(figure)


def _draw_shares(axes: "Axes", report: Report) -> None:
    metrics = {metric.key: metric for metric in (RIGHT, *FAULTS) if metric.key in _PARTS}
    names = [run.contender.name for run in report.runs]
    left = [0.0] * len(names)
    for key, (colour, hatch) in _PARTS.items():
        found = [_known(metrics[key].estimate(run)) for run in report.runs]
        shares = [one.value for one in found]
        if key != "right" and not any(shares):
            continue
        axes.barh(
            names, shares, left=left, height=0.6, color=colour, hatch=hatch, edgecolor="white", linewidth=0,
            label=metrics[key].label,
        )  # fmt: skip
        if key == "right":
            ends = [
                [one.value - (one.low or 0.0) for one in found], [(one.high or 0.0) - one.value for one in found]
            ]  # fmt: skip
            axes.errorbar(shares, names, xerr=ends, fmt="none", ecolor="#222222", elinewidth=1, capsize=3, zorder=3)
        left = [before + own for before, own in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(
        f"share of {counted(len(report.reference.outcomes), 'item')}; whiskers: 95% interval of those that are right"
    )
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _known(estimate: Estimate | None) -> Estimate:
    assert estimate is not None, "every item is right or wrong"
    return estimate
