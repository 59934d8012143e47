"""Training curves as inline SVG, drawn by matplotlib from metrics.jsonl.

The SVG takes its colors from CSS variables of the page, for light and dark themes, and keeps text as text. Importing this module
requires matplotlib: import it only when charts are drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hgfast.errors import HgfastError
from hgfast.reporting.run_folder import MetricsLine, to_float, validation_metrics

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise HgfastError("the curves require matplotlib: pip install matplotlib") from error

FIGURE_SIZE = (5.0, 3.1)  # inches of 72 SVG pixels: the width of a phone screen, so that text keeps its size there
TEXT_COLOR, GRID_COLOR = "#010203", "#010204"  # placeholders for colors of the page
LINE_COLORS = ("#020301", "#020302", "#020303", "#020304", "#020305", "#020306", "#020307", "#020308")
CSS_VARIABLES = {
    TEXT_COLOR: "var(--ink)",
    GRID_COLOR: "var(--faint)",
    **{color: f"var(--line-{n})" for n, color in enumerate(LINE_COLORS)},
}
DASHES = ("-", "--", ":", "-.")
MAX_MARKERS = 40  # with fewer points, each has a marker
MAX_VALUE, MIN_RANGE = 1e30, 1e-12  # limits of an axis
RC_PARAMS: Any = {  # matplotlib types each name
    "svg.fonttype": "none",
    "svg.hashsalt": "hgfast",
    "text.parse_math": False,
    "font.size": 11,
    "axes.unicode_minus": False,
}

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A title, the SVG element, and a sentence with the same content for screen readers."""

    title: str
    svg: str
    alt_text: str


def training_curves(lines: Sequence[MetricsLine]) -> list[Chart]:
    """Return the curves of metrics.jsonl: loss, validation metrics, learning rate, throughput, data wait. Curves without a
    number are omitted."""
    charts = [
        _chart("Loss", {"loss": _series(lines, "loss")}, "mean of the epoch"),
        *_validation_charts(lines),
        _chart("Learning rate", {"lr": _series(lines, "lr")}, "at the end of the epoch", from_zero=True),
        _chart(
            "Images a second",
            {"in all": _series(lines, "images_per_s"), "without waiting for data": _series(lines, "network_images_per_s")},
            "images/s",
            from_zero=True,
        ),
        _chart("Waiting for data", {"waiting": _series(lines, "data_wait", 100.0)}, "percent of the time", from_zero=True),
    ]
    return [chart for chart in charts if chart is not None]


def _validation_charts(lines: Sequence[MetricsLine]) -> list[Chart | None]:
    """Charts of validation metrics by group: totals, body parts, errors in pixels; the metric's name decides its group."""
    names = dict.fromkeys(name for line in lines for name in validation_metrics(line))
    errors = [name for name in names if name.startswith("epe_")]
    totals = [name for name in names if name.startswith(("pck", "auc", "pooled", "mean1"))]
    groups = [name for name in names if name not in (*errors, *totals, "not_finite")]
    series = {name: [(to_float(line["epoch"]), validation_metrics(line).get(name, math.nan)) for line in lines] for name in names}
    series = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    unit = "percent" if any(name.startswith("pckh") for name in totals) else "share"
    charts = (("Accuracy", totals, unit), ("Accuracy of parts", groups, unit), ("Errors", errors, "pixels"))
    return [
        _chart(f"{title} on the validation split", {name: series[name] for name in chart_names}, unit, from_zero=True)
        for title, chart_names, unit in charts
    ]


def _series(lines: Sequence[MetricsLine], name: str, factor: float = 1.0) -> Points:
    """A value by epoch; epochs without a number are omitted."""
    points = [(to_float(line["epoch"]), factor * to_float(line.get(name))) for line in lines]
    return [point for point in points if all(map(math.isfinite, point))]


def _chart(title: str, series: Mapping[str, Points], unit: str, from_zero: bool = False) -> Chart | None:
    """Lines by name over epochs, or None without any point. from_zero: the axis begins at 0 if no value is negative."""
    series = {name: [point for point in points if max(map(abs, point)) < MAX_VALUE] for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(
            figsize=(FIGURE_SIZE[0], FIGURE_SIZE[1] + 0.24 * (-(-len(series) // 2) if len(series) > 1 else 0)),
            layout="constrained",
        )
        axes = figure.subplots()
        for index, (name, points) in enumerate(series.items()):
            marker = "o" if len(points) < MAX_MARKERS else ""
            style = DASHES[index % len(DASHES)]
            axes.plot(
                *zip(*points), color=LINE_COLORS[index % len(LINE_COLORS)], ls=style, lw=1.8, marker=marker, ms=3.5, label=name
            )
        axes.set_xlabel("epoch", color=TEXT_COLOR)
        axes.set_ylabel(unit, color=TEXT_COLOR)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(color=GRID_COLOR, lw=0.7)
        axes.tick_params(colors=TEXT_COLOR, length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GRID_COLOR)
        values = [value for points in series.values() for _, value in points]
        if from_zero and min(values) >= 0:
            axes.set_ylim(0, 1.05 * max(values) if max(values) > MIN_RANGE else 1.0)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=TEXT_COLOR)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    summary = "; ".join(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in series.items())
    return Chart(title, _inline_svg(buffer.getvalue(), re.sub(r"\W+", "-", title.lower())), f"{title}, {unit}: {summary}")


def _inline_svg(svg: str, name: str) -> str:
    """Convert an SVG file to an inline element: unique ids, no namespaces, colors and font of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    head, _, body = svg.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    if view_box is None:
        raise ValueError("matplotlib's SVG has no viewBox")
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda color: CSS_VARIABLES.get(color[0], color[0]), body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    return f'<svg {view_box[0]} aria-hidden="true">{body}'
