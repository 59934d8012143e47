"""Backgrounds for synthetic pictures: green screens and cluttered scenes.

What may enter: pictures with no subject in them, BGR uint8 (H, W, 3), from a random generator.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.drawn.camera import Bytes, Floats

TILE = 512
Size = tuple[int, int]
"""Height and width in pixels."""


@lru_cache(maxsize=1)
def noise_tile() -> Floats:
    """Noise of several scales (512, 512), mean 0, deviation 1; always the same, to be cut at random places."""
    rng = np.random.default_rng(20190831)
    tile = np.zeros((TILE, TILE), np.float32)
    for cells, weight in ((512, 0.6), (256, 0.5), (128, 0.5), (48, 0.5), (16, 0.5)):
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        tile += weight * cv2.resize(grid, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    return (tile - tile.mean()) / tile.std()


@lru_cache(maxsize=1)
def sensor_tile() -> Floats:
    """White noise (512, 512, 3), deviation 1; always the same, to be cut at random places."""
    return np.random.default_rng(19731020).standard_normal((TILE, TILE, 3), dtype=np.float32)


def cut(rng: Generator, tile: Floats, size: Size) -> Floats:
    """A random piece (H, W) of a tile, mirrored at the edges where it is larger than the tile; at most twice as large."""
    height, width = min(size[0], TILE), min(size[1], TILE)
    top, left = rng.integers(0, [TILE - height + 1, TILE - width + 1])
    piece = tile[top : top + height, left : left + width]
    if size == (height, width):
        return piece
    return cv2.copyMakeBorder(piece, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_REFLECT)


def green_screen(rng: Generator, size: Size) -> Bytes:
    """An unevenly lit green cloth."""
    green = np.array([rng.uniform(35, 100), rng.uniform(130, 205), rng.uniform(30, 90)])
    lit = cv2.resize(rng.uniform(0.72, 1.15, (3, 3)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    lit = lit + 0.02 * cut(rng, noise_tile(), size)
    return np.clip(lit[..., None] * green.astype(np.float32), 0, 255).astype(np.uint8)


def clutter(rng: Generator, size: Size, skin: Floats) -> Bytes:
    """A scene of patterns, shapes and things that resemble fingers of the colour `skin` (3,), out of focus at will."""
    scene = ground(rng, size)
    colours = rng.integers(0, 256, (6, 3))  # a scene has a palette
    for _ in range(rng.integers(4, 22)):
        add_shape(rng, scene, colours)
    scene = cv2.transform(scene, saturate(rng.uniform(0.05, 0.85)))
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            add_blob(rng, scene, skin)
    if rng.random() < 0.5:
        add_sticks(rng, scene, skin if rng.random() < 0.6 else colours[0].astype(np.float32))
    texture = cut(rng, noise_tile(), size)
    scene = cv2.addWeighted(scene, 1.0, cv2.merge([texture] * 3), float(rng.uniform(0, 14)), 0.0, dtype=cv2.CV_8U)
    sigma = rng.choice([0.0, 0.7, 1.5, 3.0], p=[0.3, 0.3, 0.25, 0.15])
    return cv2.GaussianBlur(scene, (0, 0), sigma) if sigma else scene


def saturate(amount: float) -> NDArray[np.float64]:
    """The linear map (3, 3) of colours that takes away (below 1) or adds (above 1) colour and leaves grey as it is."""
    grey = np.full((3, 3), 1 / 3)
    return grey + amount * (np.eye(3) - grey)


def ground(rng: Generator, size: Size) -> Bytes:
    """The lowest layer of a scene: patches of colour, a gradient, or wood, cloth and chequers."""
    kind = rng.random()
    if kind < 0.45:
        cells = int(rng.integers(2, 12))
        patches = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        mean = patches.mean((0, 1))
        patches = (mean + rng.uniform(0.2, 1.0) * (patches - mean)).astype(np.uint8)
        how = cv2.INTER_NEAREST if rng.random() < 0.2 else cv2.INTER_CUBIC
        return cv2.resize(patches, size[::-1], interpolation=how)
    angle, pitch, phase = rng.uniform(0, np.pi), rng.uniform(5, 50), rng.uniform(0, 9)
    down, along = (np.arange(side, dtype=np.float32) for side in size)
    u = np.float32(np.cos(angle)) * along + np.float32(np.sin(angle)) * down[:, None]
    v = np.float32(np.cos(angle)) * down[:, None] - np.float32(np.sin(angle)) * along
    turn = np.float32(2 * np.pi / pitch)
    if kind < 0.65:  # wood: stretched noise in rings
        mix = np.sin(u * turn + np.float32(rng.uniform(0.5, 3)) * cut(rng, noise_tile(), size))
    elif kind < 0.8:  # chequers
        mix = np.sign(np.sin(u * turn + np.float32(phase)) * np.sin(v * turn))
    elif kind < 0.9:  # cloth
        mix = np.sin(u * turn) * 0.5 + np.sin(v * (turn * np.float32(rng.uniform(0.5, 2)))) * 0.5
    else:
        mix = np.clip((u - v) / max(size), -1, 1)
    one, two = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    two = one + np.float32(rng.uniform(0.3, 1.0)) * (two - one)
    share = (mix[..., None] + 1) * np.float32(0.5)
    return (one + share * (two - one)).astype(np.uint8)


def add_shape(rng: Generator, scene: Bytes, colours: NDArray[np.int64]) -> None:
    """One polygon, ellipse, line or frame in a colour near one of the palette."""
    size, side = scene.shape[1::-1], min(scene.shape[:2])
    colour = np.clip(colours[rng.integers(0, len(colours))] + rng.normal(0, 18, 3), 0, 255).tolist()
    x, y = (int(v) for v in rng.uniform(-0.1, 1.1, 2) * size)
    reach = side * rng.uniform(0.04, 0.35)
    kind = rng.integers(0, 5)
    if kind == 0:
        corners = np.array([x, y]) + reach * rng.normal(0, 0.8, (int(rng.integers(3, 7)), 2))
        cv2.fillPoly(scene, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    elif kind == 1:
        axes = (int(reach * rng.uniform(0.3, 1)) + 1, int(reach * rng.uniform(0.3, 1)) + 1)
        cv2.ellipse(scene, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        end = (int(rng.uniform(0, size[0])), int(rng.uniform(0, size[1])))
        cv2.line(scene, (x, y), end, colour, int(rng.integers(1, 12)), cv2.LINE_AA)
    elif kind == 3:
        box = cv2.boxPoints(((x, y), (reach, reach * rng.uniform(0.2, 2)), rng.uniform(0, 90)))
        cv2.fillConvexPoly(scene, box.astype(np.int32), colour, cv2.LINE_AA)
    else:
        end = (x + int(reach), y + int(reach * rng.uniform(0.3, 1.5)))
        cv2.rectangle(scene, (x, y), end, colour, int(rng.integers(1, 8)), cv2.LINE_AA)


def add_blob(rng: Generator, scene: Bytes, skin: Floats) -> None:
    """A skin-coloured patch: a face, another arm, a table of that colour."""
    size, side = scene.shape[1::-1], min(scene.shape[:2])
    colour = np.clip(skin * rng.uniform(0.6, 1.15) + rng.normal(0, 12, 3), 0, 255).tolist()
    x, y = (int(v) for v in rng.uniform(0, size, 2))
    axes = (int(side * rng.uniform(0.05, 0.3)), int(side * rng.uniform(0.05, 0.2)))
    cv2.ellipse(scene, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)


def add_sticks(rng: Generator, scene: Bytes, colour: Floats) -> None:
    """A few parallel shaded bars with round ends, as fingers are."""
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
            one, two = ((p + offset).astype(int).tolist() for p in (begin, end))
            tone = np.clip(colour * shade * dim, 0, 255).tolist()
            cv2.line(scene, one, two, tone, max(1, int(width * thick)), cv2.LINE_AA)
