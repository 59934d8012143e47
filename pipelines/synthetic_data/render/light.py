"""Lamps and shading of a surface.

Directions are in image space (u right, v down, w away); light is linear (the square of an image value in [0, 1]); colors are BGR.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.render.camera import Float32Array
from hgfast.pipelines.synthetic_data.render.render import NO_PART, SUPERSAMPLING, GBuffer

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Light:
    """Two lamps and ambient light.

    `main_direction`, `fill_direction`: unit vectors to the lamps (3,). `main_color`, `fill_color`, `ambient`: colors (3,).
    `specular`: strength of reflections in [0, 1].
    """

    main_direction: Float32Array
    fill_direction: Float32Array
    main_color: Float32Array
    fill_color: Float32Array
    ambient: Float32Array
    specular: float


def sample_light(rng: Generator) -> Light:
    """Sample a strong lamp, a weak lamp and the sky, anywhere on the camera's side."""

    def random_direction(side: float) -> Float32Array:
        angle, lift = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 1.2)
        flat = np.cos(lift) * side
        return np.array([np.cos(angle) * flat, np.sin(angle) * flat, -np.sqrt(1 - flat * flat)], np.float32)

    def color(strength: float) -> Float32Array:
        warm = rng.normal(0, 0.07)
        return (strength * np.array([1 - warm, 1, 1 + warm])).astype(np.float32)

    return Light(
        main_direction=random_direction(1.0),
        fill_direction=random_direction(0.9),
        main_color=color(rng.uniform(0.55, 1.05)),
        fill_color=color(rng.uniform(0.05, 0.3)),
        ambient=color(rng.uniform(0.18, 0.5)),
        specular=rng.uniform(0.01, 0.12),
    )


def diffuse(normal: Float32Array, light: Light) -> Float32Array:
    """Return diffuse light (3, N) on unit normals (3, N); red light wraps around the edge of shadow, as in skin."""
    wrap = np.array([0.10, 0.15, 0.32], np.float32)[:, None]
    main = np.maximum((light.main_direction @ normal + wrap) / (1 + wrap), 0)
    side = np.maximum(light.fill_direction @ normal, 0)
    sky = light.ambient[:, None] * (0.8 - 0.2 * normal[1])
    return light.main_color[:, None] * main + light.fill_color[:, None] * side + sky


def specular(normal: Float32Array, light: Light) -> Float32Array:
    """Return specular light (N,) on unit normals (3, N)."""
    half = light.main_direction + np.array([0, 0, -1], np.float32)
    half /= np.linalg.norm(half)
    facing = np.maximum(half @ normal, 0)
    facing = facing * facing
    facing = facing * facing
    return np.float32(light.specular) * (facing * facing) ** 2


def ambient_occlusion(surface: GBuffer) -> Float32Array:
    """Return the fraction of light that reaches each subpixel (R, C): less where the surface lies behind its neighborhood."""
    hit = (surface.part != NO_PART).astype(np.float32)
    rows, columns = hit.shape
    half = (columns // SUPERSAMPLING, rows // SUPERSAMPLING)
    depth = cv2.resize(surface.depth * hit, half, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(hit, half, interpolation=cv2.INTER_AREA)
    smoothed_depth = depth / np.maximum(weight, 1e-3)
    shade = np.ones_like(smoothed_depth)
    for size, strength in ((7, 0.3), (19, 0.55)):
        neighbor_depth = cv2.blur(depth, (size, size)) / np.maximum(cv2.blur(weight, (size, size)), 1e-3)
        behind = (smoothed_depth - neighbor_depth) / np.float32(SUPERSAMPLING * size)
        shade -= strength * np.clip(behind, 0, 1)
    return cv2.resize(np.maximum(shade, 0.25), (columns, rows), interpolation=cv2.INTER_LINEAR)


def surface_points(surface: GBuffer) -> tuple[Indices, Indices, Float32Array, Float32Array]:
    """Return the indices (N,) of covered subpixels, their solids (N,), unit normals (3, N) and column, row and w (3, N)."""
    where = np.flatnonzero(surface.part.ravel() != NO_PART)
    u, v = surface.normal.reshape(2, -1).take(where, axis=1)
    normal = np.stack([u, v, -np.sqrt(np.maximum(1 - u * u - v * v, 0))])
    row, column = (index.astype(np.float32) for index in np.divmod(where, surface.part.shape[1]))
    return where, surface.part.take(where).astype(np.intp), normal, np.stack([column, row, surface.depth.take(where)])


def shade_layer(
    surface: GBuffer,
    where: Indices,
    normal: Float32Array,
    albedo: Float32Array,
    light: Light,
    texture: Float32Array,
    glossy: NDArray[np.bool_],
    size: tuple[int, int],
) -> Float32Array:
    """Shade the N surface points of `surface_points` with (3, N) linear BGR `albedo`, which is overwritten, and light times
    `texture` (N,); `glossy` (N,) points reflect the main lamp.

    Returns the layer (H, W, 4) of `size` (H, W): BGR image values in [0, 255] premultiplied by alpha in [0, 1].
    """
    albedo *= diffuse(normal, light)
    albedo *= ambient_occlusion(surface).take(where) * texture
    albedo += specular(normal, light) * glossy
    np.clip(albedo, 0, 1, out=albedo)
    np.sqrt(albedo, out=albedo)
    albedo *= 255
    rows, columns = surface.part.shape
    layer = np.zeros((rows * columns, 4), np.float32)
    layer[where] = np.concatenate([albedo, np.ones((1, len(where)), np.float32)]).T
    interpolation = cv2.INTER_AREA if size[0] < rows else cv2.INTER_LINEAR
    return cv2.resize(layer.reshape(rows, columns, 4), size[::-1], interpolation=interpolation)


def smoothstep(value: Float32Array, low: float, high: float) -> Float32Array:
    """Return 0 below `low`, 1 above `high`, and a smooth transition between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(value: Float32Array, middle: float, width: float) -> Float32Array:
    """Return 1 at `middle`, falling to 0 at a distance of two `width`s."""
    t = (value - np.float32(middle)) / np.float32(2 * width)
    return np.maximum(1 - t * t, 0) ** 2
