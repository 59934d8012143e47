"""Random backgrounds for synthetic images, BGR uint8 (H, W, 3): green screens and cluttered scenes."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.render.camera import Float32Array, Image

TILE_SIZE = 512
Size = tuple[int, int]
"""Height and width in pixels."""


@lru_cache(maxsize=1)
def noise_tile() -> Float32Array:
    """Return fixed noise of several scales (512, 512), mean 0, deviation 1, to crop at random positions."""
    rng = np.random.default_rng(20190831)
    tile = np.zeros((TILE_SIZE, TILE_SIZE), np.float32)
    for cells, weight in ((512, 0.6), (256, 0.5), (128, 0.5), (48, 0.5), (16, 0.5)):
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        tile += weight * cv2.resize(grid, (TILE_SIZE, TILE_SIZE), interpolation=cv2.INTER_CUBIC)
    return (tile - tile.mean()) / tile.std()


@lru_cache(maxsize=1)
def sensor_tile() -> Float32Array:
    """Return fixed white noise (512, 512, 3), deviation 1, to crop at random positions."""
    return np.random.default_rng(19731020).standard_normal((TILE_SIZE, TILE_SIZE, 3), dtype=np.float32)


def random_crop(rng: Generator, tile: Float32Array, size: Size) -> Float32Array:
    """Return a random crop (H, W) of a tile, mirrored at the edges if it is larger than the tile; at most twice as large."""
    height, width = min(size[0], TILE_SIZE), min(size[1], TILE_SIZE)
    top, left = rng.integers(0, [TILE_SIZE - height + 1, TILE_SIZE - width + 1])
    crop = tile[top : top + height, left : left + width]
    if size == (height, width):
        return crop
    return cv2.copyMakeBorder(crop, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_REFLECT)


def green_screen(rng: Generator, size: Size) -> Image:
    """Render an unevenly lit green cloth."""
    green = np.array([rng.uniform(35, 100), rng.uniform(130, 205), rng.uniform(30, 90)])
    lit = cv2.resize(rng.uniform(0.72, 1.15, (3, 3)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    lit = lit + 0.02 * random_crop(rng, noise_tile(), size)
    return np.clip(lit[..., None] * green.astype(np.float32), 0, 255).astype(np.uint8)


def cluttered_scene(rng: Generator, size: Size, skin: Float32Array) -> Image:
    """Render patterns, shapes and finger-like bars of the color `skin` (3,), sometimes out of focus."""
    scene = base_layer(rng, size)
    palette = rng.integers(0, 256, (6, 3))  # colors of this scene
    for _ in range(rng.integers(4, 22)):
        add_shape(rng, scene, palette)
    scene = cv2.transform(scene, saturation_matrix(rng.uniform(0.05, 0.85)))
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            add_blob(rng, scene, skin)
    if rng.random() < 0.5:
        add_sticks(rng, scene, skin if rng.random() < 0.6 else palette[0].astype(np.float32))
    texture = random_crop(rng, noise_tile(), size)
    scene = cv2.addWeighted(scene, 1.0, cv2.merge([texture] * 3), float(rng.uniform(0, 14)), 0.0, dtype=cv2.CV_8U)
    sigma = rng.choice([0.0, 0.7, 1.5, 3.0], p=[0.3, 0.3, 0.25, 0.15])
    return cv2.GaussianBlur(scene, (0, 0), sigma) if sigma else scene


def saturation_matrix(amount: float) -> NDArray[np.float64]:
    """Return the linear color map (3, 3) that lowers (below 1) or raises (above 1) saturation and preserves gray."""
    gray = np.full((3, 3), 1 / 3)
    return gray + amount * (np.eye(3) - gray)


def base_layer(rng: Generator, size: Size) -> Image:
    """Render the lowest layer of a scene: patches of color, a gradient, wood, cloth or a checkerboard."""
    choice = rng.random()
    if choice < 0.45:
        cells = int(rng.integers(2, 12))
        patches = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        mean = patches.mean((0, 1))
        patches = (mean + rng.uniform(0.2, 1.0) * (patches - mean)).astype(np.uint8)
        interpolation = cv2.INTER_NEAREST if rng.random() < 0.2 else cv2.INTER_CUBIC
        return cv2.resize(patches, size[::-1], interpolation=interpolation)
    angle, pitch, phase = rng.uniform(0, np.pi), rng.uniform(5, 50), rng.uniform(0, 9)
    down, along = (np.arange(side, dtype=np.float32) for side in size)
    u = np.float32(np.cos(angle)) * along + np.float32(np.sin(angle)) * down[:, None]
    v = np.float32(np.cos(angle)) * down[:, None] - np.float32(np.sin(angle)) * along
    turn = np.float32(2 * np.pi / pitch)
    if choice < 0.65:  # wood: stretched noise in rings
        mix = np.sin(u * turn + np.float32(rng.uniform(0.5, 3)) * random_crop(rng, noise_tile(), size))
    elif choice < 0.8:  # checkerboard
        mix = np.sign(np.sin(u * turn + np.float32(phase)) * np.sin(v * turn))
    elif choice < 0.9:  # cloth
        mix = np.sin(u * turn) * 0.5 + np.sin(v * (turn * np.float32(rng.uniform(0.5, 2)))) * 0.5
    else:
        mix = np.clip((u - v) / max(size), -1, 1)
    first, second = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    second = first + np.float32(rng.uniform(0.3, 1.0)) * (second - first)
    share = (mix[..., None] + 1) * np.float32(0.5)
    return (first + share * (second - first)).astype(np.uint8)


def add_shape(rng: Generator, scene: Image, colors: NDArray[np.int64]) -> None:
    """Draw one polygon, ellipse, line or frame in a color near one of the palette."""
    size, side = scene.shape[1::-1], min(scene.shape[:2])
    color = np.clip(colors[rng.integers(0, len(colors))] + rng.normal(0, 18, 3), 0, 255).tolist()
    x, y = (int(v) for v in rng.uniform(-0.1, 1.1, 2) * size)
    reach = side * rng.uniform(0.04, 0.35)
    kind = rng.integers(0, 5)
    if kind == 0:
        corners = np.array([x, y]) + reach * rng.normal(0, 0.8, (int(rng.integers(3, 7)), 2))
        cv2.fillPoly(scene, [corners.astype(np.int32)], color, cv2.LINE_AA)
    elif kind == 1:
        axes = (int(reach * rng.uniform(0.3, 1)) + 1, int(reach * rng.uniform(0.3, 1)) + 1)
        cv2.ellipse(scene, (x, y), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)
    elif kind == 2:
        end = (int(rng.uniform(0, size[0])), int(rng.uniform(0, size[1])))
        cv2.line(scene, (x, y), end, color, int(rng.integers(1, 12)), cv2.LINE_AA)
    elif kind == 3:
        box = cv2.boxPoints(((x, y), (reach, reach * rng.uniform(0.2, 2)), rng.uniform(0, 90)))
        cv2.fillConvexPoly(scene, box.astype(np.int32), color, cv2.LINE_AA)
    else:
        end = (x + int(reach), y + int(reach * rng.uniform(0.3, 1.5)))
        cv2.rectangle(scene, (x, y), end, color, int(rng.integers(1, 8)), cv2.LINE_AA)


def add_blob(rng: Generator, scene: Image, skin: Float32Array) -> None:
    """Draw a skin-colored ellipse, such as a face, another arm or a table."""
    size, side = scene.shape[1::-1], min(scene.shape[:2])
    color = np.clip(skin * rng.uniform(0.6, 1.15) + rng.normal(0, 12, 3), 0, 255).tolist()
    x, y = (int(v) for v in rng.uniform(0, size, 2))
    axes = (int(side * rng.uniform(0.05, 0.3)), int(side * rng.uniform(0.05, 0.2)))
    cv2.ellipse(scene, (x, y), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)


def add_sticks(rng: Generator, scene: Image, color: Float32Array) -> None:
    """Draw a few parallel shaded bars with round ends, similar to fingers."""
    size, side = scene.shape[1::-1], min(scene.shape[:2])
    angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.035, 0.09) * side
    along, apart = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    start = rng.uniform(0, size, 2)
    dim, lean = rng.uniform(0.6, 1.1), rng.uniform(-0.25, 0.25)
    for number in range(rng.integers(1, 6)):
        begin = start + number * width * rng.uniform(0.9, 1.4) * apart
        end = begin + side * rng.uniform(0.15, 0.45) * (along + rng.normal(0, 0.12, 2))
        for shade, thick, shift in ((0.6, 1.0, 0.0), (0.85, 0.75, 0.5), (1.0, 0.45, 1.0)):
            offset = shift * lean * width * apart
            first, last = ((p + offset).astype(int).tolist() for p in (begin, end))
            tone = np.clip(color * shade * dim, 0, 255).tolist()
            cv2.line(scene, first, last, tone, max(1, int(width * thick)), cv2.LINE_AA)
