"""Skin, nails, creases and sleeve: the drawn surface of a hand as a coloured layer.

What may enter: how a visible surface gets its colour. Colours are BGR; inside this module linear light (the square of a
picture value in [0, 1]), at its border picture values in [0, 255].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.drawn.background import noise_tile
from pipelines.drawn.camera import PICTURE, Array, Floats
from pipelines.drawn.flesh import PALM, SLEEVE, Part
from pipelines.drawn.hands import Hand
from pipelines.drawn.light import Light, bell, contact, highlight, sample_light, shine, smooth
from pipelines.drawn.render import EMPTY, FINE, Surface, lay_out, to_picture

SIDE = PICTURE * FINE

TONES = np.array(
    [
        *([204, 219, 246], [178, 202, 238], [150, 180, 226], [120, 154, 208]),
        *([92, 124, 182], [66, 94, 150], [46, 66, 112], [32, 46, 80]),
    ],
    np.float32,
)
"""Skin from light to dark, BGR picture values."""


CREASE = np.array([[0.40], [0.38], [0.28]], np.float32)
"""How much a crease takes away from each channel."""
RUDDY = np.array([[0.30], [0.27], [0.10]], np.float32)
"""How much blood under the skin takes away from each channel."""
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Look:
    """One person's skin under one light, linear BGR.

    `skin`, `inside` (of the palm), `nail`, `cloth` (3,); `tile` where the texture begins; `ruddy` strength of tints.
    """

    skin: Floats
    inside: Floats
    nail: Floats
    cloth: Floats
    light: Light
    grain: float
    ruddy: float
    tile: tuple[int, int]


def sample_skin(rng: Generator) -> Floats:
    """A realistic skin colour (3,), BGR picture values in [0, 255]."""
    place = rng.uniform(0, len(TONES) - 1)
    low = min(int(place), len(TONES) - 2)
    tone = TONES[low] + (place - low) * (TONES[low + 1] - TONES[low])
    return np.clip(tone * rng.normal(1, [0.05, 0.03, 0.03]), 15, 250).astype(np.float32)


def sample_look(rng: Generator, skin: Floats) -> Look:
    """The rest of a hand's look for a skin colour (3,)."""

    linear = (skin / 255) ** 2
    dark = 1 - float(linear.mean())
    pale = np.array([0.42, 0.50, 0.74], np.float32)
    inside = linear + (pale - linear) * rng.uniform(0.10, 0.25) + dark**4 * 0.25 * (pale - linear)
    nail = linear * np.array([1.10, 1.05, 1.08]) + rng.uniform(0.02, 0.10)
    if rng.random() < 0.12:
        nail = rng.uniform(0.02, 0.8, 3)  # varnish
    return Look(
        skin=linear,
        inside=np.asarray(inside, np.float32),
        nail=np.asarray(nail, np.float32),
        cloth=(rng.uniform(0.1, 0.9, 3) ** 2).astype(np.float32),
        light=sample_light(rng),
        grain=rng.uniform(0.02, 0.07),
        ruddy=rng.uniform(0.5, 1.3),
        tile=(int(rng.integers(0, 64)), int(rng.integers(0, 64))),
    )


def paint(surface: Surface, parts: Sequence[Part], hand: Hand, look: Look) -> tuple[Floats, Floats]:
    """The hand as a layer (P, P, 4) of BGR in [0, 255] premultiplied by alpha in [0, 1], and how far skin covers (P, P)."""
    where = np.flatnonzero(surface.part.ravel() != EMPTY)
    part = surface.part.take(where).astype(np.intp)
    u, v = surface.normal.reshape(2, -1).take(where, axis=1)
    normal = np.stack([u, v, -np.sqrt(np.maximum(1 - u * u - v * v, 0))])
    place = np.stack([(where % SIDE).astype(np.float32), (where // SIDE).astype(np.float32), surface.depth.take(where)])
    place[:2] += 0.5
    cloth = np.array([p.limb == SLEEVE for p in parts])[part]

    colour = skin_colour(place, normal, part, parts, hand, look)
    colour[:, cloth] = look.cloth[:, None]
    grain = noise_tile()[look.tile[0] : look.tile[0] + SIDE, look.tile[1] : look.tile[1] + SIDE].take(where)
    light = contact(surface).take(where) * (1 + np.float32(look.grain) * grain)
    colour *= shine(normal, look.light)
    colour *= light
    colour += highlight(normal, look.light) * ~cloth
    np.clip(colour, 0, 1, out=colour)
    np.sqrt(colour, out=colour)
    colour *= 255

    layer = np.zeros((SIDE * SIDE, 4), np.float32)
    layer[where] = np.concatenate([colour, np.ones((1, len(where)), np.float32)]).T
    skin = np.zeros(SIDE * SIDE, np.float32)
    skin[where] = ~cloth
    small = (PICTURE, PICTURE)
    return (
        cv2.resize(layer.reshape(SIDE, SIDE, 4), small, interpolation=cv2.INTER_AREA),
        cv2.resize(skin.reshape(SIDE, SIDE), small, interpolation=cv2.INTER_AREA),
    )


def skin_colour(place: Floats, normal: Floats, part: Indices, parts: Sequence[Part], hand: Hand, look: Look) -> Floats:
    """Albedo (3, N) of skin and nails at N surface points `place` (3, N) in picture space."""
    start, bone, back, side = frames(parts, hand.K)
    limb = np.array([p.limb for p in parts])
    dorsal = dot(normal, back, part)
    inner = smooth(-dorsal, -0.15, 0.45) * (limb <= SLEEVE - 1).astype(np.float32).take(part)
    albedo = look.skin[:, None] + inner * (look.inside - look.skin)[:, None]

    palm = np.flatnonzero((limb == PALM)[part] & (inner > 0))
    if len(palm):
        lines = palm_lines(place.take(palm, axis=1), hand) * inner[palm]
        albedo[:, palm] *= 1 - CREASE * np.minimum(lines, 1)

    phalanx = np.flatnonzero(((limb >= 1) & (limb <= 5))[part])
    if len(phalanx):
        which = part[phalanx]
        along = dot(place.take(phalanx, axis=1), bone, which) - (start * bone).sum(1)[which]
        across = dot(normal.take(phalanx, axis=1), side, which)
        kinds = np.array([[p.nail, p.segment + (p.limb == 1) == 0, p.segment + (p.limb == 1) == 1] for p in parts])
        albedo[:, phalanx] = finger_colour(
            albedo.take(phalanx, axis=1), along, across, dorsal[phalanx], inner[phalanx], kinds[which].T, look
        )
    return albedo


def dot(vectors: Floats, table: Floats, which: Indices) -> Floats:
    """Each of the vectors (3, N) times the row of `table` (P, 3) that `which` (N,) names."""
    x, y, z = np.ascontiguousarray(table.T)
    return vectors[0] * x.take(which) + vectors[1] * y.take(which) + vectors[2] * z.take(which)


def frames(parts: Sequence[Part], K: Array) -> tuple[Floats, Floats, Floats, Floats]:
    """Per part in picture space (P, 3): where it starts, its axis over its squared length, unit vectors to back and side."""
    placed = [points for points, _ in lay_out(parts, K)]
    start = np.array([points[0] for points in placed])
    bone = np.array([points[1] - points[0] for points in placed])
    back = turn_to_picture(np.array([p.dorsal for p in parts]), np.array([p.points[0] for p in parts]))
    length = np.maximum((bone * bone).sum(1, keepdims=True), 1)
    back -= bone * (bone * back).sum(1, keepdims=True) / length
    back /= np.linalg.norm(back, axis=1, keepdims=True) + 1e-6
    side = np.cross(bone / np.sqrt(length), back)
    f = np.float32
    return start.astype(f), (bone / length).astype(f), back.astype(f), side.astype(f)


def finger_colour(
    albedo: Floats, along: Floats, across: Floats, dorsal: Floats, inner: Floats, kinds: NDArray[np.bool_], look: Look
) -> Floats:
    """Albedo (3, N) of fingers with their knuckles, creases and nails.

    `along` is 0..1 from joint to joint, `across` and `dorsal` the parts of the normal to the side and the back, `inner`
    how much a point belongs to the palm side; `kinds` (3, N) tells bones with nails, those at the palm, middle ones.
    """
    tip, first, second = kinds
    outer = np.maximum(dorsal, 0)
    knuckle = bell(along, 0.0, 0.16) + bell(along, 1.0, 0.16) * ~tip
    tint = knuckle * outer + np.float32(0.8) * smooth(along, 0.55, 1.1) * tip * inner
    albedo *= 1 - RUDDY * (np.float32(look.ruddy) * tint)
    wrinkles = (bell(along, -0.02, 0.03) + bell(along, 0.07, 0.025)) * outer * ~first * np.float32(0.25)
    creases = (bell(along, 0.0, 0.035) + bell(along, 0.10, 0.025) * second) * ~first + bell(along, 0.47, 0.03) * first
    albedo *= 1 - CREASE * np.minimum(creases * inner + wrinkles, 1)

    long, wide = (along - np.float32(0.82)) / np.float32(0.42), across / np.float32(0.72)
    long, wide = long * long, wide * wide
    shape = long * long + wide * wide
    near = tip & (dorsal > 0.25)
    nail, rim = near & (shape < 1), near & (shape >= 1) & (shape < 1.5)
    albedo[:, nail] = look.nail[:, None]
    albedo[:, rim] *= 0.85
    albedo[:, nail & (along > 1.10)] *= 0.6
    albedo[:, nail & (along > 1.10)] += 0.25
    return albedo


def turn_to_picture(direction: Array, at: Array) -> Array:
    """Camera-frame directions (..., 3) at camera-frame points (..., 3) as unit directions (..., 3) of picture space."""
    flat = direction[..., :2] - at[..., :2] / at[..., 2:] * direction[..., 2:]
    turned = np.concatenate([flat, direction[..., 2:]], axis=-1)
    return turned / np.linalg.norm(turned, axis=-1, keepdims=True)


def palm_lines(place: Floats, hand: Hand) -> Floats:
    """Strength (N,) of the three great creases of the palm at points `place` (3, N) in picture space."""
    wrist = hand.to_camera(np.zeros(3))
    scale = FINE * hand.K[0, 0] / wrist[2] * hand.person.size
    axes = np.array([turn_to_picture(hand.rotation[:, axis], wrist) for axis in (0, 1)], np.float32) / np.float32(scale)
    start = to_picture(wrist, hand.K)[:2]
    origin = np.array([*start, 0], np.float32)  # w is counted from a carpal bone, so that the wrist is near 0
    x, y = axes @ (place - origin[:, None])
    life = np.hypot(x + 0.030, y - 0.030) - 0.036
    head = y - 0.060 + 0.35 * (x + 0.025) + 6 * x * x
    heart = y - 0.068 - 9 * (x - 0.036) * (x + 0.006) * (x < 0.036)
    lines = bell(life, 0, 0.0011) * (x > -0.028)
    lines += bell(head, 0, 0.0011) * (x < 0.022) + bell(heart, 0, 0.0011) * (x > -0.012)
    return lines
