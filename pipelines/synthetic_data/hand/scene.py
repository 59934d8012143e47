"""Images of one hand as in FreiHAND: its layer on several backgrounds, recolored, blurred, noisy. All images are BGR."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from hgfast.pipelines.synthetic_data.hand.shading import sample_material, sample_skin_tone, shade_hand
from hgfast.pipelines.synthetic_data.hand.skeleton import Hand, sample_hand
from hgfast.pipelines.synthetic_data.hand.solids import blend_mask, hand_solids
from hgfast.pipelines.synthetic_data.render.background import (
    cluttered_scene,
    green_screen,
    random_crop,
    saturation_matrix,
    sensor_tile,
)
from hgfast.pipelines.synthetic_data.render.camera import IMAGE_SIZE, Float32Array, Image, Viewpoints
from hgfast.pipelines.synthetic_data.render.render import GBuffer, rasterize


@dataclass(frozen=True)
class HandImages:
    """One hand, its images (P, P, 3) uint8 and the mask (P, P) uint8 of its skin, 0 or 255."""

    hand: Hand
    images: list[Image]
    mask: Image


def render_hand(rng: Generator, surface: GBuffer, versions: tuple[str, ...], viewpoints: Viewpoints) -> HandImages:
    """Render a random hand once per version: one of FreiHAND's, or `real` for a natural scene. `surface` is scratch space."""
    hand = sample_hand(rng, viewpoints)
    sleeve_start = rng.uniform(0.05, 0.18) if rng.random() < 0.45 else None
    skin = sample_skin_tone(rng)
    material = sample_material(rng, skin)
    parts = hand_solids(hand, sleeve_start)
    rasterize(parts, hand.K, surface, blend_mask(parts))
    layer, skin_coverage = shade_hand(surface, parts, hand, material)
    square = (IMAGE_SIZE, IMAGE_SIZE)
    images = []
    for version in versions:
        background = green_screen(rng, square) if version == "gs" else cluttered_scene(rng, square, skin)
        images.append(camera_effects(rng, composite(rng, recolor(rng, layer, background, version), layer[..., 3], background)))
    return HandImages(hand, images, np.where(skin_coverage >= 0.5, 255, 0).astype(np.uint8))


def recolor(rng: Generator, layer: Float32Array, background: Image, version: str) -> Float32Array:
    """Return the colors (P, P, 3) of a layer (P, P, 4) after the version's mild linear color change."""
    gain, saturation, lift = np.ones(3), 1.0, 0.0
    if version == "gs":
        gain[1] = rng.uniform(1.0, 1.05)  # green light reflected by the screen
    elif version == "hom":
        *premultiplied, coverage = cv2.mean(layer)
        tone = np.array(premultiplied) / max(coverage, 1e-3)
        gain = 1 + 0.3 * np.clip(np.array(cv2.mean(background)[:3]) / np.maximum(tone, 10) - 1, -0.8, 0.8)
    elif version == "sample":
        gain, saturation = rng.normal(1, 0.05, 3), rng.uniform(0.6, 1.2)
    elif version == "auto":
        gain, saturation = np.full(3, rng.uniform(0.85, 1.15)), rng.uniform(0.8, 1.3)
        lift = rng.uniform(-18, 12)
    change = np.column_stack([np.diag(gain) @ saturation_matrix(saturation), np.full(3, lift)])
    return cv2.transform(layer, change)


def composite(rng: Generator, colors: Float32Array, alpha: Float32Array, background: Image) -> Float32Array:
    """Put colors (P, P, 3), premultiplied by alpha (P, P), on a background, sometimes with a soft shadow."""
    transmission = 1 - alpha
    if rng.random() < 0.4:
        shift = np.array([[1, 0, rng.normal(0, 9)], [0, 1, rng.normal(0, 9)]])
        shadow = cv2.blur(cv2.warpAffine(alpha, shift, (IMAGE_SIZE, IMAGE_SIZE)), (15, 15))
        transmission *= 1 - np.float32(rng.uniform(0.2, 0.55)) * shadow
    behind = cv2.multiply(background, cv2.cvtColor(transmission, cv2.COLOR_GRAY2BGR), dtype=cv2.CV_32F)
    return cv2.add(behind, colors)


def camera_effects(rng: Generator, scene: Float32Array) -> Image:
    """Apply defocus or motion blur and sensor noise to a scene."""
    kind = rng.random()
    if kind < 0.5:
        scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.35, 1.0))
    elif kind < 0.6:
        kernel = np.zeros((7, 7), np.float32)
        dx, dy = rng.uniform(-2.6, 2.6, 2)
        cv2.line(kernel, (round(3 - dx), round(3 - dy)), (round(3 + dx), round(3 + dy)), 1.0)
        scene = cv2.filter2D(scene, -1, kernel / kernel.sum())
    grains = random_crop(rng, sensor_tile(), (scene.shape[0], scene.shape[1]))
    return cv2.addWeighted(scene, 1.0, grains, rng.uniform(0.5, 6), 0.0, dtype=cv2.CV_8U)
