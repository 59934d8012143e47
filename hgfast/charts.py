"""Charts of an evaluation: a bar for each joint, and accuracy against its threshold.

What may enter: drawing figures with matplotlib, which only charts need: import this module where one is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.draw import Image
from hgfast.errors import HgfastError
from hgfast.files import complete
from hgfast.skeletons import Skeleton

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise HgfastError("charts are drawn by matplotlib: pip install matplotlib, or leave out --bars, --curve and --out") from error

DPI = 130
BAR = 0.22  # inches from bar to bar
GREY = (128, 128, 128)


def joint_colours(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """A colour for each joint: the one that most of its edges have, `GREY` where no colour is ahead."""
    colours = []
    for joint in range(len(skeleton.joints)):
        edges = zip(skeleton.edges, skeleton.colours)
        first, second, *_ = [*Counter(c for edge, c in edges if joint in edge).most_common(2), (GREY, 0), (GREY, 0)]
        colours.append(first[0] if first[1] > second[1] else GREY)
    return colours


def draw_bars(path: Path, rows: Sequence[Mapping[str, Any]], skeleton: Skeleton, whole: float, title: str) -> None:
    """A bar for each joint and figure, in the colours of the skeleton; joints without a figure have none.

    Args:
        path: ends in .png, .svg or .pdf.
        rows: for each of the skeleton's joints "joint", its name, and figures by name, the first of them a share of `whole`.

    Raises:
        HgfastError: the file cannot be written.
    """
    names = [name for name in rows[0] if name != "joint"]
    figure = Figure(figsize=(2.5 + 3.5 * len(names), 1.2 + BAR * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    colours = [tuple(level / 255 for level in colour) for colour in joint_colours(skeleton)]
    places = range(len(rows))
    for panel, name in zip(panels, names):
        values = [row[name] for row in rows]
        largest = whole if name == names[0] else max((value for value in values if value == value), default=0.0)
        bars = panel.barh(places, values, color=colours, height=0.75, edgecolor="black", linewidth=0.3)
        labels = [f" {value:.{1 if value >= 10 else 2}f}" if value == value else "" for value in values]  # NaN is not itself
        panel.bar_label(bars, labels, fontsize=7)
        panel.set_yticks(places, [str(row["joint"]) for row in rows], fontsize=8, parse_math=False)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_xlim(0, 1.15 * largest or 1.0)
        panel.set_title(name, fontsize=9)
        panel.tick_params(axis="x", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    _write(figure, path, title, "--bars")


def draw_curves(
    path: Path, thresholds: NDArray[Any], curves: Mapping[str, NDArray[Any]], labels: tuple[str, str], whole: float, title: str
) -> None:
    """Lines by name, each (T,) shares of `whole` at (T,) thresholds; `labels` of the thresholds and of the shares.

    Raises:
        HgfastError: the file cannot be written.
    """
    _write(_curves(thresholds, curves, labels, whole), path, title, "--curve")


def curve_picture(
    thresholds: NDArray[Any], curves: Mapping[str, NDArray[Any]], labels: tuple[str, str], whole: float, title: str
) -> Image:
    """The chart of `draw_curves` as a picture (H, W, 3)."""
    figure = _curves(thresholds, curves, labels, whole)
    figure.suptitle(title, fontsize=9, parse_math=False)
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _curves(thresholds: NDArray[Any], curves: Mapping[str, NDArray[Any]], labels: tuple[str, str], whole: float) -> Figure:
    """The chart of `draw_curves`."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    panel = figure.subplots()
    for name, shares in curves.items():
        panel.plot(thresholds, shares, label=name)
    panel.set_xlim(0, thresholds[-1])
    panel.set_ylim(0, whole)
    panel.set_xlabel(labels[0])
    panel.set_ylabel(labels[1])
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def _write(figure: Figure, path: Path, title: str, flag: str) -> None:
    figure.suptitle(title, fontsize=9, parse_math=False)
    write_figure(figure, path, flag)


def write_figure(figure: Figure, path: Path, flag: str) -> None:
    """The whole file or none, in the format of its ending. Raises `HgfastError`, with the flag that names another one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with complete(path) as beside:
            figure.savefig(beside, format=path.suffix[1:].lower(), dpi=DPI)
    except OSError as error:
        raise HgfastError(f"cannot write {path} ({error.strerror}): choose another file with {flag}") from error
