"""Properties for any input: matrices invert, compose and agree with OpenCV; heatmaps decode to the rendered point."""

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
def test_matrices_bring_points_back(square: tuple[float, float, float, float, bool], size: int, given_points: Array) -> None:
    matrix = matrix_of(square, size)
    there = transform_points(given_points, matrix)
    assert np.allclose(transform_points(there, np.linalg.inv(matrix)), given_points, rtol=1e-6, atol=1e-4)


@given(first=squares, second=squares, size=sizes, given_points=points((1, 5)))
def test_one_after_the_other_is_their_product(first: object, second: object, size: int, given_points: Array) -> None:
    one, other = matrix_of(first, size), matrix_of(second, size)  # type: ignore[arg-type]
    together = transform_points(given_points, other @ one)
    scale = 1 + np.abs(transform_points(given_points, one)).max() + np.abs(together).max()
    assert np.allclose(transform_points(transform_points(given_points, one), other), together, rtol=0, atol=1e-9 * scale * size)


@given(square=squares, size=sizes, given_points=points((1, 5)))
def test_mirroring_is_width_minus_x_and_twice_is_nothing(square: object, size: int, given_points: Array) -> None:
    x, y, side, angle, _ = square  # type: ignore[misc]
    plain, mirrored = (matrix_of((x, y, side, angle, flip), size) for flip in (False, True))
    wanted = transform_points(given_points, plain) * (-1, 1) + (size, 0)
    assert np.allclose(transform_points(given_points, mirrored), wanted, rtol=1e-9, atol=1e-6)
    mirror = crop_matrices([(size / 2, size / 2)], [size], size, flip=True)
    assert np.allclose(mirror @ mirror, np.eye(3)) and np.allclose(mirror @ plain, mirrored, atol=1e-6)


@given(square=squares, size=sizes)
def test_the_squares_middle_and_corners_are_the_inputs(square: object, size: int) -> None:
    x, y, side, angle, flip = square  # type: ignore[misc]
    corners = side / 2 * np.array([(0, 0), (-1, -1), (1, -1), (1, 1), (-1, 1)])
    turned = corners @ np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    seen = transform_points((turned + np.array((x, y)))[None], matrix_of((x, y, side, angle, flip), size))[0]
    left, right = (size, 0) if flip else (0, size)
    wanted = [(size / 2, size / 2), (left, 0), (right, 0), (right, size), (left, size)]
    assert np.allclose(seen, wanted, atol=1e-6 * (1 + np.hypot(x, y) / side) * size)


@given(square=squares, size=sizes, given_points=points((1, 5), 0, 3000))
def test_transform_points_equals_opencv(square: object, size: int, given_points: Array) -> None:
    """cv2.transform and the matrix of three corners are independent of ours."""
    matrix = matrix_of(square, size)  # type: ignore[arg-type]
    ours = transform_points(given_points, matrix)
    assert np.allclose(cv2.transform(given_points, matrix[0, :2]), ours, rtol=1e-9, atol=1e-6)
    source = np.array([(0, 0), (1000, 0), (0, 1000)], np.float32)
    target = transform_points(source[None], matrix)[0].astype(np.float32)
    theirs = cv2.transform(given_points, cv2.getAffineTransform(source, target))
    assert np.allclose(theirs, ours, atol=1e-2 * (1 + np.abs(target).max() / 1000))


@given(square=squares, size=sizes)
def test_opencv_pixel_centers_are_half_a_pixel_away(square: object, size: int) -> None:
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
def test_any_square_of_any_image_is_cropped(width: int, height: int, square: object, size: int) -> None:
    """Also squares beside the image: no crash, no pixel from nowhere, and a part that lies where its matrix says."""
    image = np.full((height, width, 3), 200, np.uint8)
    matrix = matrix_of(square, size)  # type: ignore[arg-type]
    found = warp(image, matrix[0], size)
    assert found.shape == (size, size, 3) and found.max() <= 200
    low, high, ratio = (values[0] for values in crop_regions(matrix, size))
    part, source_from_part = crop_and_downscale(image, low, high, ratio)
    corners = transform_points([[(0, 0), (part.shape[1], part.shape[0])]], source_from_part[None])[0]
    assert part.size and (corners[0] > -1 - 2 / ratio).all() and (corners[1] < np.array((width, height)) + 1 + 2 / ratio).all()


cells = st.tuples(st.floats(5.0, 27.0, width=32), st.floats(5.0, 19.0, width=32))
TOLERANCE = {"argmax": 0.5001, "quarter": 0.2501, "dark": 0.01}  # cells, in x and in y, away from the border


@given(point=cells, kind=st.sampled_from(["gaussian", "logits"]), method=st.sampled_from(DECODERS))
def test_the_point_comes_back(point: tuple[float, float], kind: str, method: str) -> None:
    maps = render_heatmap(point, kind)
    found = decode(maps, method, kind)[0, 0]
    assert np.abs(found[:2].numpy() - point).max() <= TOLERANCE[method]
    assert is_inside(found[:2], 24, 32)
    assert 0 < float(found[2]) <= 1 + 1e-6


def render_heatmap(point: tuple[float, float], kind: str) -> torch.Tensor:
    """(1, 1, 24, 32) maps of a point, as a network that has learned all would give them."""
    maps = render(torch.tensor([[point]], dtype=torch.float64), 24, 32)
    return maps if kind == "gaussian" else maps.clamp_min(1e-30).log()


@given(
    point=st.tuples(st.floats(8, 15, width=32), st.floats(8, 13, width=32)),
    right=st.integers(0, 8),
    down=st.integers(-3, 3),
    kind=st.sampled_from(["gaussian", "logits"]),
    method=st.sampled_from(DECODERS),
)
def test_whole_cells_move_the_answer_by_whole_cells(
    point: tuple[float, float], right: int, down: int, kind: str, method: str
) -> None:
    maps = render_heatmap(point, kind)
    floor = maps.min()
    moved = torch.full_like(maps, float(floor))
    ys, xs = slice(max(0, down), 24 + min(0, down)), slice(right, 32)
    moved[..., ys, xs] = maps[..., max(0, -down) : 24 - max(0, down), : 32 - right]
    before, after = (decode(each, method, kind)[0, 0, :2] for each in (maps, moved))
    assert torch.allclose(after, before + torch.tensor([float(right), float(down)]), atol=2e-3)


@given(data=st.data(), method=st.sampled_from(DECODERS), kind=st.sampled_from(["gaussian", "logits"]))
def test_any_heatmap_decodes_to_a_point_on_it(data: st.DataObject, method: str, kind: str) -> None:
    """Whatever a network gives, that is not a number apart: the point is on the map."""
    height, width = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    values = data.draw(st.lists(st.floats(-1e4, 1e4, width=32), min_size=height * width, max_size=height * width))
    found = decode(torch.tensor(values).view(1, 1, height, width), method, kind)
    assert found.isfinite().all()
    assert (found[..., :2] >= -1e-4).all() and found[0, 0, 0] <= width + 1e-4 and found[0, 0, 1] <= height + 1e-4


@given(data=st.data())
def test_heatmaps_are_independent(data: st.DataObject) -> None:
    """A batch decodes as its maps do one by one."""
    some = [data.draw(cells) for _ in range(3)]
    maps = torch.cat([render_heatmap(point, "gaussian") for point in some])
    for method in DECODERS:
        alone = torch.cat([decode(one[None], method) for one in maps])
        assert torch.allclose(decode(maps, method), alone, rtol=0, atol=1e-5)
