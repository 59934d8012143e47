"""Render one photograph of people and determine which joints are visible.

Pixels are continuous, with (0, 0) on the outer corner of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.hand.scene import camera_effects
from hgfast.pipelines.synthetic_data.people.clothing import Outfit, sample_outfit
from hgfast.pipelines.synthetic_data.people.kinematics import PosedBody
from hgfast.pipelines.synthetic_data.people.layout import MIN_JOINTS, NEAR_CLIP, SceneLayout, in_image, sample_layout
from hgfast.pipelines.synthetic_data.people.shading import shade_person
from hgfast.pipelines.synthetic_data.people.solids import BodySolid, blend_mask, body_solids
from hgfast.pipelines.synthetic_data.people.surroundings import Obstacle, make_background, sample_obstacle
from hgfast.pipelines.synthetic_data.render.camera import Float32Array, FloatArray, Image, project
from hgfast.pipelines.synthetic_data.render.light import Light, sample_light
from hgfast.pipelines.synthetic_data.render.render import NO_PART, SUPERSAMPLING, empty_gbuffer, rasterize, to_image_space

SUBPIXELS_PER_STATURE = 560.0
"""Approximate number of subpixels that a stature is rendered with."""
SCALES = (2.0, 1.5, 1.0, 0.75, 0.5)
"""Possible numbers of subpixels per pixel."""
GRID = 8
"""Window sizes are multiples of this, so that every scale gives whole pixels."""
OBSTACLE_PROBABILITY = 0.3
WORN_GROUPS = ("hair", "bun", "hat", "bag", "neck", "head", "nose", "ear", "trunk")
OWN_GROUPS = (
    *(tuple(f"right {part}" for part in ("foot", "leg", "legging")),) * 2,
    ("right leg", "right legging", "skirt", *WORN_GROUPS),
    ("left leg", "left legging", "skirt", *WORN_GROUPS),
    *(tuple(f"left {part}" for part in ("foot", "leg", "legging")),) * 2,
    *((*WORN_GROUPS, "skirt", "left leg", "right leg", "left legging", "right legging"),) * 4,
    *(("right hand", "right arm", "right sleeve"),) * 2,
    ("right arm", "right sleeve", *WORN_GROUPS),
    ("left arm", "left sleeve", *WORN_GROUPS),
    *(("left hand", "left arm", "left sleeve"),) * 2,
)
"""Groups of solids that each joint lies in, or that are worn there."""
FLESH_THICKNESS = np.array([25, 37, 66, 66, 37, 25, 70, 60, 60, 60, 21, 31, 48, 48, 31, 21]) / 1000
"""Thickness of the flesh around each joint, from its center, in statures."""


@dataclass(frozen=True)
class PersonLayer:
    """A rendered person: colors and alpha (h, w, 4) from the corner `left`, `top` on; joints (16,) that their own body hides."""

    colors: Float32Array
    left: int
    top: int
    hidden: NDArray[np.bool_]


@dataclass(frozen=True)
class ScenePerson:
    """A person in a photograph: the body in the camera frame, joints (16, 2) in pixels, masks of present and visible joints."""

    figure: PosedBody
    pixels: FloatArray
    present: NDArray[np.bool_]
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class SceneImage:
    """A photograph (H, W, 3) uint8, its camera and its people in a fixed order."""

    image: Image
    K: FloatArray
    subjects: list[ScenePerson]


def sample_scene(rng: Generator) -> SceneImage:
    """Sample and render a random photograph."""
    layout = sample_layout(rng)
    outfits = [sample_outfit(rng, figure.shape) for figure in layout.figures]
    light = light_from_above(rng, sample_light(rng))
    skin = (255 * np.sqrt(outfits[0].skin)).astype(np.float32)
    obstacles = (
        [sample_obstacle(rng, layout) for _ in range(int(rng.integers(1, 4)))] if rng.random() < OBSTACLE_PROBABILITY else []
    )
    return render_scene(rng, layout, outfits, light, make_background(rng, layout, skin), [thing for thing in obstacles if thing])


def light_from_above(rng: Generator, light: Light) -> Light:
    """Return the same light with its lamps mostly above."""
    main, fill = (
        lamp * [1, -np.sign(lamp[1]) if rng.random() < 0.85 else 1, 1] for lamp in (light.main_direction, light.fill_direction)
    )
    return replace(light, main_direction=main.astype(np.float32), fill_direction=fill.astype(np.float32))


def render_scene(
    rng: Generator, layout: SceneLayout, outfits: list[Outfit], light: Light, background: Image, obstacles: list[Obstacle]
) -> SceneImage:
    """Render people, farther ones first, and obstacles in front of them; an obstacle never hides the first person."""
    canvas = background.astype(np.float32)
    pixels = [project(figure.joints, layout.K) for figure in layout.figures]
    present = [in_image(points, layout.size) for points in pixels]
    visible = [there.copy() for there in present]
    order = np.argsort([-figure.joints[6, 2] for figure in layout.figures])
    done: list[int] = []
    for number in order.tolist():
        layer = render_person(layout.figures[number], outfits[number], light, layout)
        if layer is not None:
            alpha_composite(canvas, layer.colors[..., :3], layer.colors[..., 3], layer.left, layer.top)
            for other in done:
                visible[other] &= ~is_covered(pixels[other], layer.colors[..., 3], layer.left, layer.top)
            visible[number] &= ~layer.hidden
        done.append(number)
    for thing in obstacles:
        alpha = thing.mask.astype(np.float32) / 255
        left = [there & ~is_covered(points, alpha, thing.left, thing.top) for points, there in zip(pixels, visible, strict=True)]
        if left[0].sum() < MIN_JOINTS:
            continue
        visible = left
        alpha_composite(canvas, thing.colors * alpha[..., None], alpha, thing.left, thing.top)
    subjects = [ScenePerson(*subject) for subject in zip(layout.figures, pixels, present, visible, strict=True)]
    return SceneImage(camera_effects(rng, canvas), layout.K, subjects)


def render_person(figure: PosedBody, outfit: Outfit, light: Light, crowd: SceneLayout) -> PersonLayer | None:
    """Render one person in the window of the image that contains them; None if nothing is visible."""
    solids = [piece for piece in body_solids(figure, outfit) if piece.points[:, 2].min() > NEAR_CLIP]
    if not solids:
        return None
    points = np.concatenate([piece.points for piece in solids])
    reach = np.concatenate([piece.radii for piece in solids]) * crowd.K[0, 0] / points[:, 2]
    flat = project(points, crowd.K)
    frame = np.array(crowd.size[::-1])
    low = np.clip(np.floor((flat - reach[:, None]).min(0)), 0, frame - 1).astype(int)
    high = np.clip(np.ceil((flat + reach[:, None]).max(0)), low + 1, frame).astype(int)
    width, height = (-(-(high - low) // GRID) * GRID).tolist()
    tall = figure.shape.stature * crowd.K[0, 0] / figure.joints[6, 2]
    scale = min(SCALES, key=lambda each: abs(np.log(each * tall / SUBPIXELS_PER_STATURE)))
    K = crowd.K.copy()
    K[:2, 2] -= low
    K[:2] *= scale / SUPERSAMPLING
    surface = empty_gbuffer((round(height * scale) // SUPERSAMPLING, round(width * scale) // SUPERSAMPLING))
    rasterize(solids, K, surface, blend_mask(solids))
    layer = shade_person(surface, solids, figure, K, outfit, light, (height, width))[: frame[1] - low[1], : frame[0] - low[0]]
    return PersonLayer(layer, int(low[0]), int(low[1]), self_occluded(surface.depth, surface.part, solids, figure, K))


def self_occluded(
    depth: Float32Array, part: NDArray[np.uint8], pieces: list[BodySolid], figure: PosedBody, K: FloatArray
) -> NDArray[np.bool_]:
    """Return which joints (16,) lie behind another part of the body, or deeper in their own part than it is thick."""
    placed = to_image_space(figure.joints, K)
    first = to_image_space(pieces[0].points[0], K)[2]
    hidden = np.zeros(16, bool)
    rows, columns = part.shape
    for joint, (u, v, w) in enumerate(placed):
        if not (0 <= u < columns and 0 <= v < rows) or part[int(v), int(u)] == NO_PART or joint in (8, 9):
            continue
        over = pieces[part[int(v), int(u)]].group
        behind = np.expm1((w - first - depth[int(v), int(u)]) / (SUPERSAMPLING * K[0, 0])) * figure.joints[joint, 2]
        thick = FLESH_THICKNESS[joint] * max(1.0, figure.shape.stout) * figure.shape.stature
        room = 2 * thick + 0.02 if over in OWN_GROUPS[joint] else 1.25 * thick + 0.015
        hidden[joint] = behind > room
    return hidden


def is_covered(pixels: FloatArray, alpha: Float32Array, left: int, top: int) -> NDArray[np.bool_]:
    """Return which points (N, 2) of the image a layer's alpha (h, w) covers."""
    columns, rows = np.floor(pixels).astype(int).T - np.array([[left], [top]])
    within = (columns >= 0) & (columns < alpha.shape[1]) & (rows >= 0) & (rows < alpha.shape[0])
    return within & (alpha[np.where(within, rows, 0), np.where(within, columns, 0)] > 0.5)


def alpha_composite(canvas: Float32Array, colors: Float32Array, alpha: Float32Array, left: int, top: int) -> None:
    """Put a layer with colors (h, w, 3), premultiplied by alpha (h, w), on the canvas."""
    window = canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    window *= cv2.merge([1 - alpha] * 3)
    window += colors
