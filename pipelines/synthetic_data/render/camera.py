"""Random cameras for hands: orientation, distance and projection.

Camera frame (meters): x right, y down, z forward. Pixels are continuous, with (0, 0) on the outer corner of the first pixel.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[Any]
"""float32; the stubs of cv2 do not state the dtype."""
Image = NDArray[Any]
"""uint8."""

IMAGE_SIZE = 224
"""Side of every image in pixels; the principal point is its center."""
FOCAL_RANGE = (300.0, 700.0)
DEPTH_RANGE = (0.4, 1.2)

Viewpoints = Literal["facing", "uniform"]
"""Distribution of viewpoints, see `sample_rotation`."""
TILT_STD = np.radians(30)
UNIFORM_FRACTION = 0.1


def project(points: FloatArray, K: FloatArray) -> FloatArray:
    """Project camera-frame points (..., 3) to continuous pixel coordinates (..., 2)."""
    uvw = points @ K.T
    return uvw[..., :2] / uvw[..., 2:]


def sample_rotation(rng: Generator, viewpoints: Viewpoints) -> FloatArray:
    """Sample a rotation (3, 3) from the hand frame to the camera frame, uniform about the optical axis.

    "uniform": uniform over SO(3). "facing": uniform over SO(3) for `UNIFORM_FRACTION` of the hands; the others show their palm or
    their back, tilted about a random axis by an angle that is half-normal with `TILT_STD`.
    """
    from scipy.spatial.transform import Rotation  # here, so that --help does not wait for it

    if viewpoints == "uniform" or rng.random() < UNIFORM_FRACTION:
        return np.asarray(Rotation.random(rng=rng).as_matrix())
    spin, axis = rng.uniform(0, 2 * np.pi, 2)
    facing = Rotation.from_euler("x", np.pi if rng.random() < 0.5 else 0.0)  # the back, or the palm
    tilt = Rotation.from_rotvec(rng.normal(0, TILT_STD) * np.array([np.cos(axis), np.sin(axis), 0]))
    return np.asarray((tilt * Rotation.from_euler("z", spin) * facing).as_matrix())


def sample_camera(rng: Generator, rotated_joints: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sample a translation (3,) and K (3, 3) that show rotated joints (21, 3) at a random size near the image center."""
    low, high = rotated_joints.min(0), rotated_joints.max(0)
    side = (high - low)[:2].max()
    box_fraction = rng.uniform(0.38, 0.85)
    ratio = np.clip(
        box_fraction * IMAGE_SIZE / side, FOCAL_RANGE[0] / DEPTH_RANGE[1], FOCAL_RANGE[1] / DEPTH_RANGE[0]
    )  # pixels per meter
    depth = rng.uniform(max(DEPTH_RANGE[0], FOCAL_RANGE[0] / ratio), min(DEPTH_RANGE[1], FOCAL_RANGE[1] / ratio))
    focal = ratio * depth
    K = np.array([[focal, 0, IMAGE_SIZE / 2], [0, focal, IMAGE_SIZE / 2], [0, 0, 1]])
    room = IMAGE_SIZE * (1 - box_fraction) / 2
    target = IMAGE_SIZE / 2 + np.clip(rng.normal(0, 0.45, 2) * (room + 6), -room - 6, room + 6)
    translation = np.append(-(low + high)[:2] / 2, depth - (low + high)[2] / 2)
    for _ in range(3):  # perspective moves the center of the box: correct it toward `target`
        pixels = project(rotated_joints + translation, K)
        translation[:2] += (target - (pixels.min(0) + pixels.max(0)) / 2) / ratio
    return translation, K
