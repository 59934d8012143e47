"""The curves of a run as SVG that stands within a page: its colours are the page's, light or dark, its text is text.

What may enter: drawing the lines of metrics.jsonl with matplotlib, which only charts need: import this module where one is
asked for. What a report says in words is elsewhere.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hgfast.errors import HgfastError
from hgfast.report_run import Line, figures_of, number

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise HgfastError("the curves are drawn by matplotlib: pip install matplotlib") from error

SIZE = (5.0, 3.1)  # inches of 72 SVG pixels: as wide as a phone's screen, so that text has there the size it is given
INK, FAINT = "#010203", "#010204"  # stand for the page's own colours
LINES = ("#020301", "#020302", "#020303", "#020304", "#020305", "#020306", "#020307", "#020308")
PAGE = {INK: "var(--ink)", FAINT: "var(--faint)", **{stand: f"var(--line-{n})" for n, stand in enumerate(LINES)}}
DASHES = ("-", "--", ":", "-.")
FEW = 40  # points below which each has a dot
HIGHEST, LOWEST = 1e30, 1e-12  # what an axis can end at
SETTINGS: Any = {  # matplotlib has a type for each name
    "svg.fonttype": "none",
    "svg.hashsalt": "hgfast",
    "text.parse_math": False,
    "font.size": 11,
    "axes.unicode_minus": False,
}

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A title, the SVG element, and the same in a sentence for those who do not see it."""

    title: str
    svg: str
    words: str


def charts(lines: Sequence[Line]) -> list[Chart]:
    """The curves of metrics.jsonl: loss, figures of validations, learning rate, speed, waiting for data. Those of which no line
    has a number are left out."""
    found = [
        _chart("Loss", {"loss": _series(lines, "loss")}, "mean of the epoch"),
        *_validation(lines),
        _chart("Learning rate", {"lr": _series(lines, "lr")}, "at the end of the epoch", floor=True),
        _chart(
            "Images a second",
            {"in all": _series(lines, "images_per_s"), "without waiting for data": _series(lines, "network_images_per_s")},
            "images/s",
            floor=True,
        ),
        _chart("Waiting for data", {"waiting": _series(lines, "data_wait", 100.0)}, "percent of the time", floor=True),
    ]
    return [chart for chart in found if chart is not None]


def _validation(lines: Sequence[Line]) -> list[Chart | None]:
    """Charts of figures that go together: totals, parts of the body, errors in pixels; their names tell which are which."""
    names = dict.fromkeys(name for line in lines for name in figures_of(line))
    errors = [name for name in names if name.startswith("epe_")]
    totals = [name for name in names if name.startswith(("pck", "auc", "pooled", "mean1"))]
    groups = [name for name in names if name not in (*errors, *totals, "not_finite")]
    shares = {name: [(number(line["epoch"]), figures_of(line).get(name, math.nan)) for line in lines] for name in names}
    shares = {name: [point for point in points if math.isfinite(point[1])] for name, points in shares.items()}
    unit = "percent" if any(name.startswith("pckh") for name in totals) else "share"
    titled = (("Accuracy", totals, unit), ("Accuracy of parts", groups, unit), ("Errors", errors, "pixels"))
    return [
        _chart(f"{title} on the validation split", {name: shares[name] for name in some}, unit, floor=True)
        for title, some, unit in titled
    ]


def _series(lines: Sequence[Line], name: str, factor: float = 1.0) -> Points:
    """A value by epoch, where there is a number."""
    points = [(number(line["epoch"]), factor * number(line.get(name))) for line in lines]
    return [point for point in points if all(map(math.isfinite, point))]


def _chart(title: str, series: Mapping[str, Points], unit: str, floor: bool = False) -> Chart | None:
    """Lines by name over epochs, or None without a point. floor: the axis begins at 0."""
    series = {name: [point for point in points if max(map(abs, point)) < HIGHEST] for name, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(
            figsize=(SIZE[0], SIZE[1] + 0.24 * (-(-len(series) // 2) if len(series) > 1 else 0)), layout="constrained"
        )
        panel = figure.subplots()
        for place, (name, points) in enumerate(series.items()):
            dot = "o" if len(points) < FEW else ""
            style = DASHES[place % len(DASHES)]
            panel.plot(*zip(*points), color=LINES[place % len(LINES)], ls=style, lw=1.8, marker=dot, ms=3.5, label=name)
        panel.set_xlabel("epoch", color=INK)
        panel.set_ylabel(unit, color=INK)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(5))
        panel.grid(color=FAINT, lw=0.7)
        panel.tick_params(colors=INK, length=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(FAINT)
        values = [value for points in series.values() for _, value in points]
        if floor and min(values) >= 0:
            panel.set_ylim(0, 1.05 * max(values) if max(values) > LOWEST else 1.0)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
        held = io.StringIO()
        figure.savefig(
            held, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    said = "; ".join(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in series.items())
    return Chart(title, _within(held.getvalue(), re.sub(r"\W+", "-", title.lower())), f"{title}, {unit}: {said}")


def _within(svg: str, name: str) -> str:
    """A file's SVG as an element of a page: its own ids, no namespaces, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    if box is None:
        raise ValueError("matplotlib's SVG has no viewBox")
    rest = rest.replace("xlink:href=", "href=")
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", rest)
    rest = re.sub(r"#[0-9a-f]{6}\b", lambda found: PAGE.get(found[0], found[0]), rest)
    rest = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", rest)
    return f'<svg {box[0]} aria-hidden="true">{rest}'
