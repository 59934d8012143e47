"""Properties that hold for any input: matrices invert, compose and agree with OpenCV; heatmaps decode to the rendered point."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hgfast.geometry import crop_and_downscale, crop_matrices, crop_regions, to_opencv_matrix, transform_points, warp
from hgfast.heatmaps import DECODERS, decode, is_inside, render
from tests.robustness.strategies import angles, pixels, points, sides, sizes

Array = NDArray[np.float64]
squares = st.tuples(pixels, pixels, sides, angles, st.booleans())


def matrix_of(square: tuple[float, float, float, float, bool], size: int) -> Array:
    x, y, side, angle, flip = square
    return crop_matrices([(x, y)], [side], size, rotation=angle, flip=flip)


@given(square=squares, size=sizes, given_points=points((1, 5)))
def test_inverse_matrix_restores_points(square: tuple[float, float, float, float, bool], size: int, given_points: Array) -> None:
    matrix = matrix_of(square, size)
    transformed = transform_points(given_points, matrix)
    assert np.allclose(transform_points(transformed, np.linalg.inv(matrix)), given_points, rtol=1e-6, atol=1e-4)


@given(first=squares, second=squares, size=sizes, given_points=points((1, 5)))
def test_matrix_product_composes_transforms(first: object, second: object, size: int, given_points: Array) -> None:
    one, other = matrix_of(first, size), matrix_of(second, size)  # type: ignore[arg-type]
    composed = transform_points(given_points, other @ one)
    scale = 1 + np.abs(transform_points(given_points, one)).max() + np.abs(composed).max()
    assert np.allclose(transform_points(transform_points(given_points, one), other), composed, rtol=0, atol=1e-9 * scale * size)


@given(square=squares, size=sizes, given_points=points((1, 5)))
def test_flip_is_width_minus_x_and_its_own_inverse(square: object, size: int, given_points: Array) -> None:
    x, y, side, angle, _ = square  # type: ignore[misc]
    plain, flipped = (matrix_of((x, y, side, angle, flip), size) for flip in (False, True))
    expected = transform_points(given_points, plain) * (-1, 1) + (size, 0)
    assert np.allclose(transform_points(given_points, flipped), expected, rtol=1e-9, atol=1e-6)
    flip_only = crop_matrices([(size / 2, size / 2)], [size], size, flip=True)
    assert np.allclose(flip_only @ flip_only, np.eye(3)) and np.allclose(flip_only @ plain, flipped, atol=1e-6)


@given(square=squares, size=sizes)
def test_square_maps_to_the_whole_input(square: object, size: int) -> None:
    x, y, side, angle, flip = square  # type: ignore[misc]
    corners = side / 2 * np.array([(0, 0), (-1, -1), (1, -1), (1, 1), (-1, 1)])
    rotated = corners @ np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    mapped = transform_points((rotated + np.array((x, y)))[None], matrix_of((x, y, side, angle, flip), size))[0]
    left, right = (size, 0) if flip else (0, size)
    expected = [(size / 2, size / 2), (left, 0), (right, 0), (right, size), (left, size)]
    assert np.allclose(mapped, expected, atol=1e-6 * (1 + np.hypot(x, y) / side) * size)


@given(square=squares, size=sizes, given_points=points((1, 5), 0, 3000))
def test_transform_points_equals_opencv(square: object, size: int, given_points: Array) -> None:
    """Compare with cv2.transform and with OpenCV's matrix from three corners, which are independent implementations."""
    matrix = matrix_of(square, size)  # type: ignore[arg-type]
    ours = transform_points(given_points, matrix)
    assert np.allclose(cv2.transform(given_points, matrix[0, :2]), ours, rtol=1e-9, atol=1e-6)
    source = np.array([(0, 0), (1000, 0), (0, 1000)], np.float32)
    target = transform_points(source[None], matrix)[0].astype(np.float32)
    opencv = cv2.transform(given_points, cv2.getAffineTransform(source, target))
    assert np.allclose(opencv, ours, atol=1e-2 * (1 + np.abs(target).max() / 1000))


@given(square=squares, size=sizes)
def test_opencv_pixel_centers_differ_by_half_a_pixel(square: object, size: int) -> None:
    matrix = matrix_of(square, size)[0]  # type: ignore[arg-type]
    pixel = np.array([3.0, 8.0, 1.0])
    half = np.array([0.5, 0.5, 0.0])
    assert np.allclose(to_opencv_matrix(matrix) @ pixel, matrix @ (pixel + half) - half, rtol=1e-9, atol=1e-6)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    square=st.tuples(st.floats(-90, 150), st.floats(-90, 150), st.floats(1, 400), angles, st.booleans()),
    size=st.integers(8, 40),
)
def test_any_square_of_any_image_can_be_cropped(width: int, height: int, square: object, size: int) -> None:
    """Also squares outside the image: no crash, no invented pixels, and a source region that matches its matrix."""
    image = np.full((height, width, 3), 200, np.uint8)
    matrix = matrix_of(square, size)  # type: ignore[arg-type]
    crop = warp(image, matrix[0], size)
    assert crop.shape == (size, size, 3) and crop.max() <= 200
    low, high, ratio = (values[0] for values in crop_regions(matrix, size))
    part, source_from_part = crop_and_downscale(image, low, high, ratio)
    corners = transform_points([[(0, 0), (part.shape[1], part.shape[0])]], source_from_part[None])[0]
    assert part.size and (corners[0] > -1 - 2 / ratio).all() and (corners[1] < np.array((width, height)) + 1 + 2 / ratio).all()


cells = st.tuples(st.floats(5.0, 27.0, width=32), st.floats(5.0, 19.0, width=32))
TOLERANCE = {"argmax": 0.5001, "quarter": 0.2501, "dark": 0.01}  # cells, in x and in y, away from the border


@given(point=cells, heatmap_kind=st.sampled_from(["gaussian", "logits"]), decoder=st.sampled_from(DECODERS))
def test_rendered_point_is_decoded(point: tuple[float, float], heatmap_kind: str, decoder: str) -> None:
    decoded = decode(render_heatmap(point, heatmap_kind), decoder, heatmap_kind)[0, 0]
    assert np.abs(decoded[:2].numpy() - point).max() <= TOLERANCE[decoder]
    assert is_inside(decoded[:2], 24, 32)
    assert 0 < float(decoded[2]) <= 1 + 1e-6


def render_heatmap(point: tuple[float, float], heatmap_kind: str) -> torch.Tensor:
    """Return the ideal heatmaps (1, 1, 24, 32) of a point."""
    heatmaps = render(torch.tensor([[point]], dtype=torch.float64), 24, 32)
    return heatmaps if heatmap_kind == "gaussian" else heatmaps.clamp_min(1e-30).log()


@given(
    point=st.tuples(st.floats(8, 15, width=32), st.floats(8, 13, width=32)),
    right=st.integers(0, 8),
    down=st.integers(-3, 3),
    heatmap_kind=st.sampled_from(["gaussian", "logits"]),
    decoder=st.sampled_from(DECODERS),
)
def test_decoding_is_equivariant_to_shifts_by_whole_cells(
    point: tuple[float, float], right: int, down: int, heatmap_kind: str, decoder: str
) -> None:
    heatmaps = render_heatmap(point, heatmap_kind)
    shifted = torch.full_like(heatmaps, float(heatmaps.min()))
    ys, xs = slice(max(0, down), 24 + min(0, down)), slice(right, 32)
    shifted[..., ys, xs] = heatmaps[..., max(0, -down) : 24 - max(0, down), : 32 - right]
    before, after = (decode(each, decoder, heatmap_kind)[0, 0, :2] for each in (heatmaps, shifted))
    assert torch.allclose(after, before + torch.tensor([float(right), float(down)]), atol=2e-3)


@given(data=st.data(), decoder=st.sampled_from(DECODERS), heatmap_kind=st.sampled_from(["gaussian", "logits"]))
def test_any_finite_heatmap_decodes_to_a_point_inside(data: st.DataObject, decoder: str, heatmap_kind: str) -> None:
    height, width = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    values = data.draw(st.lists(st.floats(-1e4, 1e4, width=32), min_size=height * width, max_size=height * width))
    decoded = decode(torch.tensor(values).view(1, 1, height, width), decoder, heatmap_kind)
    assert decoded.isfinite().all()
    assert (decoded[..., :2] >= -1e-4).all() and decoded[0, 0, 0] <= width + 1e-4 and decoded[0, 0, 1] <= height + 1e-4


@given(data=st.data())
def test_batch_decodes_like_single_heatmaps(data: st.DataObject) -> None:
    heatmaps = torch.cat([render_heatmap(data.draw(cells), "gaussian") for _ in range(3)])
    for decoder in DECODERS:
        single = torch.cat([decode(one[None], decoder) for one in heatmaps])
        assert torch.allclose(decode(heatmaps, decoder), single, rtol=0, atol=1e-5)
