"""Who stands where before the camera: one to four people on one floor, in a picture of some shape.

What may enter: the camera, the places of people and of the floor. What they look like is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.drawn.camera import Array, project
from pipelines.drawn.people import FRAME, Figure, about, sample_figure

Mask = NDArray[np.bool_]
SHAPES = ((16, 9), (4, 3), (3, 2), (1, 1), (3, 4), (2, 3), (9, 16))
SHARES = (0.34, 0.16, 0.14, 0.08, 0.12, 0.08, 0.08)
"""Aspect ratios of pictures and how common they are."""
LONGER = (320, 960)
"""The longer side of a picture, pixels."""
LEAST = 90.0
"""Height of a small person, pixels."""
NEAREST = 1.7
"""Least distance of the first person's hips from the camera, metres; nothing is drawn nearer than `CLIP`."""
CLIP = 0.35
FEWEST = 6
"""Joints a person must show to be annotated."""
MARGIN = 0.5
"""Distance in depth that keeps people from running through each other, metres."""


@dataclass(frozen=True)
class Crowd:
    """A picture's `size` (H, W), its camera `K` (3, 3), people in the camera's frame, first the one the picture is of.

    `up` (3,) is the direction of gravity's opposite and `floor` the distance of the floor below the camera along it, metres.
    """

    size: tuple[int, int]
    K: Array
    figures: list[Figure]
    up: Array
    floor: float


def sample_size(rng: Generator) -> tuple[int, int]:
    """Height and width in pixels."""
    wide, high = SHAPES[rng.choice(len(SHAPES), p=SHARES)]
    longer = int(rng.integers(LONGER[0], LONGER[1] + 1))
    shorter = round(longer * min(wide, high) / max(wide, high))
    return (shorter, longer) if wide >= high else (longer, shorter)


def sample_crowd(rng: Generator) -> Crowd:
    """A random picture's camera and people."""
    size = sample_size(rng)
    height, width = size
    figure = sample_figure(rng)
    stature = figure.physique.stature
    tall = float(np.exp(rng.uniform(np.log(max(LEAST, 0.34 * height)), np.log(1.9 * height))))  # pixels a stature takes
    focal = 0.5 * max(size) / np.tan(np.radians(rng.uniform(28, 68)) / 2)
    focal = max(focal, NEAREST * tall / stature)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    view = sample_view(rng)
    distance = focal * stature / tall
    for attempt in range(10):
        turned = figure.moved(view @ facing(rng), np.zeros(3))
        first = aim(rng, turned, distance, K, size, loose=1 - attempt / 9)
        if inside(project(first.joints, K), size).sum() >= FEWEST + 2:
            break
        distance *= 1.0 if attempt < 5 else 1.15
    up = view[:, 1]
    floor = -float((lowest(first) @ up).min()) + (rng.uniform(0.05, 0.5) if first.flies else 0.0)
    figures = [first]
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.6, 0.22, 0.11, 0.07]))):
        for _ in range(5):
            other = join(rng, figures, view, floor, K, size)
            if other is not None:
                figures.append(other)
                break
    return Crowd(size, K, figures, up, floor)


def sample_view(rng: Generator) -> Array:
    """A rotation (3, 3) from the world (x right, y up, z to the viewer) to the camera, looking down a little more than up."""
    down = rng.normal(7, 10) if rng.random() < 0.85 else rng.uniform(-30, 55)
    roll = rng.normal(0, 2.5)
    cos, sin = np.cos(np.radians(down)), np.sin(np.radians(down))
    pitched = np.array([[1, 0, 0], [0, -cos, sin], [0, -sin, -cos]])
    return np.asarray(about(2, np.array([roll]))[0] @ pitched)


def facing(rng: Generator) -> Array:
    """A rotation (3, 3) about the vertical; people face the camera more often than not."""
    yaw = rng.normal(0, 50) if rng.random() < 0.45 else rng.uniform(-180, 180)
    return about(1, np.array([yaw]))[0]


def aim(rng: Generator, turned: Figure, distance: float, K: Array, size: tuple[int, int], loose: float) -> Figure:
    """A figure at a distance, moved to a random place in the picture, the less `loose` (0 to 1) the nearer to its middle."""
    frame = np.array(size[::-1], float)
    shift = np.array([0, 0, max(distance, CLIP + 0.35 - float(turned.joints[:, 2].min()))])
    goal = None
    for _ in range(3):
        pixels = project(turned.joints + shift, K)
        low, high = pixels.min(0), pixels.max(0)
        if goal is None:
            room = np.maximum(frame - (high - low), 0)
            spare = np.maximum((high - low) - frame, 0)
            where = np.where(spare > 0, [rng.uniform(-0.45, 0.45), rng.uniform(0.5, 0.7)], rng.uniform(-0.5, 0.5, 2))
            goal = frame / 2 + loose * (where * (room + spare) + rng.normal(0, 0.03, 2) * frame)
            goal[1] += (1 - loose) * 0.5 * spare[1]  # whoever does not fit in is cut off at the feet rather than at the head
        shift[:2] += (goal - (low + high) / 2) * shift[2] / K[0, 0]
    return turned.moved(np.eye(3), shift)


def join(rng: Generator, figures: list[Figure], view: Array, floor: float, K: Array, size: tuple[int, int]) -> Figure | None:
    """Another person on the same floor, or None where there was no room."""
    first = figures[0].joints[6]
    figure = sample_figure(rng).moved(facing(rng), np.zeros(3))
    depth = float(first[2] * np.exp(np.clip(rng.normal(0.05, 0.28), -0.6, 0.9)))
    if depth < NEAREST * 0.8:
        return None
    sight = np.array([(rng.uniform(0, 1) * size[1] - K[0, 2]) / K[0, 0], 0.0, 1.0])
    up = view[:, 1]
    level = lowest(figure)[:, 1].min() - (rng.uniform(0.05, 0.4) if figure.flies else 0.0)
    # on the ray's vertical plane at this depth, as high as the floor wants: up . (sight * depth + rise * y) = -floor - level
    rise = (-floor - level - depth * (up @ sight)) / up[1]
    place = depth * sight + np.array([0, rise, 0])
    found = figure.moved(view, place)
    if found.joints[:, 2].min() < CLIP + 0.35:
        return None
    pixels = project(found.joints, K)
    if inside(pixels, size).sum() < 4 or np.ptp(pixels, axis=0).max() < 40:
        return None
    for other in figures:
        apart = abs(found.joints[6, 2] - other.joints[6, 2]) + 0.7 * abs(found.joints[6, 0] - other.joints[6, 0])
        if apart < MARGIN or common(pixels, project(other.joints, K)) > 0.55:
            return None
    return found


def common(one: Array, other: Array) -> float:
    """How much of the smaller of two boxes round points (16, 2) lies in the other."""
    low, high = np.maximum(one.min(0), other.min(0)), np.minimum(one.max(0), other.max(0))
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / max(min(np.prod(np.ptp(one, axis=0)), np.prod(np.ptp(other, axis=0))), 1))


def inside(pixels: Array, size: tuple[int, int]) -> Mask:
    """Which points (N, 2) lie in the picture (N,)."""
    return np.asarray(((pixels >= 0) & (pixels < size[::-1])).all(-1))


def lowest(figure: Figure) -> Array:
    """Points (N, 3) that may touch the floor: joints with flesh below them, heels, toes, fingers."""
    unit = figure.physique.stature
    tips = [
        figure.origins[FRAME[f"{side} {bone}"]] + unit * figure.frames[FRAME[f"{side} {bone}"]] @ np.array(point)
        for side in ("left", "right")
        for bone, point in (("foot", (0, -0.043, -0.02)), ("foot", (0, -0.045, 0.09)), ("hand", (0, -0.09, 0.0)))
    ]
    return np.concatenate([figure.joints, tips])
