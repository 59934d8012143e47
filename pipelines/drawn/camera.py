"""Where a hand is seen from: its orientation, its distance, the camera that projects it.

Camera frame (metres): x right, y down, z forward. Pixels are continuous, (0, 0) being the outer corner of the first one.
What may enter: viewpoints and projective geometry. What is seen is elsewhere.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Floats = NDArray[Any]
"""float32; the stubs of cv2 promise no more than some array."""
Bytes = NDArray[Any]
"""uint8."""

PICTURE = 224
"""Side of every picture in pixels; the principal point is its middle."""
FOCAL = (300.0, 700.0)
DEPTH = (0.4, 1.2)

Viewpoints = Literal["facing", "uniform"]
"""From where hands are seen, see `sample_rotation`."""
TILT = np.radians(30)
ANYHOW = 0.1


def project(points: Array, K: Array) -> Array:
    """Camera-frame points (..., 3) as continuous pixel coordinates (..., 2)."""
    uvw = points @ K.T
    return uvw[..., :2] / uvw[..., 2:]


def sample_rotation(rng: Generator, viewpoints: Viewpoints) -> Array:
    """A rotation (3, 3) from the hand's frame to the camera's, spun uniformly in the picture's plane.

    "uniform": uniform over SO(3). "facing": so for `ANYHOW` of the hands; the others show the camera their palm or their
    back, tilted away from it about a random axis by an angle that is half-normal with `TILT`.
    """
    if viewpoints == "uniform" or rng.random() < ANYHOW:
        return np.asarray(Rotation.random(rng=rng).as_matrix())
    spin, axis = rng.uniform(0, 2 * np.pi, 2)
    shown = Rotation.from_euler("x", np.pi if rng.random() < 0.5 else 0.0)  # the back, or the palm
    tilt = Rotation.from_rotvec(rng.normal(0, TILT) * np.array([np.cos(axis), np.sin(axis), 0]))
    return np.asarray((tilt * Rotation.from_euler("z", spin) * shown).as_matrix())


def sample_camera(rng: Generator, turned: Array) -> tuple[Array, Array]:
    """Translation (3,) and K (3, 3) that put rotated joints (21, 3) at a random size and near the middle of the picture."""
    low, high = turned.min(0), turned.max(0)
    side = (high - low)[:2].max()
    fill = rng.uniform(0.38, 0.85)
    ratio = np.clip(fill * PICTURE / side, FOCAL[0] / DEPTH[1], FOCAL[1] / DEPTH[0])  # pixels a metre
    depth = rng.uniform(max(DEPTH[0], FOCAL[0] / ratio), min(DEPTH[1], FOCAL[1] / ratio))
    focal = ratio * depth
    K = np.array([[focal, 0, PICTURE / 2], [0, focal, PICTURE / 2], [0, 0, 1]])
    room = PICTURE * (1 - fill) / 2
    aim = PICTURE / 2 + np.clip(rng.normal(0, 0.45, 2) * (room + 6), -room - 6, room + 6)
    translation = np.append(-(low + high)[:2] / 2, depth - (low + high)[2] / 2)
    for _ in range(3):  # perspective moves the middle of the box: correct until it is at `aim`
        pixels = project(turned + translation, K)
        translation[:2] += (aim - (pixels.min(0) + pixels.max(0)) / 2) / ratio
    return translation, K
