"""A chart of a script's rows: a bar each, with its noise. What may enter: drawing with matplotlib, which only charts need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from measures import is_number, noise_of
from measures import measure_of as known
from record import Row
from results_text import digits

from hgfast.errors import HgfastError

try:
    from matplotlib.figure import Figure

    from hgfast.charts import write_figure
except ImportError as error:
    raise HgfastError("bench/all.py draws charts with matplotlib: pip install matplotlib") from error

OURS, SEEDS, PART = "#76b900", "#4477aa", "#aaaaaa"
PARTS = ("decode_only", "network alone")  # rows that are less than the whole
BAR, TITLE = 0.24, 1.0  # inches
LETTERS = 12  # of the title an inch


@dataclass(frozen=True)
class Plot:
    """What is drawn of a script's rows. figures: the first of these that they have. title: of the axis. panels, names: keys by
    which rows are put into panels, and named. kept: which rows are drawn."""

    figures: tuple[str, ...]
    title: str
    panels: tuple[str, ...]
    names: tuple[str, ...]
    kept: Callable[[Row], bool] = lambda _: True
    logarithmic: bool = False


PLOTS = {
    "loader": Plot(
        ("images_per_s",),
        "images/s",
        ("layout", "cached"),
        ("loader", "variant"),
        lambda row: row["loader"] != "read_only" and row["variant"] != "index",
    ),
    "train_step": Plot(("images_per_s",), "images/s", ("layout", "preset"), ("way", "precision")),
    "latency": Plot(("images_per_s",), "images/s", ("preset", "batch", "end_to_end"), ("way", "precision")),
    "embedding": Plot(("median_ms",), "ms a call", ("runtime",), ("what",)),
    "decode": Plot(("median_ms",), "ms a batch, logarithmic", ("kind",), ("decoder",), logarithmic=True),
    "pckh": Plot(("pckh@0.5", "pck@0.2"), "PCKh@0.5 in percent, or PCK@0.2", (), ("file", "what")),
}


def draw(step: str, rows: Sequence[Row], path: Path, title: str) -> bool:
    """Draw the rows of a script that have a figure, two panels beside each other; False where there are none.

    Raises:
        HgfastError: the file cannot be written.
    """
    plot = PLOTS[step]
    figure_key = next((key for key in plot.figures if any(is_number(row.get(key)) for row in rows)), "")
    rows = [row for row in rows if is_number(row.get(figure_key)) and plot.kept(row)]
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(words(row, plot.panels), []).append(row)
    if not panels:
        return False
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    height = down * (TITLE + BAR * max(len(own) for own in panels.values()))
    figure = Figure(figsize=(6.5 * across, 0.6 + height), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, (name, own) in zip(axes, panels.items()):
        draw_panel(axis, own, figure_key, plot)
        axis.set_title(name, fontsize=10, parse_math=False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    lines = [fill(line, int(LETTERS * figure.get_figwidth()), max_lines=2, placeholder=" …") for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=9, parse_math=False)
    write_figure(figure, path, "--out")
    return True


def draw_panel(axis: Any, rows: Sequence[Row], key: str, plot: Plot) -> None:
    """A bar a row, the first on top."""
    values, places = [float(row[key]) for row in rows], range(len(rows))
    off = [spread(row, key) for row in rows]
    reach = [[value - value / (1 + share) for value, share in zip(values, off)], [v * share for v, share in zip(values, off)]]
    names = [words(row, plot.names) for row in rows]
    colours = [SEEDS if name.startswith("seed") else PART if name.startswith(PARTS) else OURS for name in names]
    axis.barh(places, values, xerr=reach, color=colours, height=0.75, error_kw={"lw": 0.8, "capsize": 2, "alpha": 0.6})
    for place, value in zip(places, values):
        axis.annotate(digits(value), (1.01, place), xycoords=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set_yticks(places, names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    if plot.logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 3, max(values) * 3)
        axis.xaxis.set_minor_formatter("")
    else:
        axis.set_xlim(0, 1.25 * max(values))
    axis.set_xlabel(plot.title + ("" if not any(off) else " (lines: noise)"), fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def spread(row: Row, key: str) -> float:
    """By what share a bar may be off; 0 of what is not noisy."""
    measure = known(key, row)
    return noise_of(row, key, measure) if measure is not None and measure.noisy else 0.0


def words(row: Row, keys: Sequence[str]) -> str:
    """Their values; switches by their names, numbers with them."""
    found = []
    for key in keys:
        value = row.get(key)
        if isinstance(value, bool):
            found += [key.replace("_", " ")] * value
        elif isinstance(value, int):
            found.append(f"{key} {value}")
        elif value:
            found.append(str(value))
    return ", ".join(found)
