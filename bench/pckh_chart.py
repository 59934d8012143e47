"""PCK(h) against its threshold, in total and by joint group. What may enter: drawing with matplotlib, which only charts need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hgfast.errors import HgfastError
from hgfast.metrics import Curve

try:
    from matplotlib.figure import Figure

    from hgfast.charts import write_figure
except ImportError as error:
    raise HgfastError("charts are drawn by matplotlib: pip install matplotlib, or leave out --chart") from error

COLUMNS = 4


def draw(curves: Mapping[str, Curve], path: Path, title: str, labels: tuple[str, str], whole: float) -> None:
    """A panel for the total and one for each group, a line in each for every method.

    Args:
        curves: by method, all with the same thresholds and groups; shares of `whole`.
        labels: of the thresholds and of the shares.

    Raises:
        HgfastError: the file cannot be written.
    """
    first = next(iter(curves.values()))
    panels = ["total", *first.groups]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(1 + 2.9 * min(COLUMNS, len(panels)), 0.6 + 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, min(COLUMNS, len(panels)), squeeze=False, sharex=True, sharey=True).flat
    for axis, panel in zip(axes, panels):
        for method, curve in curves.items():
            shares = curve.total if panel == "total" else curve.groups[panel]
            axis.plot(curve.thresholds, shares, label=method, linewidth=2 if panel == "total" else 1.2)
        axis.set_title(panel, fontsize=10, parse_math=False)
        axis.set_xlim(first.thresholds[0], first.thresholds[-1])
        axis.set_ylim(0, whole)
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
