"""What is round people: walls, the floor they stand on, their shadows on it, things that stand in front of them.

What may enter: surroundings that know where people are. Pictures are BGR (H, W, 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from pipelines.drawn.background import clutter, cut, noise_tile
from pipelines.drawn.camera import Array, Bytes, Floats, project
from pipelines.drawn.crowd import CLIP, Crowd
from pipelines.drawn.people import PELVIS

QUARTER = 4
CASTING = (
    *((6, 7, 0.15), (8, 9, 0.10), (12, 13, 0.08), (2, 3, 0.11)),  # trunk, head, shoulders, hips
    *((12, 11, 0.06), (11, 10, 0.05), (13, 14, 0.06), (14, 15, 0.05)),  # arms
    *((2, 1, 0.09), (1, 0, 0.06), (3, 4, 0.09), (4, 5, 0.06)),  # legs
)
"""Joints between which a shadow is thrown, and how wide it is in statures."""


@dataclass(frozen=True)
class Thing:
    """Something opaque before people: a mask (h, w) uint8, its colours (h, w, 3) and where its top left corner is."""

    mask: Bytes
    colours: Floats
    left: int
    top: int


def scenery(rng: Generator, crowd: Crowd, skin: Floats) -> Bytes:
    """A background with clutter, mostly a floor, and the shadows of people on it."""
    height, width = crowd.size
    coarse = 2 if max(crowd.size) > 400 and rng.random() < 0.6 else 1
    scene = clutter(rng, (-(-height // coarse), -(-width // coarse)), skin)
    if coarse > 1:
        scene = cv2.resize(scene, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.75:
        lay_floor(rng, scene, crowd)
    if rng.random() < 0.8:
        shade(rng, scene, crowd)
    return scene


def lay_floor(rng: Generator, scene: Bytes, crowd: Crowd) -> None:
    """A floor as far as a wall or the horizon, plain, rough, or with lines that run away from the eye."""
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
    colour = rng.uniform(30, 230, 3)
    colour = colour.mean() + rng.uniform(0.1, 0.7) * (colour - colour.mean())
    ground = np.empty_like(scene)
    ground[:] = np.clip(colour, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        draw_lines(rng, ground, crowd, far, colour)
    texture = cut(rng, noise_tile(), crowd.size)
    ground = cv2.addWeighted(ground, 1.0, cv2.merge([texture] * 3), float(rng.uniform(1, 16)), 0.0, dtype=cv2.CV_8U)
    share = cv2.merge([mask] * 3)
    scene[:] = cv2.add(cv2.multiply(ground, share, scale=1 / 255), cv2.multiply(scene, 255 - share, scale=1 / 255))


def draw_lines(rng: Generator, ground: Bytes, crowd: Crowd, far: float, colour: Array) -> None:
    """Seams of planks or tiles on the floor."""
    ahead = np.array([0, 0, 1.0]) - crowd.up[2] * crowd.up
    ahead /= np.linalg.norm(ahead)
    turn = rng.uniform(-1.2, 1.2)
    across = np.cross(crowd.up, ahead)
    along, aside = np.cos(turn) * ahead + np.sin(turn) * across, np.cos(turn) * across - np.sin(turn) * ahead
    pitch = rng.uniform(0.25, 1.2)
    middle = -crowd.floor * crowd.up + crowd.figures[0].joints[PELVIS, 2] * ahead
    ink = np.clip(colour * rng.choice([0.6, 0.8, 1.25]), 0, 255).tolist()
    for one, other in ((along, aside), (aside, along))[: int(rng.integers(1, 3))]:
        starts = middle + (np.arange(-12, 13)[:, None] * pitch) * other
        reach = np.linspace(-min(far, 12), min(far, 12), 30)
        points = starts[:, None] + reach[:, None] * one
        for line in points:
            ahead_of_lens = line[line[:, 2] > CLIP]
            if len(ahead_of_lens) > 1:
                ends = project(ahead_of_lens[[0, -1]], crowd.K)
                if np.abs(ends).max() < 3e4:
                    start, end = np.round(ends).astype(int).tolist()
                    cv2.line(ground, start, end, ink, int(rng.integers(1, 3)), cv2.LINE_AA)


def shade(rng: Generator, scene: Bytes, crowd: Crowd) -> None:
    """Shadows of people on the floor, from a lamp somewhere above."""
    height, width = (-(-side // QUARTER) for side in crowd.size)
    mask = np.zeros((height, width), np.uint8)
    lamp = crowd.up + rng.normal(0, rng.choice([0.15, 0.6]), 3)
    lamp /= lamp @ crowd.up
    for figure in crowd.figures:
        joints = figure.joints
        thrown = joints - (joints @ crowd.up + crowd.floor)[:, None] * lamp
        if thrown[:, 2].min() < CLIP:
            continue
        pixels = project(thrown, crowd.K) / QUARTER
        if np.abs(pixels).max() > 8000:
            continue
        for one, other, wide in CASTING:
            thick = wide * figure.physique.stature * crowd.K[0, 0] / thrown[one, 2] / QUARTER
            start, end = np.round(pixels[[one, other]]).astype(int).tolist()
            cv2.line(mask, start, end, 255, max(1, min(250, round(thick))))
    blur = 2 * int(rng.integers(1, 2 + max(height, width) // 24)) + 1
    shadow: Floats = cv2.blur(mask, (blur, blur))
    light: Floats = 255 - np.float32(rng.uniform(0.25, 0.65)) * shadow
    light = cv2.resize(light, (width * QUARTER, height * QUARTER), interpolation=cv2.INTER_LINEAR)
    light = light[: crowd.size[0], : crowd.size[1]]
    scene[:] = cv2.multiply(scene, cv2.merge([light] * 3), scale=1 / 255, dtype=cv2.CV_8U)


def sample_thing(rng: Generator, crowd: Crowd) -> Thing | None:
    """A box, a post, a ball or a shrub before somebody, or None where it would lie beyond the picture."""
    height, width = crowd.size
    pixels = project(crowd.figures[int(rng.integers(0, len(crowd.figures)))].joints, crowd.K)
    low, high = pixels.min(0), pixels.max(0)
    reach = high - low
    x, y = low + rng.uniform(0, 1, 2) * reach
    size = float(max(reach.max(), 30))
    kind = rng.integers(0, 4)
    if kind == 0:  # a table, a wall, a box: hides what is below
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
    tone = cut(rng, noise_tile(), (bottom - top, right - left)) * np.float32(rng.uniform(2, 30))
    across = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.7, 1), right - left, dtype=np.float32)
    colours = np.clip((rng.uniform(0, 255, 3).astype(np.float32) + tone[..., None]) * across[:, None], 0, 255)
    return Thing(mask, colours, left, top)
