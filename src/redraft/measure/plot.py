"""Seconds per answer as grouped bars with their spread, for print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from redraft.files import replacing
from redraft.measure.benchmark import SECONDS, Measurement
from redraft.measure.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by lightness and hatching too, for readers without colour.
_OURS = (("#0e3558", ""), ("#1f5a92", ""), ("#4f93ce", ""), ("#8dc0ea", ""), ("#c5e0f5", ""))
_THEIRS = (("#8a8a8a", "///"), ("#c4c4c4", "\\\\\\"))


def plot(report: Report, path: Path) -> None:
    """Write the figure: a panel a prompt length, a group of bars an answer length, a bar a contender.

    ``calibrate.plot.check_plot`` says before any measuring whether it can be made.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(report.loaded)
    prompts = sorted({len(m.workload.prompt) for m in report.measurements})
    groups = len(report.measurements) / len(prompts)
    width = 1.2 + len(prompts) * groups * (0.6 + 0.45 * len(names))
    figure, panels = plt.subplots(1, len(prompts), figsize=(max(6.5, width), 4.2), squeeze=False, layout="constrained")
    for axes, prompt in zip(panels[0], prompts, strict=True):
        measurements = [m for m in report.measurements if len(m.workload.prompt) == prompt]
        _panel(axes, measurements, _styles(report))
        axes.set_title(f"prompt of {prompt:,} tokens", loc="left", fontsize=10)
    panels[0][0].set_ylabel("seconds per answer")
    columns = len(names) if len(names) <= 3 else (len(names) + 1) // 2
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    machine, settings = report.machine, report.settings
    figure.supxlabel(
        f"{Path(settings.model).name} on {machine.processor}, {machine.cores} usable cores, torch {machine.torch}. "
        f"Median of {settings.rounds} rounds in alternation; whiskers: min to max.\n"
        "Above a bar: times as fast as the reference of its group, the median of ratios within a round.",
        fontsize=7.5,
        x=0.01,
        ha="left",
        color="#444444",
    )
    with replacing(path) as new:
        figure.savefig(new, dpi=200)
    plt.close(figure)


def _styles(report: Report) -> dict[str, tuple[str, str]]:
    """Choose a colour and a hatch for each contender."""
    theirs = set(report.measurements[0].references) if len(report.loaded) > 1 else set()
    styles: dict[str, tuple[str, str]] = {}
    for palette, names in (
        (_OURS, [name for name in report.loaded if name not in theirs]),
        (_THEIRS, [name for name in report.loaded if name in theirs]),
    ):
        styles |= {name: palette[index % len(palette)] for index, name in enumerate(names)}
    return {name: styles[name] for name in report.loaded}


def _panel(axes: "Axes", measurements: Sequence[Measurement], styles: Mapping[str, tuple[str, str]]) -> None:
    bar = 0.8 / len(styles)
    for place, (name, (colour, hatch)) in enumerate(styles.items()):
        for group, measurement in enumerate(measurements):
            spread, ratios = measurement.spread(name, SECONDS), measurement.ratios(SECONDS)
            if spread is None:
                continue
            x, (low, high) = group + (place - (len(styles) - 1) / 2) * bar, spread.extremes
            axes.bar(
                x, spread.median, 0.92 * bar, color=colour, hatch=hatch, edgecolor="white", linewidth=0,
                yerr=[[spread.median - low], [high - spread.median]],
                error_kw={"elinewidth": 1, "capsize": 2.5, "capthick": 1, "ecolor": "#222222"},
                label=name if group == 0 else None,
            )  # fmt: skip
            if ratios is not None:
                own = name != ratios.reference
                axes.annotate(
                    f"{ratios.by_contender[name].median:.2f}\u00d7" if own else "reference", (x, high),
                    xytext=(0, 3), textcoords="offset points", ha="center", va="bottom",
                    fontsize=9 if own else 7, color="black" if own else "#555555",
                )  # fmt: skip
    axes.set_xticks(range(len(measurements)), [f"up to {m.workload.max_tokens:,} tokens" for m in measurements])
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
