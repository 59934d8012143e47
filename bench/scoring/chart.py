"""Chart of PCK or PCKh against the threshold, in total and by joint group; requires matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hgfast.errors import HgfastError
from hgfast.metrics import Curve

try:
    from matplotlib.figure import Figure

    from hgfast.visualization.charts import write_figure
except ImportError as error:
    raise HgfastError("--chart requires matplotlib: pip install matplotlib, or leave out --chart") from error

PANELS_PER_ROW = 4


def draw_pckh_curves(curves: Mapping[str, Curve], path: Path, title: str, labels: tuple[str, str], full_scale: float) -> None:
    """Draw a panel for the total and one for each group, with a line per method.

    Args:
        curves: by method, all with the same thresholds and groups.
        labels: of the x axis (thresholds) and the y axis (accuracy).
        full_scale: upper limit of the y axis, the accuracy if all joints are correct.

    Raises:
        HgfastError: the file cannot be written.
    """
    first = next(iter(curves.values()))
    panels = ["total", *first.groups]
    rows = -(-len(panels) // PANELS_PER_ROW)
    figure = Figure(figsize=(1 + 2.9 * min(PANELS_PER_ROW, len(panels)), 0.6 + 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, min(PANELS_PER_ROW, len(panels)), squeeze=False, sharex=True, sharey=True).flat
    for axis, panel in zip(axes, panels):
        for method, curve in curves.items():
            accuracy = curve.total if panel == "total" else curve.groups[panel]
            axis.plot(curve.thresholds, accuracy, label=method, linewidth=2 if panel == "total" else 1.2)
        axis.set_title(panel, fontsize=10, parse_math=False)
        axis.set_xlim(first.thresholds[0], first.thresholds[-1])
        axis.set_ylim(0, full_scale)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    lines, names = axes[0].get_legend_handles_labels()
    legend = axes[0].legend(lines, names, fontsize=7, loc="upper left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.supxlabel(labels[0], fontsize=9)
    figure.supylabel(labels[1], fontsize=9)
    figure.suptitle(title, fontsize=9, parse_math=False)
    write_figure(figure, path, "--chart")
