"""The figure in docs/coordinates.md agrees with `hgfast.geometry` and the readers' offsets."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hgfast.architectures import STRIDE
from hgfast.geometry import crop_matrices, transform_points
from hgfast.pipelines.readers import coco, mpii_h5
from tests.conftest import ROOT

PAGE, DRAWING, MAKER = (ROOT / "docs" / name for name in ("coordinates.md", "coordinates.svg", "draw_coordinates.py"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text.text or "" for text in ET.parse(DRAWING).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314  (a file of the project)


def point_in(text: str) -> np.ndarray[Any, Any]:
    match = re.search(r"\(([-\d.]+), ([-\d.]+)\)", text)
    assert match is not None, text
    return np.array([float(match[1]), float(match[2])])


def test_points_match_geometry(texts: list[str]) -> None:
    """The points in source, input and heatmap, in the figure's order, follow from the square in its text."""
    (square,) = [text for text in texts if text.startswith("the square")]
    center, side = point_in(square), float(square.rpartition(" ")[2])
    (size,) = [int(text.split()[1]) for text in texts if text.startswith("input, ")]
    source, shown, heatmap = (point_in(text) for text in texts if re.fullmatch(r"\(.*\)", text))
    matrix = crop_matrices(center[None], [side], size)
    np.testing.assert_allclose(transform_points(source[None, None], matrix)[0, 0], shown)
    np.testing.assert_allclose(shown / STRIDE, heatmap)
    (mirrored,) = [text for text in texts if text.startswith("mirrored")]
    flipped = crop_matrices(center[None], [side], size, flip=True)
    np.testing.assert_allclose(transform_points(source[None, None], flipped)[0, 0], point_in(mirrored))


def test_dataset_offsets_match_readers(texts: list[str]) -> None:
    source = next(point_in(text) for text in texts if re.fullmatch(r"\(.*\)", text))
    for name, offset in (("MPII", mpii_h5.PIXEL_OFFSET), ("FreiHAND", 0.0), ("COCO", coco.PIXEL_OFFSET)):
        (label,) = [text for text in texts if text.startswith(name)]
        np.testing.assert_allclose(point_in(label) + offset, source)
        assert float(label.rpartition(" ")[2]) == offset


def test_svg_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = runpy.run_path(str(MAKER))["draw"]()
    ET.indent(root)
    assert ET.tostring(root, encoding="unicode") + "\n" == DRAWING.read_text()


def test_table_has_reader_offsets() -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([+-]?[\d.]+)", PAGE.read_text(), re.MULTILINE))
    assert float(rows["MPII .mat, h5"]) == mpii_h5.PIXEL_OFFSET
    assert float(rows["COCO keypoints"]) == coco.PIXEL_OFFSET
    assert float(rows["FreiHAND: K xyz / z"]) == 0
