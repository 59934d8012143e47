"""The drawing in docs/coordinates.md says what `hgfast.geometry` and the readers' offsets give."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from hgfast.geometry import move, square_matrices
from hgfast.model import STRIDE
from pipelines import coco, mpii

PAGE, DRAWING, MAKER = (ROOT / "docs" / name for name in ("coordinates.md", "coordinates.svg", "draw_coordinates.py"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text.text or "" for text in ET.parse(DRAWING).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314  (our own file)


def point_in(text: str) -> np.ndarray[Any, Any]:
    found = re.search(r"\(([-\d.]+), ([-\d.]+)\)", text)
    assert found is not None, text
    return np.array([float(found[1]), float(found[2])])


def test_points_follow_the_geometry(texts: list[str]) -> None:
    """Of the source, the input and the heatmap, in the drawing's order, from the square that it names."""
    (square,) = [text for text in texts if text.startswith("the square")]
    centre, side = point_in(square), float(square.rpartition(" ")[2])
    (size,) = [int(text.split()[1]) for text in texts if text.startswith("input, ")]
    source, shown, heatmap = (point_in(text) for text in texts if re.fullmatch(r"\(.*\)", text))
    matrix = square_matrices(centre[None], [side], size)
    np.testing.assert_allclose(move(source[None, None], matrix)[0, 0], shown)
    np.testing.assert_allclose(shown / STRIDE, heatmap)
    (mirrored,) = [text for text in texts if text.startswith("mirrored")]
    flipped = square_matrices(centre[None], [side], size, flip=True)
    np.testing.assert_allclose(move(source[None, None], flipped)[0, 0], point_in(mirrored))


def test_others_numbers_follow_the_readers(texts: list[str]) -> None:
    source = next(point_in(text) for text in texts if re.fullmatch(r"\(.*\)", text))
    for name, offset in (("MPII", mpii.PIXEL_OFFSET), ("FreiHAND", 0.0), ("COCO", coco.PIXEL_OFFSET)):
        (said,) = [text for text in texts if text.startswith(name)]
        np.testing.assert_allclose(point_in(said) + offset, source)
        assert float(said.rpartition(" ")[2]) == offset


def test_the_drawing_is_what_its_maker_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runpy.run_path(str(MAKER))
    root = made["draw"]()
    ET.indent(root)
    assert ET.tostring(root, encoding="unicode") + "\n" == DRAWING.read_text()


def test_the_table_has_the_readers_offsets() -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([+-]?[\d.]+)", PAGE.read_text(), re.MULTILINE))
    assert float(rows["MPII .mat, h5"]) == mpii.PIXEL_OFFSET
    assert float(rows["COCO keypoints"]) == coco.PIXEL_OFFSET
    assert float(rows["FreiHAND: K xyz / z"]) == 0
