"""Drawing: positions of joints and edges, image grids, reading and writing of images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hgfast.errors import HgfastError
from hgfast.skeletons import HAND21
from hgfast.visualization.draw import add_caption, draw_skeleton, image_grid, overlay_heatmap, read_image, write_image


def test_joints_are_drawn_where_they_are() -> None:
    blank = np.zeros((224, 224, 3), np.uint8)
    points = np.full((21, 2), np.nan)
    points[4] = (60.5, 170.25)
    image = draw_skeleton(blank, points, HAND21)[..., 0].astype(float)
    centers = np.arange(224) + 0.5
    found = ((image * centers).sum() / image.sum(), (image * centers[:, None]).sum() / image.sum())
    assert found == pytest.approx((60.5, 170.25), abs=0.25)
    assert not blank.any()


def test_edge_colors_and_hidden_joints() -> None:
    blank, points = np.zeros((224, 224, 3), np.uint8), np.full((21, 2), -50.0)
    points[0], points[5] = (20, 100), (200, 100)
    edge = HAND21.edges.index((0, 5))
    assert tuple(draw_skeleton(blank, points, HAND21)[100, 110]) == HAND21.colors[edge]
    shown = np.ones(21, bool)
    shown[5] = False
    assert not draw_skeleton(blank, points, HAND21, shown)[100, 110].any()


@pytest.mark.parametrize("width", [300, 12000])
def test_line_position_and_thickness(width: int) -> None:
    points = np.full((21, 2), np.nan)
    points[0], points[5] = (0.9 * width, 10), (0.9 * width, 250)
    image = draw_skeleton(np.zeros((260, width, 3), np.uint8), points, HAND21)
    columns = np.flatnonzero(image[130].max(1) > 100)
    assert columns.mean() + 0.5 == pytest.approx(0.9 * width, abs=0.6)
    assert 3 <= len(columns) <= 7  # an eightieth of 240 px, and antialiasing


def test_image_grid() -> None:
    tiles = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
    whole = image_grid(tiles, 2)
    assert whole.shape == (40, 60, 3)
    assert [whole[5, 5, 0], whole[5, 35, 0], whole[25, 5, 0], whole[25, 35, 0]] == [10, 20, 30, 0]


def test_files(tmp_path: Path) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[..., 0] = 200
    write_image(tmp_path / "new" / "a.png", add_caption(image, "red"))
    assert tuple(read_image(tmp_path / "new" / "a.png")[30, 30]) == (200, 0, 0)
    (tmp_path / "text.jpg").write_text("words")
    for name, sentence in (("none.jpg", "No such file"), ("text.jpg", "not an image"), ("new", "is a folder")):
        with pytest.raises(HgfastError, match=f"{name}.*{sentence}"):
            read_image(tmp_path / name)
    with pytest.raises(HgfastError, match="cannot write the image"):
        write_image(tmp_path / "a.unknown", image)
    with pytest.raises(HgfastError, match="cannot be read"):
        read_image(tmp_path / ("n" * 300 + ".jpg"))
    with pytest.raises(HgfastError, match=r"does not support 70000 x 2 pixels"):
        write_image(tmp_path / "long.jpg", np.zeros((2, 70000, 3), np.uint8))


@pytest.mark.parametrize("white", [1.0, 255.0, 1000.0])
def test_floating_point_images(tmp_path: Path, white: float) -> None:
    ramp = np.linspace(0, white, 50, dtype=np.float32)
    cv2.imwrite(str(tmp_path / "a.tiff"), np.repeat(np.repeat(ramp[None, :, None], 9, 0), 3, 2))
    assert np.abs(read_image(tmp_path / "a.tiff")[4, :, 1] - np.linspace(0, 255, 50)).max() <= 1


def test_overlay_heatmap() -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    heat = np.zeros((15, 20), np.float32)
    heat[5, 7] = 1
    over = overlay_heatmap(image, heat).astype(int)
    assert np.array_equal(over[40:], image[40:])
    assert np.unravel_index(np.abs(over - 100).sum(2).argmax(), (60, 80)) == pytest.approx((22, 30), abs=2)
    assert over[22, 30, 0] > over[22, 30, 2]
