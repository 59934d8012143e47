"""Shading of a hand: skin, nails, creases and sleeve as a colored layer.

Colors are BGR. This module computes in linear light (the square of an image value in [0, 1]); its inputs and outputs are image
values in [0, 255].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.hand.skeleton import Hand
from hgfast.pipelines.synthetic_data.hand.solids import PALM, SLEEVE, HandSolid
from hgfast.pipelines.synthetic_data.render.background import noise_tile
from hgfast.pipelines.synthetic_data.render.camera import IMAGE_SIZE, Float32Array, FloatArray
from hgfast.pipelines.synthetic_data.render.light import (
    Indices,
    Light,
    bump,
    sample_light,
    shade_layer,
    smoothstep,
    surface_points,
)
from hgfast.pipelines.synthetic_data.render.render import SUPERSAMPLING, GBuffer, project_solids, to_image_space

RENDER_SIZE = IMAGE_SIZE * SUPERSAMPLING

SKIN_TONES = np.array(
    [
        *([204, 219, 246], [178, 202, 238], [150, 180, 226], [120, 154, 208]),
        *([92, 124, 182], [66, 94, 150], [46, 66, 112], [32, 46, 80]),
    ],
    np.float32,
)
"""Skin colors from light to dark, BGR image values."""
CREASE_DARKENING = np.array([[0.40], [0.38], [0.28]], np.float32)
"""Fraction of each channel that a crease absorbs."""
REDNESS = np.array([[0.30], [0.27], [0.10]], np.float32)
"""Fraction of each channel that blood under the skin absorbs."""


@dataclass(frozen=True)
class SkinMaterial:
    """One person's skin and sleeve under one light, linear BGR.

    `skin`, `inside` (of the palm), `nail`, `cloth`: colors (3,). `light`: the lamps. `grain`: strength of the texture. `ruddy`:
    strength of redness. `tile`: row and column of the noise tile where the texture begins.
    """

    skin: Float32Array
    inside: Float32Array
    nail: Float32Array
    cloth: Float32Array
    light: Light
    grain: float
    ruddy: float
    tile: tuple[int, int]


def sample_skin_tone(rng: Generator) -> Float32Array:
    """Sample a realistic skin color (3,), BGR image values in [0, 255]."""
    position = rng.uniform(0, len(SKIN_TONES) - 1)
    low = min(int(position), len(SKIN_TONES) - 2)
    tone = SKIN_TONES[low] + (position - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    return np.clip(tone * rng.normal(1, [0.05, 0.03, 0.03]), 15, 250).astype(np.float32)


def sample_material(rng: Generator, skin: Float32Array) -> SkinMaterial:
    """Sample a hand's material for a skin color (3,)."""
    linear = (skin / 255) ** 2
    dark = 1 - float(linear.mean())
    pale = np.array([0.42, 0.50, 0.74], np.float32)
    inside = linear + (pale - linear) * rng.uniform(0.10, 0.25) + dark**4 * 0.25 * (pale - linear)
    nail = linear * np.array([1.10, 1.05, 1.08]) + rng.uniform(0.02, 0.10)
    if rng.random() < 0.12:
        nail = rng.uniform(0.02, 0.8, 3)  # varnish
    return SkinMaterial(
        skin=linear,
        inside=np.asarray(inside, np.float32),
        nail=np.asarray(nail, np.float32),
        cloth=(rng.uniform(0.1, 0.9, 3) ** 2).astype(np.float32),
        light=sample_light(rng),
        grain=rng.uniform(0.02, 0.07),
        ruddy=rng.uniform(0.5, 1.3),
        tile=(int(rng.integers(0, 64)), int(rng.integers(0, 64))),
    )


def shade_hand(
    surface: GBuffer, parts: Sequence[HandSolid], hand: Hand, material: SkinMaterial
) -> tuple[Float32Array, Float32Array]:
    """Return the layer of `shade_layer`, and the coverage by skin (P, P)."""
    where, part, normal, position = surface_points(surface)
    position[:2] += 0.5
    cloth = np.array([p.limb == SLEEVE for p in parts])[part]

    color = skin_albedo(position, normal, part, parts, hand, material)
    color[:, cloth] = material.cloth[:, None]
    grain = noise_tile()[
        material.tile[0] : material.tile[0] + RENDER_SIZE, material.tile[1] : material.tile[1] + RENDER_SIZE
    ].take(where)
    texture = 1 + np.float32(material.grain) * grain
    size = (IMAGE_SIZE, IMAGE_SIZE)
    layer = shade_layer(surface, where, normal, color, material.light, texture, ~cloth, size)
    skin = np.zeros(RENDER_SIZE * RENDER_SIZE, np.float32)
    skin[where] = ~cloth
    return layer, cv2.resize(skin.reshape(RENDER_SIZE, RENDER_SIZE), size, interpolation=cv2.INTER_AREA)


def skin_albedo(
    points: Float32Array, normal: Float32Array, part: Indices, parts: Sequence[HandSolid], hand: Hand, material: SkinMaterial
) -> Float32Array:
    """Return the albedo (3, N) of skin and nails at N surface points (3, N) in image space."""
    start, bone, back, side = part_frames(parts, hand.K)
    limb = np.array([p.limb for p in parts])
    dorsal = gathered_dot(normal, back, part)
    inner = smoothstep(-dorsal, -0.15, 0.45) * (limb <= SLEEVE - 1).astype(np.float32).take(part)
    albedo = material.skin[:, None] + inner * (material.inside - material.skin)[:, None]

    palm = np.flatnonzero((limb == PALM)[part] & (inner > 0))
    if len(palm):
        lines = palm_creases(points.take(palm, axis=1), hand) * inner[palm]
        albedo[:, palm] *= 1 - CREASE_DARKENING * np.minimum(lines, 1)

    phalanx = np.flatnonzero(((limb >= 1) & (limb <= 5))[part])
    if len(phalanx):
        which = part[phalanx]
        along = gathered_dot(points.take(phalanx, axis=1), bone, which) - (start * bone).sum(1)[which]
        across = gathered_dot(normal.take(phalanx, axis=1), side, which)
        bone_types = np.array([[p.nail, p.segment + (p.limb == 1) == 0, p.segment + (p.limb == 1) == 1] for p in parts])
        albedo[:, phalanx] = finger_albedo(
            albedo.take(phalanx, axis=1), along, across, dorsal[phalanx], inner[phalanx], bone_types[which].T, material
        )
    return albedo


def gathered_dot(vectors: Float32Array, table: Float32Array, which: Indices) -> Float32Array:
    """Return the dot product (N,) of vectors (3, N) with the rows of `table` (P, 3) selected by `which` (N,)."""
    x, y, z = np.ascontiguousarray(table.T)
    return vectors[0] * x.take(which) + vectors[1] * y.take(which) + vectors[2] * z.take(which)


def part_frames(parts: Sequence[HandSolid], K: FloatArray) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
    """Return for each part in image space (P, 3): its start, its axis over its squared length, unit vectors to back and side."""
    projected = [points for points, _ in project_solids(parts, K)]
    start = np.array([points[0] for points in projected])
    bone = np.array([points[1] - points[0] for points in projected])
    back = direction_to_image_space(np.array([p.dorsal for p in parts]), np.array([p.points[0] for p in parts]))
    length = np.maximum((bone * bone).sum(1, keepdims=True), 1)
    back -= bone * (bone * back).sum(1, keepdims=True) / length
    back /= np.linalg.norm(back, axis=1, keepdims=True) + 1e-6
    side = np.cross(bone / np.sqrt(length), back)
    f = np.float32
    return start.astype(f), (bone / length).astype(f), back.astype(f), side.astype(f)


def finger_albedo(
    albedo: Float32Array,
    along: Float32Array,
    across: Float32Array,
    dorsal: Float32Array,
    inner: Float32Array,
    bone_types: NDArray[np.bool_],
    material: SkinMaterial,
) -> Float32Array:
    """Return the albedo (3, N) of fingers with knuckles, creases and nails.

    `along` is 0..1 from joint to joint; `across` and `dorsal` are the components of the normal to the side and the back; `inner`
    is the degree to which a point belongs to the palm side; `bone_types` (3, N) marks bones with nails, bones at the palm and
    middle bones.
    """
    tip, first, second = bone_types
    outer = np.maximum(dorsal, 0)
    knuckle = bump(along, 0.0, 0.16) + bump(along, 1.0, 0.16) * ~tip
    tint = knuckle * outer + np.float32(0.8) * smoothstep(along, 0.55, 1.1) * tip * inner
    albedo *= 1 - REDNESS * (np.float32(material.ruddy) * tint)
    wrinkles = (bump(along, -0.02, 0.03) + bump(along, 0.07, 0.025)) * outer * ~first * np.float32(0.25)
    creases = (bump(along, 0.0, 0.035) + bump(along, 0.10, 0.025) * second) * ~first + bump(along, 0.47, 0.03) * first
    albedo *= 1 - CREASE_DARKENING * np.minimum(creases * inner + wrinkles, 1)

    long, wide = (along - np.float32(0.82)) / np.float32(0.42), across / np.float32(0.72)
    long, wide = long * long, wide * wide
    shape = long * long + wide * wide
    near = tip & (dorsal > 0.25)
    nail, rim = near & (shape < 1), near & (shape >= 1) & (shape < 1.5)
    albedo[:, nail] = material.nail[:, None]
    albedo[:, rim] *= 0.85
    albedo[:, nail & (along > 1.10)] *= 0.6
    albedo[:, nail & (along > 1.10)] += 0.25
    return albedo


def direction_to_image_space(direction: FloatArray, point: FloatArray) -> FloatArray:
    """Convert camera-frame directions (..., 3) at camera-frame points (..., 3) to unit directions (..., 3) of image space."""
    flat = direction[..., :2] - point[..., :2] / point[..., 2:] * direction[..., 2:]
    turned = np.concatenate([flat, direction[..., 2:]], axis=-1)
    return turned / np.linalg.norm(turned, axis=-1, keepdims=True)


def palm_creases(points: Float32Array, hand: Hand) -> Float32Array:
    """Return the strength (N,) of the three main creases of the palm at points (3, N) in image space."""
    wrist = hand.to_camera(np.zeros(3))
    scale = SUPERSAMPLING * hand.K[0, 0] / wrist[2] * hand.shape.size
    axes = np.array([direction_to_image_space(hand.rotation[:, axis], wrist) for axis in (0, 1)], np.float32) / np.float32(scale)
    start = to_image_space(wrist, hand.K)[:2]
    origin = np.array([*start, 0], np.float32)  # w is relative to a carpal bone, so that the wrist is near 0
    x, y = axes @ (points - origin[:, None])
    life = np.hypot(x + 0.030, y - 0.030) - 0.036
    head = y - 0.060 + 0.35 * (x + 0.025) + 6 * x * x
    heart = y - 0.068 - 9 * (x - 0.036) * (x + 0.006) * (x < 0.036)
    lines = bump(life, 0, 0.0011) * (x > -0.028)
    lines += bump(head, 0, 0.0011) * (x < 0.022) + bump(heart, 0, 0.0011) * (x > -0.012)
    return lines
