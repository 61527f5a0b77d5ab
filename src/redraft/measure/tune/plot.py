"""A tuning for print: what each setting costs and how often it is right, and the front of what is worth its cost."""

from pathlib import Path

from redraft.files import replacing
from redraft.measure.tune.front import Tuning


def plot(tuning: Tuning, path: Path) -> None:
    """Write the figure; ``calibrate.plot.check_plot`` says before any work whether it can be made."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    by, front = tuning.by, tuning.front
    figure, axes = plt.subplots(figsize=(6.5, 3.8 + 0.16 * len(front)), layout="constrained")
    rest = [one for one in tuning.trials if one not in front and one.cost(by) < float("inf")]
    axes.scatter(
        [one.cost(by) for one in rest], [one.right.value for one in rest], s=18, color="#b0b0b0", label="others"
    )
    costs, shares = [one.cost(by) for one in front], [one.right.value for one in front]
    ends = [
        [one.right.value - (one.right.low or 0.0) for one in front],
        [(one.right.high or 1.0) - one.right.value for one in front],
    ]
    axes.errorbar(
        costs, shares, yerr=ends, color="#1f5a92", marker="o", markersize=4, linewidth=1, elinewidth=0.8, capsize=2,
        drawstyle="steps-post", label="worth their cost",
    )  # fmt: skip
    chosen = tuning.recommended
    axes.scatter(
        [chosen.cost(by)], [chosen.right.value], s=120, facecolors="none", edgecolors="#0e3558", linewidths=1.5,
        label="recommended", zorder=3,
    )  # fmt: skip
    for number, place in enumerate(zip(costs, shares, strict=True), 1):
        axes.annotate(str(number), place, xytext=(5, -10), textcoords="offset points", fontsize=8, color="#1f5a92")
    names = (f"{number}: {one.setting.name}" for number, one in enumerate(front, 1))
    figure.supxlabel("\n".join(names), fontsize=7.5, x=0.01, ha="left", color="#444444")
    axes.set_xlabel(f"{by} an answer, mean")
    axes.set_ylabel("share of right items; whiskers: 95% interval")
    axes.set_ylim(0, 1.05)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as new:
        figure.savefig(new, dpi=200)
    plt.close(figure)
