"""The coordinate convention against closed forms, OpenCV's resize, and the matrices of another project."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import beside

from hgfast.geometry import move, opencv_matrix, square_matrices, warp

RNG = np.random.default_rng(0)


def test_a_square_fills_the_input() -> None:
    m = square_matrices([[50.0, 40.0]], [20.0], 64)
    corners = [[[40.0, 30.0], [60.0, 30.0], [60.0, 50.0], [50.0, 40.0]]]
    assert np.allclose(move(corners, m), [[[0, 0], [64, 0], [64, 64], [32, 32]]])


def test_flip_is_width_minus_x() -> None:
    points = RNG.uniform(0, 100, (1, 7, 2))
    plain, mirrored = (move(points, square_matrices([[50.0, 50.0]], [100.0], 100, flip=f)) for f in (False, True))
    assert np.allclose(mirrored[..., 0], 100 - plain[..., 0]) and np.allclose(mirrored[..., 1], plain[..., 1])


def test_positive_rotation_turns_the_content_clockwise() -> None:
    right_of_centre = [[[90.0, 50.0]]]
    turned = move(right_of_centre, square_matrices([[50.0, 50.0]], [100.0], 100, rotation=np.pi / 2))
    assert np.allclose(turned, [[[50, 90]]])  # seen on a screen, right goes to below


def test_inverse_brings_points_back() -> None:
    m = square_matrices(
        RNG.uniform(0, 200, (5, 2)), RNG.uniform(20, 300, 5), 96, rotation=RNG.uniform(-3, 3, 5), flip=[1, 0, 1, 0, 1]
    )
    points = RNG.uniform(-50, 250, (5, 9, 2))
    assert np.allclose(move(move(points, m), np.linalg.inv(m)), points)


@pytest.mark.parametrize("size", [32, 256])
def test_warp_resizes_as_opencv_resize_does(size: int) -> None:
    image = cv2.GaussianBlur(RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8), (0, 0), 2)
    wanted = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR).astype(int)
    got = warp(image, square_matrices([[64.0, 64.0]], [128.0], size)[0], size).astype(int)
    inner = slice(2, -2)  # at the border resize repeats pixels, the warp fades to black
    assert np.abs(got - wanted)[inner, inner].max() <= 2
    assert np.abs(got - wanted)[inner, inner].mean() < 0.2


def test_warp_by_whole_pixels_is_a_slice() -> None:
    image = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert np.array_equal(warp(image, square_matrices([[30.0, 25.0]], [20.0], 20)[0], 20), image[15:35, 20:40])
    assert np.array_equal(warp(image, square_matrices([[30.0, 25.0]], [20.0], 20, flip=True)[0], 20), image[15:35, 39:19:-1])


def test_opencv_matrix_moves_pixel_centres() -> None:
    m = square_matrices([[10.0, 12.0]], [30.0], 64, rotation=0.3)[0]
    pixel, half = np.array([4.0, 7.0, 1.0]), np.array([0.5, 0.5, 0.0])  # OpenCV: the centre of column 4, row 7
    assert np.allclose(opencv_matrix(m) @ pixel, m @ (pixel + half) - half)


@pytest.mark.real_data
def test_the_seeds_crop_matrices() -> None:
    z = np.load(beside("reference/princeton_transforms.npz"))
    upright = z["rot"] == 0
    square = (z["res"][:, 0] == z["res"][:, 1]) & (z["invert"] == 0)
    for i in np.nonzero(square)[0]:
        rotation = -np.radians(z["rot"][i])  # the seed turns the crop, hgfast the content
        ours = square_matrices([z["center"][i]], [200 * z["scale"][i]], int(z["res"][i, 0]), rotation=rotation)[0]
        assert np.allclose(ours, z["matrix"][i], atol=1e-6), i
    assert (square & ~upright).sum() > 5 and (square & upright).sum() > 5
