"""Charts of an evaluation: bars per joint, and accuracy against threshold.

Importing this module requires matplotlib: import it only when a chart is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, writing
from hgfast.skeletons import Skeleton
from hgfast.visualization.draw import Image

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise HgfastError("charts require matplotlib: pip install matplotlib, or leave out --bars, --curve and --out") from error

DPI = 130
BAR_HEIGHT = 0.22  # inches per bar
GRAY = (128, 128, 128)


def joint_colors(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """Return a color per joint: the most frequent one of its edges, `GRAY` in case of a tie."""
    colors = []
    for joint in range(len(skeleton.joints)):
        edges = zip(skeleton.edges, skeleton.colors)
        first, second, *_ = [*Counter(c for edge, c in edges if joint in edge).most_common(2), (GRAY, 0), (GRAY, 0)]
        colors.append(first[0] if first[1] > second[1] else GRAY)
    return colors


def draw_bars(path: Path, rows: Sequence[Mapping[str, Any]], skeleton: Skeleton, max_value: float, title: str) -> None:
    """Draw a bar for each joint and metric in the colors of the skeleton; NaN has no bar.

    path: with suffix .png, .svg or .pdf. rows: one per joint of the skeleton: "joint", its name, and metrics by name.
    max_value: maximum of the first metric.
    """
    names = [name for name in rows[0] if name != "joint"]
    figure = Figure(figsize=(2.5 + 3.5 * len(names), 1.2 + BAR_HEIGHT * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    colors = [tuple(level / 255 for level in color) for color in joint_colors(skeleton)]
    positions = range(len(rows))
    for ax, name in zip(axes, names):
        values = [row[name] for row in rows]
        largest = max_value if name == names[0] else max((value for value in values if value == value), default=0.0)
        bars = ax.barh(positions, values, color=colors, height=0.75, edgecolor="black", linewidth=0.3)
        bar_labels = [
            f" {value:.{1 if value >= 10 else 2}f}" if value == value else "" for value in values
        ]  # NaN is not equal to itself
        ax.bar_label(bars, bar_labels, fontsize=7)
        ax.set_yticks(positions, [str(row["joint"]) for row in rows], fontsize=8, parse_math=False)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(0, 1.15 * largest or 1.0)
        ax.set_title(name, fontsize=9)
        ax.tick_params(axis="x", labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path, "--bars", title)


def draw_curves(
    path: Path,
    thresholds: NDArray[Any],
    curves: Mapping[str, NDArray[Any]],
    axis_labels: tuple[str, str],
    max_value: float,
    title: str,
) -> None:
    """Draw curves by name, each (T,) accuracies at (T,) thresholds; `axis_labels` are of the thresholds and the accuracies."""
    write_figure(_curve_figure(thresholds, curves, axis_labels, max_value), path, "--curve", title)


def curve_image(
    thresholds: NDArray[Any], curves: Mapping[str, NDArray[Any]], labels: tuple[str, str], max_value: float, title: str
) -> Image:
    """Return the chart of `draw_curves` as an image (H, W, 3)."""
    figure = _curve_figure(thresholds, curves, labels, max_value)
    figure.suptitle(title, fontsize=9, parse_math=False)
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _curve_figure(
    thresholds: NDArray[Any], curves: Mapping[str, NDArray[Any]], labels: tuple[str, str], max_value: float
) -> Figure:
    """Return the figure of `draw_curves`."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(thresholds, values, label=name)
    axes.set_xlim(0, thresholds[-1])
    axes.set_ylim(0, max_value)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def write_figure(figure: Figure, path: Path, flag: str, title: str = "") -> None:
    """Write a figure atomically in the format of the suffix. flag: named in the `HgfastError` raised if that fails."""
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)
    with writing(path, f"choose another file with {flag}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temp_path:
            figure.savefig(temp_path, format=path.suffix[1:].lower(), dpi=DPI)
