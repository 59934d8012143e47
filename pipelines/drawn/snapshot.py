"""One photograph of people, and what can be seen of each of their joints.

What may enter: layers drawn, put over one another and exposed; what hides what. Pixels are continuous, (0, 0) being the outer
corner of the first one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.drawn.body import Piece, build, grown_together
from pipelines.drawn.camera import Array, Bytes, Floats, project
from pipelines.drawn.crowd import CLIP, FEWEST, Crowd, inside, sample_crowd
from pipelines.drawn.dress import paint
from pipelines.drawn.light import Light, sample_light
from pipelines.drawn.outfit import Outfit, sample_outfit
from pipelines.drawn.people import Figure
from pipelines.drawn.render import EMPTY, FINE, blank, draw, to_picture
from pipelines.drawn.scene import expose
from pipelines.drawn.scenery import Thing, sample_thing, scenery

DETAIL = 560.0
"""Subpixels a stature is drawn with, about; `SCALES` are those a pixel may have, `GRID` what they all divide."""
SCALES = (2.0, 1.5, 1.0, 0.75, 0.5)
GRID = 8
OBSTRUCTED = 0.3
WORN = ("hair", "bun", "hat", "bag", "neck", "head", "nose", "ear", "trunk")
OWN = (
    *(tuple(f"right {part}" for part in ("foot", "leg", "legging")),) * 2,
    ("right leg", "right legging", "skirt", *WORN),
    ("left leg", "left legging", "skirt", *WORN),
    *(tuple(f"left {part}" for part in ("foot", "leg", "legging")),) * 2,
    *((*WORN, "skirt", "left leg", "right leg", "left legging", "right legging"),) * 4,
    *(("right hand", "right arm", "right sleeve"),) * 2,
    ("right arm", "right sleeve", *WORN),
    ("left arm", "left sleeve", *WORN),
    *(("left hand", "left arm", "left sleeve"),) * 2,
)
"""Groups of solids each joint lies in or that are worn there."""
THICK = np.array([25, 37, 66, 66, 37, 25, 70, 60, 60, 60, 21, 31, 48, 48, 31, 21]) / 1000
"""Flesh round each joint, from its middle, in statures."""


@dataclass(frozen=True)
class Layer:
    """A person drawn: colours and alpha (h, w, 4) from the corner `left`, `top` on; joints (16,) their own body hides."""

    colours: Floats
    left: int
    top: int
    hidden: NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """A person in a photograph: the figure in the camera's frame, joints (16, 2) in pixels, which are present and which seen."""

    figure: Figure
    pixels: Array
    present: NDArray[np.bool_]
    seen: NDArray[np.bool_]


@dataclass(frozen=True)
class Snapshot:
    """A photograph (H, W, 3) uint8, its camera and its people in a fixed order."""

    picture: Bytes
    K: Array
    subjects: list[Subject]


def snapshot(rng: Generator) -> Snapshot:
    """A random photograph."""
    crowd = sample_crowd(rng)
    outfits = [sample_outfit(rng, figure.physique) for figure in crowd.figures]
    light = from_above(rng, sample_light(rng))
    skin = (255 * np.sqrt(outfits[0].skin)).astype(np.float32)
    things = [sample_thing(rng, crowd) for _ in range(int(rng.integers(1, 4)))] if rng.random() < OBSTRUCTED else []
    return photograph(rng, crowd, outfits, light, scenery(rng, crowd, skin), [thing for thing in things if thing])


def from_above(rng: Generator, light: Light) -> Light:
    """The same light with its lamps mostly above."""
    main, fill = (lamp * [1, -np.sign(lamp[1]) if rng.random() < 0.85 else 1, 1] for lamp in (light.main, light.fill))
    return replace(light, main=main.astype(np.float32), fill=fill.astype(np.float32))


def photograph(rng: Generator, crowd: Crowd, outfits: list[Outfit], light: Light, ground: Bytes, things: list[Thing]) -> Snapshot:
    """The photograph of people, those farther away first, and of things before them, which never hide the first person."""
    canvas = ground.astype(np.float32)
    pixels = [project(figure.joints, crowd.K) for figure in crowd.figures]
    present = [inside(points, crowd.size) for points in pixels]
    seen = [there.copy() for there in present]
    order = np.argsort([-figure.joints[6, 2] for figure in crowd.figures])
    done: list[int] = []
    for number in order.tolist():
        layer = portray(crowd.figures[number], outfits[number], light, crowd)
        if layer is not None:
            put(canvas, layer.colours[..., :3], layer.colours[..., 3], layer.left, layer.top)
            for other in done:
                seen[other] &= ~covered(pixels[other], layer.colours[..., 3], layer.left, layer.top)
            seen[number] &= ~layer.hidden
        done.append(number)
    for thing in things:
        alpha = thing.mask.astype(np.float32) / 255
        left = [there & ~covered(points, alpha, thing.left, thing.top) for points, there in zip(pixels, seen, strict=True)]
        if left[0].sum() < FEWEST:
            continue
        seen = left
        put(canvas, thing.colours * alpha[..., None], alpha, thing.left, thing.top)
    subjects = [Subject(*subject) for subject in zip(crowd.figures, pixels, present, seen, strict=True)]
    return Snapshot(expose(rng, canvas), crowd.K, subjects)


def portray(figure: Figure, outfit: Outfit, light: Light, crowd: Crowd) -> Layer | None:
    """One person drawn in the window of the picture that holds them, or None where there is nothing to see."""
    pieces = [piece for piece in build(figure, outfit) if piece.points[:, 2].min() > CLIP]
    if not pieces:
        return None
    points = np.concatenate([piece.points for piece in pieces])
    reach = np.concatenate([piece.radii for piece in pieces]) * crowd.K[0, 0] / points[:, 2]
    flat = project(points, crowd.K)
    frame = np.array(crowd.size[::-1])
    low = np.clip(np.floor((flat - reach[:, None]).min(0)), 0, frame - 1).astype(int)
    high = np.clip(np.ceil((flat + reach[:, None]).max(0)), low + 1, frame).astype(int)
    width, height = (-(-(high - low) // GRID) * GRID).tolist()
    tall = figure.physique.stature * crowd.K[0, 0] / figure.joints[6, 2]
    scale = min(SCALES, key=lambda each: abs(np.log(each * tall / DETAIL)))
    K = crowd.K.copy()
    K[:2, 2] -= low
    K[:2] *= scale / FINE
    surface = blank((round(height * scale) // FINE, round(width * scale) // FINE))
    draw(pieces, K, surface, grown_together(pieces))
    layer = paint(surface, pieces, figure, K, outfit, light, (height, width))[: frame[1] - low[1], : frame[0] - low[0]]
    return Layer(layer, int(low[0]), int(low[1]), hidden_by_self(surface.depth, surface.part, pieces, figure, K))


def hidden_by_self(depth: Floats, part: NDArray[np.uint8], pieces: list[Piece], figure: Figure, K: Array) -> NDArray[np.bool_]:
    """Joints (16,) that lie behind another part of the body, or deeper in their own than it is thick."""
    placed = to_picture(figure.joints, K)
    first = to_picture(pieces[0].points[0], K)[2]
    hidden = np.zeros(16, bool)
    rows, columns = part.shape
    for joint, (u, v, w) in enumerate(placed):
        if not (0 <= u < columns and 0 <= v < rows) or part[int(v), int(u)] == EMPTY or joint in (8, 9):
            continue
        over = pieces[part[int(v), int(u)]].group
        behind = np.expm1((w - first - depth[int(v), int(u)]) / (FINE * K[0, 0])) * figure.joints[joint, 2]
        thick = THICK[joint] * max(1.0, figure.physique.stout) * figure.physique.stature
        room = 2 * thick + 0.02 if over in OWN[joint] else 1.25 * thick + 0.015
        hidden[joint] = behind > room
    return hidden


def covered(pixels: Array, alpha: Floats, left: int, top: int) -> NDArray[np.bool_]:
    """Which points (N, 2) of the picture lie under a layer's alpha (h, w)."""
    columns, rows = np.floor(pixels).astype(int).T - np.array([[left], [top]])
    within = (columns >= 0) & (columns < alpha.shape[1]) & (rows >= 0) & (rows < alpha.shape[0])
    return within & (alpha[np.where(within, rows, 0), np.where(within, columns, 0)] > 0.5)


def put(canvas: Floats, colours: Floats, alpha: Floats, left: int, top: int) -> None:
    """A layer, its colours (h, w, 3) premultiplied by alpha (h, w), over the canvas."""
    there = canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    there *= cv2.merge([1 - alpha] * 3)
    there += colours
