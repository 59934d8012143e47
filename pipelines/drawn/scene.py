"""One hand as the pictures of FreiHAND: its layer before several backgrounds, recoloured, out of focus, noisy.

What may enter: how a layer and a background become a photograph. Everything is BGR.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from pipelines.drawn.background import clutter, cut, green_screen, saturate, sensor_tile
from pipelines.drawn.camera import PICTURE, Bytes, Floats, Viewpoints
from pipelines.drawn.flesh import flesh_out, grown_together
from pipelines.drawn.hands import Hand, sample_hand
from pipelines.drawn.render import Surface, draw
from pipelines.drawn.skin import paint, sample_look, sample_skin


@dataclass(frozen=True)
class Photographs:
    """One hand, its pictures (P, P, 3) uint8 and the mask (P, P) uint8 of its skin, 0 or 255."""

    hand: Hand
    pictures: list[Bytes]
    mask: Bytes


def photograph(rng: Generator, surface: Surface, treatments: tuple[str, ...], viewpoints: Viewpoints) -> Photographs:
    """A random hand once per treatment: a version of FreiHAND, or `real` for a natural scene; `surface` is scratch space."""
    hand = sample_hand(rng, viewpoints)
    sleeve_from = rng.uniform(0.05, 0.18) if rng.random() < 0.45 else None
    skin = sample_skin(rng)
    look = sample_look(rng, skin)
    parts = flesh_out(hand, sleeve_from)
    draw(parts, hand.K, surface, grown_together(parts))
    layer, cover = paint(surface, parts, hand, look)
    square = (PICTURE, PICTURE)
    pictures = []
    for treatment in treatments:
        ground = green_screen(rng, square) if treatment == "gs" else clutter(rng, square, skin)
        pictures.append(expose(rng, compose(rng, treat(rng, layer, ground, treatment), layer[..., 3], ground)))
    return Photographs(hand, pictures, np.where(cover >= 0.5, 255, 0).astype(np.uint8))


def treat(rng: Generator, layer: Floats, ground: Bytes, treatment: str) -> Floats:
    """The colours (P, P, 3) of a layer (P, P, 4), changed as the treatment wants: a linear map, always mild."""
    gain, saturation, lift = np.ones(3), 1.0, 0.0
    if treatment == "gs":
        gain[1] = rng.uniform(1.0, 1.05)  # green light thrown back by the screen
    elif treatment == "hom":
        *own, covered = cv2.mean(layer)
        tone = np.array(own) / max(covered, 1e-3)
        gain = 1 + 0.3 * np.clip(np.array(cv2.mean(ground)[:3]) / np.maximum(tone, 10) - 1, -0.8, 0.8)
    elif treatment == "sample":
        gain, saturation = rng.normal(1, 0.05, 3), rng.uniform(0.6, 1.2)
    elif treatment == "auto":
        gain, saturation = np.full(3, rng.uniform(0.85, 1.15)), rng.uniform(0.8, 1.3)
        lift = rng.uniform(-18, 12)
    change = np.column_stack([np.diag(gain) @ saturate(saturation), np.full(3, lift)])
    return cv2.transform(layer, change)


def compose(rng: Generator, colours: Floats, alpha: Floats, ground: Bytes) -> Floats:
    """Colours (P, P, 3), premultiplied by alpha (P, P), over a background, onto which they sometimes throw a soft shadow."""
    through = 1 - alpha
    if rng.random() < 0.4:
        shift = np.array([[1, 0, rng.normal(0, 9)], [0, 1, rng.normal(0, 9)]])
        shadow = cv2.blur(cv2.warpAffine(alpha, shift, (PICTURE, PICTURE)), (15, 15))
        through *= 1 - np.float32(rng.uniform(0.2, 0.55)) * shadow
    behind = cv2.multiply(ground, cv2.cvtColor(through, cv2.COLOR_GRAY2BGR), dtype=cv2.CV_32F)
    return cv2.add(behind, colours)


def expose(rng: Generator, scene: Floats) -> Bytes:
    """The photograph of a scene: focus, motion, noise of the sensor."""
    kind = rng.random()
    if kind < 0.5:
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.35, 1.0))
    elif kind < 0.6:
        kernel = np.zeros((7, 7), np.float32)
        dx, dy = rng.uniform(-2.6, 2.6, 2)
        cv2.line(kernel, (round(3 - dx), round(3 - dy)), (round(3 + dx), round(3 + dy)), 1.0)
        scene = cv2.filter2D(scene, -1, kernel / kernel.sum())
    grains = cut(rng, sensor_tile(), (scene.shape[0], scene.shape[1]))
    return cv2.addWeighted(scene, 1.0, grains, rng.uniform(0.5, 6), 0.0, dtype=cv2.CV_8U)
