"""Images and curves of a report.

Images of the run (evaluation grids, charts, the last TensorBoard images) are data URIs; grids are split into samples, so that a
narrow screen can stack them. The curves of metrics.jsonl are inline SVG by matplotlib, which takes its colors from CSS variables
of the page, for light and dark themes, and keeps text as text.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from hgfast.errors import HgfastError
from hgfast.reporting.records import to_float
from hgfast.reporting.run_folder import MetricsLine, TensorBoardEvents, validation_metrics
from hgfast.visualization.draw import Image, read_image
from hgfast.visualization.gallery import NUM_COLUMNS, TILE_SIZE

MIME_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".svg": "image/svg+xml"}
MAX_IMAGE_BYTES, MAX_TOTAL_BYTES = 8 << 20, 32 << 20  # of one image, and of all images in a page
MAX_OTHER_IMAGES = 12  # images whose names are not in `TITLES`
MAX_DEPTH = 2  # levels of subfolders that are searched
JPEG_QUALITY = 88  # of samples
GRID_TAG, CURVE_TAG = "valid/grid", "valid/curve"
"""TensorBoard's tags of the images that `hgfast.visualization.overlays.log_validation` writes."""
TITLES = {
    "sheet": "Predictions",
    "predictions": "Predictions",
    "worst": "Worst samples",
    "curve": "Accuracy against threshold",
}
"""Titles by stem of the files that evaluate --out and make demo write, in the order of the page."""


class EmbeddedImage(NamedTuple):
    """An image as a data URI, its size in pixels (0 if unknown), and its alternative text."""

    uri: str
    width: int
    height: int
    alt_text: str


class Gallery(NamedTuple):
    """Images under a title.

    name: stem of the file, possibly a key of `TITLES`. source: where the images come from. tiles_per_row: number of tiles that
    belong to one sample; 0 if each image stands alone.
    """

    title: str
    name: str
    source: str
    images: Sequence[EmbeddedImage]
    tiles_per_row: int = 0


def find_galleries(folder: Path, excluded: set[str], notes: list[str]) -> list[Gallery]:
    """Return the images in a run's folder: those of evaluations first, then up to `MAX_OTHER_IMAGES` others.

    Args:
        excluded: stems of images to omit, because a table has the same content.
        notes: receives a sentence for each image that cannot be shown.
    """
    galleries, num_other, total_bytes = list[Gallery](), 0, 0
    order = {name: index for index, name in enumerate(TITLES)}
    paths = [path for path in find_images(folder) if path.stem not in excluded]
    paths.sort(key=lambda path: (order.get(path.stem, len(order)), path.as_posix()))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.stem not in TITLES and num_other == MAX_OTHER_IMAGES:
            unnamed = len([p for p in paths if p.stem not in TITLES]) - MAX_OTHER_IMAGES
            notes.append(f"{unnamed} more images in the folder are not shown.")
            break
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES or total_bytes + size > MAX_TOTAL_BYTES:
            notes.append(f"{name} is not shown: the page would become too large.")
            continue
        try:
            galleries.append(_read_gallery(path, name))
        except HgfastError as error:
            notes.append(f"{error}.")
            continue
        total_bytes += size
        num_other += path.stem not in TITLES
    return galleries


def gallery_from_events(events: TensorBoardEvents, tag: str) -> Gallery | None:
    """Return the last image of a tag, or None. `GRID_TAG` is split into tiles: truth, prediction and heatmaps of each sample."""
    if tag not in events.images:
        return None
    step, encoded = events.images[tag]
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if decoded is None:
        return None
    image = np.asarray(decoded[..., ::-1], np.uint8)
    source = f"TensorBoard’s {tag}, step {step}"
    if tag == GRID_TAG and image.shape[0] % TILE_SIZE == 0 and image.shape[1] % (3 * TILE_SIZE) == 0:
        return Gallery("Predictions during training", "grid", source, _split_grid(image, 1, source), tiles_per_row=3)
    title = TITLES["curve"] if tag == CURVE_TAG else tag
    return Gallery(title, tag, source, [_embed(_encode(image, ".png"), "image/png", image, title)])


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and up to `MAX_DEPTH` levels below, selected by suffix."""
    for parent, folders, files in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(folders) if depth < MAX_DEPTH else []
        for name in sorted(files):
            path = Path(parent) / name
            if path.suffix.lower() in MIME_TYPES and name[0] != "." and path.is_file():
                yield path


def _read_gallery(path: Path, name: str) -> Gallery:
    """Return a file's image, or its samples if it is a grid. Raises `HgfastError` if the file is not an image."""
    title, mime_type = TITLES.get(path.stem, name), MIME_TYPES[path.suffix.lower()]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror})") from error
    if mime_type == "image/svg+xml":
        if b"<svg" not in data[:4096]:
            raise HgfastError(f"{path} is not an image: remove it")
        return Gallery(title, path.stem, name, [EmbeddedImage(_data_uri(data, mime_type), 0, 0, title)])
    image = read_image(path)
    is_grid = image.shape[1] == NUM_COLUMNS * TILE_SIZE and image.shape[0] % TILE_SIZE == 0
    if is_grid and path.stem in ("sheet", "predictions", "worst"):
        return Gallery(title, path.stem, name, _split_grid(image, 2, name))
    return Gallery(title, path.stem, name, [_embed(data, mime_type, image, title)])


def _split_grid(grid: Image, tiles_per_piece: int, name: str) -> list[EmbeddedImage]:
    """Split a grid row by row into pieces of `tiles_per_piece` adjacent tiles; black pieces are dropped."""
    pieces, width = list[EmbeddedImage](), tiles_per_piece * TILE_SIZE
    for top in range(0, grid.shape[0], TILE_SIZE):
        for left in range(0, grid.shape[1], width):
            piece = grid[top : top + TILE_SIZE, left : left + width]
            if piece.max() > 32:  # JPEG's black is not quite 0
                encoded = _encode(piece, ".jpg")
                pieces.append(_embed(encoded, "image/jpeg", piece, f"{name}, sample {len(pieces) + 1}"))
    return pieces


def _encode(image: Image, suffix: str) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    return bytes(cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), quality)[1].tobytes())


def _embed(data: bytes, mime_type: str, image: Image, alt_text: str) -> EmbeddedImage:
    return EmbeddedImage(_data_uri(data, mime_type), image.shape[1], image.shape[0], alt_text)


def _data_uri(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


# ---- curves ----

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


class Chart(NamedTuple):
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
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise HgfastError("the curves require matplotlib: pip install matplotlib") from error
    legend_rows = -(-len(series) // 2) if len(series) > 1 else 0
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(FIGURE_SIZE[0], FIGURE_SIZE[1] + 0.24 * legend_rows), layout="constrained")
        axes = figure.subplots()
        for index, (name, points) in enumerate(series.items()):
            color, style = LINE_COLORS[index % len(LINE_COLORS)], DASHES[index % len(DASHES)]
            marker = "o" if len(points) < MAX_MARKERS else ""
            axes.plot(*zip(*points), color=color, ls=style, lw=1.8, marker=marker, ms=3.5, label=name)
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
        buffer, no_metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
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
