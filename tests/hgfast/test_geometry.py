"""The coordinate convention against closed forms, OpenCV's resize, and the matrices of another project."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hgfast.geometry import crop_matrices, to_opencv_matrix, transform_points, warp
from tests.conftest import shared_path

RNG = np.random.default_rng(0)


def test_crop_fills_the_input() -> None:
    m = crop_matrices([[50.0, 40.0]], [20.0], 64)
    corners = [[[40.0, 30.0], [60.0, 30.0], [60.0, 50.0], [50.0, 40.0]]]
    assert np.allclose(transform_points(corners, m), [[[0, 0], [64, 0], [64, 64], [32, 32]]])


def test_flip_is_width_minus_x() -> None:
    points = RNG.uniform(0, 100, (1, 7, 2))
    plain, mirrored = (transform_points(points, crop_matrices([[50.0, 50.0]], [100.0], 100, flip=f)) for f in (False, True))
    assert np.allclose(mirrored[..., 0], 100 - plain[..., 0]) and np.allclose(mirrored[..., 1], plain[..., 1])


def test_positive_rotation_turns_the_content_clockwise() -> None:
    right_of_center = [[[90.0, 50.0]]]
    turned = transform_points(right_of_center, crop_matrices([[50.0, 50.0]], [100.0], 100, rotation=np.pi / 2))
    assert np.allclose(turned, [[[50, 90]]])  # seen on a screen, right goes to below


def test_inverse_brings_points_back() -> None:
    m = crop_matrices(
        RNG.uniform(0, 200, (5, 2)), RNG.uniform(20, 300, 5), 96, rotation=RNG.uniform(-3, 3, 5), flip=[1, 0, 1, 0, 1]
    )
    points = RNG.uniform(-50, 250, (5, 9, 2))
    assert np.allclose(transform_points(transform_points(points, m), np.linalg.inv(m)), points)


@pytest.mark.parametrize("size", [96, 256])
def test_warp_resizes_as_opencv_resize_does(size: int) -> None:
    image = cv2.GaussianBlur(RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8), (0, 0), 2)
    wanted = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR).astype(int)
    got = warp(image, crop_matrices([[64.0, 64.0]], [128.0], size)[0], size).astype(int)
    inner = slice(2, -2)  # at the border resize repeats pixels, the warp fades to black
    assert np.abs(got - wanted)[inner, inner].max() <= 2
    assert np.abs(got - wanted)[inner, inner].mean() < 0.2


def test_strong_downscaling_averages() -> None:
    """Stripes one pixel wide become gray, whatever the factor and the phase; bilinear alone would make up broad ones."""
    stripes = np.zeros((700, 700, 3), np.uint8)
    stripes[:, ::2] = 255
    for size in (300, 233, 128, 37):
        for shift in (0.0, 0.3, 0.9):
            got = warp(stripes, crop_matrices([[350 + shift, 350.0]], [600.0], size, rotation=0.1)[0], size)
            inner = got[1:-1, 1:-1].astype(float)  # at the border the last pixels are repeated
            assert np.abs(inner - 127.5).max() < 12, (size, shift)


def test_downscaling_keeps_positions_and_means() -> None:
    """A soft dot stays at its keypoint under a strong shrink, and as bright as OpenCV's area average has it."""
    centers = np.arange(900) + 0.5
    dot = 255 * np.exp(-((centers - 612.3) ** 2 + (centers[:, None] - 287.7) ** 2) / (2 * 40**2))
    image = np.repeat(np.rint(dot).astype(np.uint8)[..., None], 3, 2)
    matrix = crop_matrices([[450.0, 450.0]], [900.0], 60)[0]
    got = warp(image, matrix, 60)[..., 0].astype(float)
    cells = np.arange(60) + 0.5
    found = ((got * cells).sum() / got.sum(), (got * cells[:, None]).sum() / got.sum())
    assert found == pytest.approx(tuple(transform_points([[(612.3, 287.7)]], matrix[None])[0, 0]), abs=0.02)
    wanted = cv2.resize(image, (60, 60), interpolation=cv2.INTER_AREA)[..., 0]
    assert np.abs(got - wanted)[1:-1, 1:-1].max() < 4


@pytest.mark.parametrize(("width", "height"), [(1, 900), (900, 1), (3, 2)])
def test_one_pixel_wide_images(width: int, height: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    got = warp(image, crop_matrices([[width / 2, height / 2]], [900.0], 64)[0], 64)
    assert got.shape == (64, 64, 3)
    assert got.max() <= 200


def test_warp_by_whole_pixels_is_a_slice() -> None:
    image = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert np.array_equal(warp(image, crop_matrices([[30.0, 25.0]], [20.0], 20)[0], 20), image[15:35, 20:40])
    assert np.array_equal(warp(image, crop_matrices([[30.0, 25.0]], [20.0], 20, flip=True)[0], 20), image[15:35, 39:19:-1])


def test_opencv_matrix_shifts_pixel_centers() -> None:
    m = crop_matrices([[10.0, 12.0]], [30.0], 64, rotation=0.3)[0]
    pixel, half = np.array([4.0, 7.0, 1.0]), np.array([0.5, 0.5, 0.0])  # OpenCV: the center of column 4, row 7
    assert np.allclose(to_opencv_matrix(m) @ pixel, m @ (pixel + half) - half)


@pytest.mark.real_data
def test_princeton_crop_matrices() -> None:
    z = np.load(shared_path("reference/princeton_transforms.npz"))
    for n in range(len(z["matrix"])):
        size = int(z["res"][n, 0]), int(z["res"][n, 1])
        rotation = -np.radians(z["rot"][n])  # princeton-vl rotates the crop, hgfast the content
        ours = crop_matrices([z["center"][n]], [200 * z["scale"][n]], size, rotation=rotation)
        assert np.allclose(ours[0], z["matrix"][n], rtol=0, atol=1e-6), n
        ours = np.linalg.inv(ours) if z["invert"][n] else ours
        assert np.allclose(transform_points(z["points"][n : n + 1], ours)[0], z["transform_float"][n], rtol=0, atol=1e-6), n
    assert (z["res"][:, 0] != z["res"][:, 1]).any() and z["rot"].any() and z["invert"].any()
