"""Surroundings of people: background, floor, shadows on it, and obstacles in front. Images are BGR (H, W, 3)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from hgfast.pipelines.synthetic_data.people.kinematics import PELVIS
from hgfast.pipelines.synthetic_data.people.layout import NEAR_CLIP, SceneLayout
from hgfast.pipelines.synthetic_data.render.background import cluttered_scene, noise_tile, random_crop
from hgfast.pipelines.synthetic_data.render.camera import Float32Array, FloatArray, Image, project

SHADOW_SCALE = 4
SHADOW_BONES = (
    *((6, 7, 0.15), (8, 9, 0.10), (12, 13, 0.08), (2, 3, 0.11)),  # trunk, head, shoulders, hips
    *((12, 11, 0.06), (11, 10, 0.05), (13, 14, 0.06), (14, 15, 0.05)),  # arms
    *((2, 1, 0.09), (1, 0, 0.06), (3, 4, 0.09), (4, 5, 0.06)),  # legs
)
"""Pairs of joints whose connection casts a shadow, and its width in statures."""


@dataclass(frozen=True)
class Obstacle:
    """An opaque object in front of people: a mask (h, w) uint8, its colors (h, w, 3) and the position of its top left corner."""

    mask: Image
    colors: Float32Array
    left: int
    top: int


def make_background(rng: Generator, layout: SceneLayout, skin: Float32Array) -> Image:
    """Render a cluttered background, mostly with a floor and the shadows of people on it."""
    height, width = layout.size
    coarse = 2 if max(layout.size) > 400 and rng.random() < 0.6 else 1
    scene = cluttered_scene(rng, (-(-height // coarse), -(-width // coarse)), skin)
    if coarse > 1:
        scene = cv2.resize(scene, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.75:
        add_floor(rng, scene, layout)
    if rng.random() < 0.8:
        add_shadows(rng, scene, layout)
    return scene


def add_floor(rng: Generator, scene: Image, crowd: SceneLayout) -> None:
    """Render a floor up to a wall or the horizon: plain, textured, or with receding lines."""
    height, width = crowd.size
    far = rng.choice([crowd.figures[0].joints[PELVIS, 2] * rng.uniform(1.15, 2.5), 60.0])
    rays = np.linalg.inv(crowd.K)
    slope = crowd.up @ rays  # up . ray is linear in the pixel
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    value = corners @ slope + crowd.floor / far
    polygon = []
    for i in range(4):
        j = (i + 1) % 4
        if value[i] < 0:
            polygon.append(corners[i, :2])
        if value[i] * value[j] < 0:
            polygon.append(corners[i, :2] + value[i] / (value[i] - value[j]) * (corners[j, :2] - corners[i, :2]))
    if len(polygon) < 3:
        return
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, np.round(polygon).astype(np.int32), int(rng.integers(120, 256)))
    color = rng.uniform(30, 230, 3)
    color = color.mean() + rng.uniform(0.1, 0.7) * (color - color.mean())
    ground = np.empty_like(scene)
    ground[:] = np.clip(color, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        add_floor_lines(rng, ground, crowd, far, color)
    texture = random_crop(rng, noise_tile(), crowd.size)
    ground = cv2.addWeighted(ground, 1.0, cv2.merge([texture] * 3), float(rng.uniform(1, 16)), 0.0, dtype=cv2.CV_8U)
    share = cv2.merge([mask] * 3)
    scene[:] = cv2.add(cv2.multiply(ground, share, scale=1 / 255), cv2.multiply(scene, 255 - share, scale=1 / 255))


def add_floor_lines(rng: Generator, ground: Image, crowd: SceneLayout, far: float, color: FloatArray) -> None:
    """Draw seams of planks or tiles on the floor."""
    ahead = np.array([0, 0, 1.0]) - crowd.up[2] * crowd.up
    ahead /= np.linalg.norm(ahead)
    turn = rng.uniform(-1.2, 1.2)
    across = np.cross(crowd.up, ahead)
    along, aside = np.cos(turn) * ahead + np.sin(turn) * across, np.cos(turn) * across - np.sin(turn) * ahead
    pitch = rng.uniform(0.25, 1.2)
    middle = -crowd.floor * crowd.up + crowd.figures[0].joints[PELVIS, 2] * ahead
    ink = np.clip(color * rng.choice([0.6, 0.8, 1.25]), 0, 255).tolist()
    for direction, normal in ((along, aside), (aside, along))[: int(rng.integers(1, 3))]:
        starts = middle + (np.arange(-12, 13)[:, None] * pitch) * normal
        reach = np.linspace(-min(far, 12), min(far, 12), 30)
        points = starts[:, None] + reach[:, None] * direction
        for line in points:
            ahead_of_lens = line[line[:, 2] > NEAR_CLIP]
            if len(ahead_of_lens) > 1:
                ends = project(ahead_of_lens[[0, -1]], crowd.K)
                if np.abs(ends).max() < 3e4:
                    start, end = np.round(ends).astype(int).tolist()
                    cv2.line(ground, start, end, ink, int(rng.integers(1, 3)), cv2.LINE_AA)


def add_shadows(rng: Generator, scene: Image, crowd: SceneLayout) -> None:
    """Draw shadows of people on the floor, from a lamp above."""
    height, width = (-(-side // SHADOW_SCALE) for side in crowd.size)
    mask = np.zeros((height, width), np.uint8)
    lamp = crowd.up + rng.normal(0, rng.choice([0.15, 0.6]), 3)
    lamp /= lamp @ crowd.up
    for figure in crowd.figures:
        joints = figure.joints
        shadow_points = joints - (joints @ crowd.up + crowd.floor)[:, None] * lamp
        if shadow_points[:, 2].min() < NEAR_CLIP:
            continue
        pixels = project(shadow_points, crowd.K) / SHADOW_SCALE
        if np.abs(pixels).max() > 8000:
            continue
        for one, other, wide in SHADOW_BONES:
            thick = wide * figure.shape.stature * crowd.K[0, 0] / shadow_points[one, 2] / SHADOW_SCALE
            start, end = np.round(pixels[[one, other]]).astype(int).tolist()
            cv2.line(mask, start, end, 255, max(1, min(250, round(thick))))
    blur = 2 * int(rng.integers(1, 2 + max(height, width) // 24)) + 1
    shadow: Float32Array = cv2.blur(mask, (blur, blur))
    light: Float32Array = 255 - np.float32(rng.uniform(0.25, 0.65)) * shadow
    light = cv2.resize(light, (width * SHADOW_SCALE, height * SHADOW_SCALE), interpolation=cv2.INTER_LINEAR)
    light = light[: crowd.size[0], : crowd.size[1]]
    scene[:] = cv2.multiply(scene, cv2.merge([light] * 3), scale=1 / 255, dtype=cv2.CV_8U)


def sample_obstacle(rng: Generator, crowd: SceneLayout) -> Obstacle | None:
    """Sample a box, a post, a ball or a shrub in front of a person; None if it would lie outside of the image."""
    height, width = crowd.size
    pixels = project(crowd.figures[int(rng.integers(0, len(crowd.figures)))].joints, crowd.K)
    low, high = pixels.min(0), pixels.max(0)
    reach = high - low
    x, y = low + rng.uniform(0, 1, 2) * reach
    size = float(max(reach.max(), 30))
    kind = rng.integers(0, 4)
    if kind == 0:  # a table, a wall or a box, which hides everything below
        wide = size * rng.uniform(0.25, 0.9)
        y = low[1] + rng.uniform(0.5, 0.95) * reach[1]
        corners = np.array([[-wide, 0], [wide, rng.normal(0, 0.05) * wide], [wide, 0.6 * size], [-wide, 0.6 * size]])
    elif kind == 1:  # a post or a bar
        thick, angle = size * rng.uniform(0.02, 0.07), rng.normal(0, 0.15) + (np.pi / 2 if rng.random() < 0.35 else 0)
        long = np.array([np.sin(angle), np.cos(angle)]) * size * rng.uniform(0.5, 1.5)
        side = np.array([long[1], -long[0]]) / np.linalg.norm(long) * thick
        corners = np.array([long + side, long - side, -long - side, -long + side])
    elif kind == 2:  # a ball
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = np.column_stack([np.cos(turn), np.sin(turn) * rng.uniform(0.6, 1.2)]) * size * rng.uniform(0.05, 0.16)
    else:  # a shrub
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radius = size * rng.uniform(0.08, 0.22) * rng.uniform(0.6, 1.2, (40, 1))
        corners = np.column_stack([np.cos(turn), np.sin(turn)]) * radius
    corners = corners + np.array([x, y])
    left, top = (max(int(v), 0) for v in np.floor(corners.min(0)))
    right, bottom = min(int(corners[:, 0].max()) + 1, width), min(int(corners[:, 1].max()) + 1, height)
    if right - left < 2 or bottom - top < 2:
        return None
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.round(corners - [left, top]).astype(np.int32)], 255, cv2.LINE_AA)
    tone = random_crop(rng, noise_tile(), (bottom - top, right - left)) * np.float32(rng.uniform(2, 30))
    across = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.7, 1), right - left, dtype=np.float32)
    colors = np.clip((rng.uniform(0, 255, 3).astype(np.float32) + tone[..., None]) * across[:, None], 0, 255)
    return Obstacle(mask, colors, left, top)
