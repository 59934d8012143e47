"""Layout of a scene: one to four people on one floor, the camera and the image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.people.kinematics import BONE_INDEX, PosedBody, axis_rotation, sample_body
from hgfast.pipelines.synthetic_data.render.camera import FloatArray, project

Mask = NDArray[np.bool_]
ASPECT_RATIOS = ((16, 9), (4, 3), (3, 2), (1, 1), (3, 4), (2, 3), (9, 16))
ASPECT_WEIGHTS = (0.34, 0.16, 0.14, 0.08, 0.12, 0.08, 0.08)
"""Aspect ratios of images and their probabilities."""
LONGER_SIDE_RANGE = (320, 960)
"""Range of an image's longer side, pixels."""
MIN_PERSON_HEIGHT = 90.0
"""Minimum height of the first person, pixels."""
MIN_DISTANCE = 1.7
"""Minimum distance of the first person's hips from the camera, meters."""
NEAR_CLIP = 0.35
"""Depth below which nothing is rendered, meters."""
MIN_JOINTS = 6
"""Number of joints in the image that a person needs to be annotated."""
MIN_DEPTH_GAP = 0.5
"""Minimum distance in depth between people, so that they do not intersect, meters."""


@dataclass(frozen=True)
class SceneLayout:
    """An image's `size` (H, W), its camera `K` (3, 3), and people in the camera frame, the main person first.

    `up` (3,) is the upward direction and `floor` the distance of the floor below the camera along it, meters.
    """

    size: tuple[int, int]
    K: FloatArray
    figures: list[PosedBody]
    up: FloatArray
    floor: float


def sample_size(rng: Generator) -> tuple[int, int]:
    """Sample height and width in pixels."""
    wide, high = ASPECT_RATIOS[rng.choice(len(ASPECT_RATIOS), p=ASPECT_WEIGHTS)]
    longer = int(rng.integers(LONGER_SIDE_RANGE[0], LONGER_SIDE_RANGE[1] + 1))
    shorter = round(longer * min(wide, high) / max(wide, high))
    return (shorter, longer) if wide >= high else (longer, shorter)


def sample_layout(rng: Generator) -> SceneLayout:
    """Sample an image's camera and people."""
    size = sample_size(rng)
    height, width = size
    figure = sample_body(rng)
    stature = figure.shape.stature
    tall = float(np.exp(rng.uniform(np.log(max(MIN_PERSON_HEIGHT, 0.34 * height)), np.log(1.9 * height))))  # pixels per stature
    focal = 0.5 * max(size) / np.tan(np.radians(rng.uniform(28, 68)) / 2)
    focal = max(focal, MIN_DISTANCE * tall / stature)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    view = sample_view(rng)
    distance = focal * stature / tall
    for attempt in range(10):
        turned = figure.transformed(view @ facing_rotation(rng), np.zeros(3))
        first = place_in_frame(rng, turned, distance, K, size, loose=1 - attempt / 9)
        if in_image(project(first.joints, K), size).sum() >= MIN_JOINTS + 2:
            break
        distance *= 1.0 if attempt < 5 else 1.15
    up = view[:, 1]
    floor = -float((ground_points(first) @ up).min()) + (rng.uniform(0.05, 0.5) if first.airborne else 0.0)
    figures = [first]
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.6, 0.22, 0.11, 0.07]))):
        for _ in range(5):
            other = add_person(rng, figures, view, floor, K, size)
            if other is not None:
                figures.append(other)
                break
    return SceneLayout(size, K, figures, up, floor)


def sample_view(rng: Generator) -> FloatArray:
    """Sample a rotation (3, 3) from the world (x right, y up, z to the viewer) to the camera, which mostly looks down."""
    down = rng.normal(7, 10) if rng.random() < 0.85 else rng.uniform(-30, 55)
    roll = rng.normal(0, 2.5)
    cos, sin = np.cos(np.radians(down)), np.sin(np.radians(down))
    pitched = np.array([[1, 0, 0], [0, -cos, sin], [0, -sin, -cos]])
    return np.asarray(axis_rotation(2, np.array([roll]))[0] @ pitched)


def facing_rotation(rng: Generator) -> FloatArray:
    """Sample a rotation (3, 3) about the vertical; people face the camera more often than not."""
    yaw = rng.normal(0, 50) if rng.random() < 0.45 else rng.uniform(-180, 180)
    return axis_rotation(1, np.array([yaw]))[0]


def place_in_frame(
    rng: Generator, turned: PosedBody, distance: float, K: FloatArray, size: tuple[int, int], loose: float
) -> PosedBody:
    """Move a body at a distance to a random position in the image, nearer to the center for smaller `loose` (0 to 1)."""
    frame = np.array(size[::-1], float)
    shift = np.array([0, 0, max(distance, NEAR_CLIP + 0.35 - float(turned.joints[:, 2].min()))])
    goal = None
    for _ in range(3):
        pixels = project(turned.joints + shift, K)
        low, high = pixels.min(0), pixels.max(0)
        if goal is None:
            room = np.maximum(frame - (high - low), 0)
            spare = np.maximum((high - low) - frame, 0)
            where = np.where(spare > 0, [rng.uniform(-0.45, 0.45), rng.uniform(0.5, 0.7)], rng.uniform(-0.5, 0.5, 2))
            goal = frame / 2 + loose * (where * (room + spare) + rng.normal(0, 0.03, 2) * frame)
            goal[1] += (1 - loose) * 0.5 * spare[1]  # cut off a person that does not fit at the feet rather than at the head
        shift[:2] += (goal - (low + high) / 2) * shift[2] / K[0, 0]
    return turned.transformed(np.eye(3), shift)


def add_person(
    rng: Generator, figures: list[PosedBody], view: FloatArray, floor: float, K: FloatArray, size: tuple[int, int]
) -> PosedBody | None:
    """Return another person on the same floor, or None if there was no room."""
    first = figures[0].joints[6]
    figure = sample_body(rng).transformed(facing_rotation(rng), np.zeros(3))
    depth = float(first[2] * np.exp(np.clip(rng.normal(0.05, 0.28), -0.6, 0.9)))
    if depth < MIN_DISTANCE * 0.8:
        return None
    sight = np.array([(rng.uniform(0, 1) * size[1] - K[0, 2]) / K[0, 0], 0.0, 1.0])
    up = view[:, 1]
    level = ground_points(figure)[:, 1].min() - (rng.uniform(0.05, 0.4) if figure.airborne else 0.0)
    # on the ray's vertical plane at this depth, at the floor's height: up . (sight * depth + rise * y) = -floor - level
    rise = (-floor - level - depth * (up @ sight)) / up[1]
    body = figure.transformed(view, depth * sight + np.array([0, rise, 0]))
    if body.joints[:, 2].min() < NEAR_CLIP + 0.35:
        return None
    pixels = project(body.joints, K)
    if in_image(pixels, size).sum() < 4 or np.ptp(pixels, axis=0).max() < 40:
        return None
    for other in figures:
        apart = abs(body.joints[6, 2] - other.joints[6, 2]) + 0.7 * abs(body.joints[6, 0] - other.joints[6, 0])
        if apart < MIN_DEPTH_GAP or box_overlap(pixels, project(other.joints, K)) > 0.55:
            return None
    return body


def box_overlap(first: FloatArray, second: FloatArray) -> float:
    """Return the fraction of the smaller of the bounding boxes of points (16, 2) that lies in the other box."""
    low, high = np.maximum(first.min(0), second.min(0)), np.minimum(first.max(0), second.max(0))
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / max(min(np.prod(np.ptp(first, axis=0)), np.prod(np.ptp(second, axis=0))), 1))


def in_image(pixels: FloatArray, size: tuple[int, int]) -> Mask:
    """Return which points (N, 2) lie in the image (N,)."""
    return np.asarray(((pixels >= 0) & (pixels < size[::-1])).all(-1))


def ground_points(figure: PosedBody) -> FloatArray:
    """Return points (N, 3) that may touch the floor: joints with flesh below them, heels, toes, fingers."""
    unit = figure.shape.stature
    tips = [
        figure.origins[BONE_INDEX[f"{side} {bone}"]] + unit * figure.frames[BONE_INDEX[f"{side} {bone}"]] @ np.array(point)
        for side in ("left", "right")
        for bone, point in (("foot", (0, -0.043, -0.02)), ("foot", (0, -0.045, 0.09)), ("hand", (0, -0.09, 0.0)))
    ]
    return np.concatenate([figure.joints, tips])
