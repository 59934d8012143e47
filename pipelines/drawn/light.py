"""Lamps and what they do to a surface.

What may enter: light on unit normals, shade in corners, the curves that blend. Directions are those of picture space
(u right, v down, w away); light is linear (the square of a picture value in [0, 1]), colours are BGR.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from pipelines.drawn.camera import Floats
from pipelines.drawn.render import EMPTY, FINE, Surface


@dataclass(frozen=True)
class Light:
    """Unit vectors to the lamps `main` and `fill` (3,), colours `lamp`, `weak` and `ambient` (3,), `gloss` in [0, 1]."""

    main: Floats
    fill: Floats
    lamp: Floats
    weak: Floats
    ambient: Floats
    gloss: float


def sample_light(rng: Generator) -> Light:
    """A strong lamp, a weak one and the sky, from anywhere on the camera's side."""

    def lamp_from(side: float) -> Floats:
        angle, lift = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 1.2)
        flat = np.cos(lift) * side
        return np.array([np.cos(angle) * flat, np.sin(angle) * flat, -np.sqrt(1 - flat * flat)], np.float32)

    def colour(strength: float) -> Floats:
        warm = rng.normal(0, 0.07)
        return (strength * np.array([1 - warm, 1, 1 + warm])).astype(np.float32)

    return Light(
        main=lamp_from(1.0),
        fill=lamp_from(0.9),
        lamp=colour(rng.uniform(0.55, 1.05)),
        weak=colour(rng.uniform(0.05, 0.3)),
        ambient=colour(rng.uniform(0.18, 0.5)),
        gloss=rng.uniform(0.01, 0.12),
    )


def shine(normal: Floats, light: Light) -> Floats:
    """Diffuse light (3, N) on unit normals (3, N); red light creeps round the edge of shadow as it does in skin."""
    wrap = np.array([0.10, 0.15, 0.32], np.float32)[:, None]
    main = np.maximum((light.main @ normal + wrap) / (1 + wrap), 0)
    side = np.maximum(light.fill @ normal, 0)
    sky = light.ambient[:, None] * (0.8 - 0.2 * normal[1])
    return light.lamp[:, None] * main + light.weak[:, None] * side + sky


def highlight(normal: Floats, light: Light) -> Floats:
    """Mirrored light (N,) on unit normals (3, N)."""
    half = light.main + np.array([0, 0, -1], np.float32)
    half /= np.linalg.norm(half)
    facing = np.maximum(half @ normal, 0)
    facing = facing * facing
    facing = facing * facing
    return np.float32(light.gloss) * (facing * facing) ** 2


def contact(surface: Surface) -> Floats:
    """Light that reaches each subpixel (R, C), less where the surface lies behind what is next to it."""
    hit = (surface.part != EMPTY).astype(np.float32)
    rows, columns = hit.shape
    half = (columns // FINE, rows // FINE)
    depth = cv2.resize(surface.depth * hit, half, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(hit, half, interpolation=cv2.INTER_AREA)
    own = depth / np.maximum(weight, 1e-3)
    shade = np.ones_like(own)
    for size, strength in ((7, 0.3), (19, 0.55)):
        around = cv2.blur(depth, (size, size)) / np.maximum(cv2.blur(weight, (size, size)), 1e-3)
        behind = (own - around) / np.float32(FINE * size)
        shade -= strength * np.clip(behind, 0, 1)
    return cv2.resize(np.maximum(shade, 0.25), (columns, rows), interpolation=cv2.INTER_LINEAR)


def smooth(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bell(value: Floats, middle: float, width: float) -> Floats:
    """1 at `middle`, falling to nothing within two `width`s."""
    t = (value - np.float32(middle)) / np.float32(2 * width)
    return np.maximum(1 - t * t, 0) ** 2
