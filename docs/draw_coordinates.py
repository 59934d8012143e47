"""The drawing of docs/coordinates.md: one point in a source image, in the network's input, in its heatmaps, in others' numbers.

    python docs/draw_coordinates.py

writes docs/coordinates.svg. Every number in it is computed by `hgfast.geometry` and the readers' offsets.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hgfast.entry_point import run_main
from hgfast.geometry import crop_matrices, transform_points
from hgfast.model import STRIDE
from hgfast.pipelines.readers import coco, mpii_h5

OUT = Path(__file__).with_name("coordinates.svg")
WIDTH, HEIGHT = 12, 8  # of the source, pixels
CENTER, SIDE, INPUT = (6.0, 4.0), 8.0, 16  # the square to crop, and the side of the network's input
POINT = (8.5, 3.5)  # in the source: the middle of a pixel
OFFSETS = {"MPII's files": mpii_h5.PIXEL_OFFSET, "FreiHAND, hgfast": 0.0, "COCO's files, OpenCV": coco.PIXEL_OFFSET}
"""What is added to points of these to have hgfast's."""
INK, PALE, MARK, FRAME = "#333333", "#c8c8c8", "#d62728", "#1f77b4"


@dataclass(frozen=True)
class Places:
    """The point, in the source, in the input, in the input mirrored, in the heatmap, and in others' numbers by name."""

    source: tuple[float, float]
    input: tuple[float, float]
    mirrored: tuple[float, float]
    heatmap: tuple[float, float]
    others: dict[str, tuple[float, float]]


def places() -> Places:
    """What the drawing says."""
    plain, mirror = (
        transform_points(np.array([[POINT]]), crop_matrices([CENTER], [SIDE], INPUT, flip=flip))[0, 0] for flip in (False, True)
    )
    others = {name: (POINT[0] - offset, POINT[1] - offset) for name, offset in OFFSETS.items()}
    return Places(POINT, pair(plain), pair(mirror), pair(plain / STRIDE), others)


def pair(point: Sequence[float]) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def words(point: Sequence[float]) -> str:
    return f"({point[0]:g}, {point[1]:g})"


# ---- drawing ----


class Panel:
    """A grid of cells at (x, y), `unit` wide each."""

    def __init__(self, root: ET.Element, x: float, y: float, unit: float) -> None:
        self.root, self.x, self.y, self.unit = root, x, y, unit

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + self.unit * x, self.y + self.unit * y

    def grid(self, columns: int, rows: int, color: str = PALE) -> None:
        for column in range(columns + 1):
            self.line((column, 0), (column, rows), color)
        for row in range(rows + 1):
            self.line((0, row), (columns, row), color)

    def line(self, start: Sequence[float], end: Sequence[float], color: str, width: float = 1) -> None:
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        add(self.root, "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=color, stroke_width=width)

    def box(self, low: Sequence[float], high: Sequence[float], color: str, width: float = 2) -> None:
        (x, y), (right, bottom) = self.at(*low), self.at(*high)
        add(self.root, "rect", x=x, y=y, width=right - x, height=bottom - y, fill="none", stroke=color, stroke_width=width)

    def dot(self, point: Sequence[float], radius: float = 5) -> None:
        x, y = self.at(*point)
        add(self.root, "circle", cx=x, cy=y, r=radius, fill=MARK)

    def text(self, point: Sequence[float], said: str, color: str = INK, anchor: str = "start", size: int = 13) -> None:
        x, y = self.at(*point)
        add(self.root, "text", said, x=x, y=y, fill=color, text_anchor=anchor, font_size=size)


def add(root: ET.Element, tag: str, text: str | None = None, **attributes: object) -> None:
    plain = {
        name.replace("_", "-"): f"{value:g}" if isinstance(value, float) else str(value) for name, value in attributes.items()
    }
    ET.SubElement(root, tag, plain).text = text


def draw() -> ET.Element:
    """The whole drawing, as an SVG element."""
    found = places()
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": "0 0 900 470", "font-family": "sans-serif"})
    add(root, "title", "One point in the source, in the input and in the heatmap")
    add(root, "rect", x=0, y=0, width=900, height=470, fill="#ffffff")
    source = Panel(root, 30, 60, 28)
    source.text((0, -1.2), f"source, {WIDTH} x {HEIGHT} pixels", size=15)
    source.grid(WIDTH, HEIGHT)
    low = (CENTER[0] - SIDE / 2, CENTER[1] - SIDE / 2)
    source.box(low, (low[0] + SIDE, low[1] + SIDE), FRAME)
    source.text((low[0] + 0.2, HEIGHT + 0.7), f"the square to crop: center {words(CENTER)}, side {SIDE:g}", FRAME)
    corners(source, WIDTH, HEIGHT)
    mark(source, found.source, words(found.source))

    shown = Panel(root, 430, 60, 14)
    shown.text((0, -2.4), f"input, {INPUT} x {INPUT} pixels", size=15)
    shown.grid(INPUT, INPUT)
    shown.box((0, 0), (INPUT, INPUT), FRAME)
    corners(shown, INPUT, INPUT)
    mark(shown, found.input, words(found.input))
    shown.text((0, INPUT + 1.6), f"mirrored: x becomes {INPUT} - x, {words(found.mirrored)}")

    cells = INPUT // STRIDE
    heat = Panel(root, 700, 60, 42)
    heat.text((0, -0.8), f"heatmap, {cells} x {cells} cells", size=15)
    heat.grid(cells, cells)
    heat.box((0, 0), (cells, cells), FRAME)
    corners(heat, cells, cells)
    mark(heat, found.heatmap, words(found.heatmap))
    heat.text((0, cells + 0.5), f"input / {STRIDE}")
    heat.text((0, cells + 0.95), "cell i: center at i + 0.5")

    rulers(root, found)
    return root


def corners(panel: Panel, columns: int, rows: int) -> None:
    """The numbers at the outer edges."""
    panel.text((0, -0.15), "0", anchor="middle", size=12)
    panel.text((columns, -0.15), f"{columns}", anchor="middle", size=12)
    panel.text((-0.15, rows), f"{rows}", anchor="end", size=12)


def mark(panel: Panel, point: Sequence[float], said: str) -> None:
    panel.dot(point)
    x, y = panel.at(*point)
    add(panel.root, "text", said, x=x, y=y - 9, fill=MARK, text_anchor="middle", font_size=13)


def rulers(root: ET.Element, found: Places) -> None:
    """The source's columns with each convention's numbers beneath."""
    panel = Panel(root, 30, 345, 40)
    panel.text((0, -0.3), "the same columns of pixels, and what is called x where", size=15)
    panel.grid(WIDTH, 1)
    panel.dot((found.source[0], 0.5))
    for row, (name, offset) in enumerate(OFFSETS.items()):
        height = 1.5 + 0.55 * row
        for column in range(WIDTH + (offset == 0)):
            place = column if offset == 0 else column + 0.5
            panel.text((place, height), f"{place - offset:g}", anchor="middle", size=12)
        sign = f"{offset:+g}" if offset else "0"
        said = f"{name}: {words(found.others[name])}, pixel_offset {sign}"
        panel.text((WIDTH + 0.35, height), said, MARK if offset == 0 else INK, size=12)


def main() -> None:
    drawn = draw()
    ET.indent(drawn)
    OUT.write_text(ET.tostring(drawn, encoding="unicode") + "\n")
    print(OUT)


if __name__ == "__main__":
    run_main(main)
