"""Charts of rows with noise, one per script, and of accuracy against threshold. Drawing requires matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from hgfast.bench.harness.metric_specs import is_number, metric_noise, metric_spec
from hgfast.bench.harness.record import Row
from hgfast.bench.tables.columns import format_number

if TYPE_CHECKING:
    from hgfast.metrics import Curve

HGFAST_COLOR, PRINCETON_COLOR, PARTIAL_COLOR = "#76b900", "#4477aa", "#aaaaaa"
PARTIAL_ROWS = ("decode_only", "network alone")  # rows that measure only a part
BAR_HEIGHT, TITLE_HEIGHT = 0.24, 1.0  # inches
CHARS_PER_INCH = 12  # of the title
PANELS_PER_ROW = 4  # of accuracy curves


class ChartSpec(NamedTuple):
    """The chart of a script. metrics: the first one that the rows contain is drawn. title: of the axis. panels, names: keys that
    group the rows into panels and name the bars. include: selects the rows to draw."""

    metrics: tuple[str, ...]
    title: str
    panels: tuple[str, ...]
    names: tuple[str, ...]
    include: Callable[[Row], bool] = lambda _: True
    logarithmic: bool = False


def is_complete_loader(row: Row) -> bool:
    """Return whether a row is of a loader or of decoding; reading alone is hundreds of times faster."""
    return row["loader"] != "read_only" and row["variant"] != "index"


CHART_SPECS = {
    "loader": ChartSpec(("images_per_s",), "images/s", ("layout", "cached"), ("loader", "variant"), is_complete_loader),
    "train_step": ChartSpec(("images_per_s",), "images/s", ("layout", "preset"), ("way", "precision")),
    "latency": ChartSpec(("images_per_s",), "images/s", ("preset", "batch", "end_to_end"), ("way", "precision")),
    "embedding": ChartSpec(("median_ms",), "ms per call", ("runtime",), ("what",)),
    "decode": ChartSpec(("median_ms",), "ms per batch, logarithmic", ("kind",), ("decoder",), logarithmic=True),
    "pckh": ChartSpec(("pckh@0.5", "pck@0.2"), "PCKh@0.5 in percent, or PCK@0.2", (), ("file", "what")),
}


def draw_chart(bench: str, rows: Sequence[Row], path: Path, title: str, flag: str = "--chart") -> bool:
    """Draw the measured rows of a script, with two panels per line. Returns False without drawing if there are none.

    Raises:
        HgfastError: the file cannot be written; the error names the flag.
    """
    from matplotlib.figure import Figure

    from hgfast.visualization.charts import write_figure

    spec = CHART_SPECS[bench]
    metric = next((key for key in spec.metrics if any(is_number(row.get(key)) for row in rows)), "")
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if is_number(row.get(metric)) and spec.include(row):
            panels.setdefault(row_label(row, spec.panels), []).append(row)
    if not panels:
        return False
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    height = num_rows * (TITLE_HEIGHT + BAR_HEIGHT * max(len(panel_rows) for panel_rows in panels.values()))
    figure = Figure(figsize=(6.5 * num_columns, 0.6 + height), layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axis, (name, panel_rows) in zip(axes, panels.items()):
        draw_panel(axis, panel_rows, metric, spec)
        axis.set_title(name, fontsize=10, parse_math=False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    width = int(CHARS_PER_INCH * figure.get_figwidth())
    lines = [fill(line, width, max_lines=2, placeholder=" …") for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=9, parse_math=False)
    write_figure(figure, path, flag)
    return True


def draw_panel(axis: Any, rows: Sequence[Row], key: str, spec: ChartSpec) -> None:
    """Draw a bar per row, the first at the top."""
    values, positions = [float(row[key]) for row in rows], range(len(rows))
    noise = [bar_noise(row, key) for row in rows]
    errors = [[v - v / (1 + margin) for v, margin in zip(values, noise)], [v * margin for v, margin in zip(values, noise)]]
    names = [row_label(row, spec.names) for row in rows]
    colors = [
        PRINCETON_COLOR if name.startswith("seed") else PARTIAL_COLOR if name.startswith(PARTIAL_ROWS) else HGFAST_COLOR
        for name in names
    ]
    axis.barh(positions, values, xerr=errors, color=colors, height=0.75, error_kw={"lw": 0.8, "capsize": 2, "alpha": 0.6})
    for position, value in zip(positions, values):
        axis.annotate(format_number(value), (1.01, position), xycoords=axis.get_yaxis_transform(), va="center", fontsize=8)
    axis.set_yticks(positions, names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    if spec.logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 3, max(values) * 3)
        axis.xaxis.set_minor_formatter("")
    else:
        axis.set_xlim(0, 1.25 * max(values))
    axis.set_xlabel(spec.title + ("" if not any(noise) else " (lines: noise)"), fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def bar_noise(row: Row, key: str) -> float:
    """Return the relative error of a bar; 0 for metrics without noise."""
    spec = metric_spec(key, row)
    return metric_noise(row, key, spec) if spec is not None and spec.noisy else 0.0


def row_label(row: Row, keys: Sequence[str]) -> str:
    """Return the values of the keys as a label; booleans as the name of the key, integers with it."""
    parts = []
    for key in keys:
        value = row.get(key)
        if isinstance(value, bool):
            parts += [key.replace("_", " ")] * value
        elif isinstance(value, int):
            parts.append(f"{key} {value}")
        elif value:
            parts.append(str(value))
    return ", ".join(parts)


def draw_accuracy_curves(curves: Mapping[str, Curve], path: Path, title: str, labels: tuple[str, str], full_scale: float) -> None:
    """Draw a panel of accuracy against threshold for the total and one for each group, with a line per method.

    Args:
        curves: by method, all with the same thresholds and groups.
        labels: of the x axis (thresholds) and the y axis (accuracy).
        full_scale: upper limit of the y axis, the accuracy if all joints are correct.

    Raises:
        HgfastError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    from hgfast.visualization.charts import write_figure

    first = next(iter(curves.values()))
    panels = ["total", *first.groups]
    rows, columns = -(-len(panels) // PANELS_PER_ROW), min(PANELS_PER_ROW, len(panels))
    figure = Figure(figsize=(1 + 2.9 * columns, 0.6 + 2.7 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis, panel in zip(axes, panels):
        for method, curve in curves.items():
            accuracy = curve.total if panel == "total" else curve.groups[panel]
            axis.plot(curve.thresholds, accuracy, label=method, linewidth=2 if panel == "total" else 1.2)
        axis.set_title(panel, fontsize=10, parse_math=False)
        axis.set_xlim(first.thresholds[0], first.thresholds[-1])
        axis.set_ylim(0, full_scale)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for text in axes[0].legend(fontsize=7, loc="upper left").get_texts():
        text.set_parse_math(False)
    figure.supxlabel(labels[0], fontsize=9)
    figure.supylabel(labels[1], fontsize=9)
    figure.suptitle(title, fontsize=9, parse_math=False)
    write_figure(figure, path, "--chart")
