"""Solids drawn with a depth buffer: round cones and thick triangles as seen by a camera, smoothly joined where they belong.

What may enter: geometry of visible surfaces. Colours and light are `drawn.skin`.

Solids are drawn in picture space: u, v in subpixels and w = focal * ln(z) likewise, in which perspective is locally a mere
scaling, so that a ball stays a ball and a bone stays nearly straight while its ends project exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.drawn.camera import Array, Floats, project

FINE = 2
"""Subpixels a pixel in each direction."""
FAR = 1e4
EMPTY = 255
SOFTNESS = 0.45
"""Width of the seam between joined parts as a share of the radius; `HARD` that between others, subpixels."""
HARD = 0.5


@dataclass(frozen=True)
class Solid:
    """One solid in the camera frame, metres: two points make a round cone, three a triangle as thick as its radii."""

    points: Array
    radii: Array


@dataclass(frozen=True)
class Surface:
    """What is seen at each of R rows and C columns of subpixels.

    `depth` (R, C) is w; `normal` (2, R, C) the u and v of the unit normal, whose w is negative; `part` (R, C) the number
    of the solid, `EMPTY` for none.
    """

    depth: Floats
    normal: Floats
    part: NDArray[np.uint8]

    @property
    def hit(self) -> NDArray[np.bool_]:
        """Where there is any surface (R, C)."""
        return self.part != EMPTY


def blank(shape: tuple[int, int]) -> Surface:
    """A surface for so many rows and columns of pixels, whose arrays `draw` fills."""
    fine = (FINE * shape[0], FINE * shape[1])
    return Surface(np.empty(fine, np.float32), np.empty((2, *fine), np.float32), np.empty(fine, np.uint8))


def to_picture(points: Array, K: Array) -> Array:
    """Camera-frame points (..., 3), metres, in picture space (..., 3), subpixels."""
    depth = K[0, 0] * np.log(points[..., 2:])
    return FINE * np.concatenate([project(points, K), depth], axis=-1)


def lay_out(parts: Sequence[Solid], K: Array) -> list[tuple[Array, Array]]:
    """Points and radii of each part in picture space, w counted from the first part on (float32 keeps more digits so)."""
    points = np.concatenate([part.points for part in parts])
    radii = FINE * K[0, 0] * np.concatenate([part.radii for part in parts]) / points[:, 2]
    placed = to_picture(points, K)
    placed[:, 2] -= placed[0, 2]
    ends = np.cumsum([len(part.radii) for part in parts])[:-1]
    return list(zip(np.split(placed, ends), np.split(radii, ends), strict=True))


def draw(parts: Sequence[Solid], K: Array, surface: Surface, joined: NDArray[np.bool_] | None = None) -> None:
    """Draw fewer than 255 parts into `surface`; nearer ones hide farther ones, those `joined` (P, P) melt into each other."""
    surface.depth.fill(FAR)
    surface.normal.fill(0)
    surface.part.fill(EMPTY)
    joined = np.zeros((len(parts), len(parts)), bool) if joined is None else joined
    soft = np.full(EMPTY + 1, HARD, np.float32)
    solids = lay_out(parts, K)
    for number, (points, radii), (left, top, right, bottom) in zip(
        range(len(parts)), solids, bounds(solids, surface.part.shape).tolist(), strict=True
    ):
        if right <= left or bottom <= top:
            continue
        soft[: len(parts)] = np.where(joined[number], SOFTNESS * radii.sum() / len(radii), HARD)
        x = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
        drawn = cone(x, y, points, radii) if len(points) == 2 else plate(x, y, points, radii)
        if drawn is not None:
            merge(surface, (slice(top, bottom), slice(left, right)), drawn[0], drawn[1], number, soft)


def bounds(solids: Sequence[tuple[Array, Array]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Left, top, right, bottom (N, 4) of solids within so many rows and columns; right <= left where nothing is left."""
    points = np.array([p[[0, 1, -1], :2] for p, _ in solids])
    radii = np.array([r[[0, 1, -1]] for _, r in solids])[..., None]
    low, high = np.floor((points - radii).min(1)), np.ceil((points + radii).max(1))
    return np.clip(np.hstack([low, high]), 0, np.array(shape[::-1] * 2)).astype(np.int64)


def cone(x: Floats, y: Floats, points: Array, radii: Array) -> tuple[Floats, tuple[Floats, Floats]]:
    """Depth and normal (u, v) of a ball that rolls from one point to the other while its radius changes, seen along w.

    At a subpixel, the ball at `step` along the bone has its near side at `aw + bw * step - sqrt(inside(step))`, where
    `inside(step) = room + 2 * lean * step - flat * step ** 2` and sides count from the first point. That is convex in
    `step`, so where its slope is nought, kept within the bone, is the ball that is seen.
    """
    (ax, ay, aw), (bx, by, bw) = points[0], points[1] - points[0]
    ra, shrink = radii[0], radii[0] - radii[1]
    if bx * bx + by * by + bw * bw <= 1.02 * shrink * shrink + 1e-6:  # one end swallows the other
        big = int(np.argmax(radii))
        (ax, ay, aw), ra, bx, by, bw, shrink = points[big], radii[big], 1e-2, 0.0, 0.0, 0.0
    if bx * bx + by * by < 1.05 * shrink * shrink + 1e-4:  # seen end on: lean it as little as the formula needs
        bx = np.sqrt(1.06 * shrink * shrink + 2e-4)
        by = 0.0
    flat = bx * bx + by * by - shrink * shrink
    f = np.float32
    x, y = x - f(ax), y - f(ay)
    lean = (f(bx) * x - f(ra * shrink)) + f(by) * y
    room = (f(ra * ra) - x * x) - y * y
    step = lean * lean
    step *= f(1 / flat)
    step += room
    np.maximum(step, 0, out=step)
    np.sqrt(step, out=step)
    step *= f(-bw * np.sqrt(flat / (flat + bw * bw)))
    step += lean
    step *= f(1 / flat)
    np.clip(step, 0, 1, out=step)
    inside = f(-flat) * step
    inside += lean
    inside += lean
    inside *= step
    inside += room
    depth = f(bw) * step
    depth += f(aw)
    depth -= np.sqrt(np.maximum(inside, 0))
    np.putmask(depth, inside <= 0, 2 * FAR)
    radius = f(ra) - f(shrink) * step
    return depth, ((x - f(bx) * step) / radius, (y - f(by) * step) / radius)


def plate(x: Floats, y: Floats, points: Array, radii: Array) -> tuple[Floats, tuple[float, float]] | None:
    """Depth and normal (u, v) of the near face of a triangle as thick as the balls at its corners; None where seen edge on."""
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    normal /= np.linalg.norm(normal) + 1e-9
    if normal[2] > 0:
        normal = -normal
    if normal[2] > -0.08:
        return None
    corners = points + radii[:, None] * normal
    edges = np.column_stack([corners[:, :2], np.ones(3)])
    if abs(np.linalg.det(edges)) < 1:
        return None
    share = np.linalg.inv(edges).astype(np.float32)  # barycentric coordinates are linear in x, y, 1
    a, b, c = (share[0, i] * x + (share[1, i] * y + share[2, i]) for i in range(3))
    wa, wb, wc = corners[:, 2].astype(np.float32)
    depth = wa * a + wb * b + wc * c
    np.putmask(depth, np.minimum(np.minimum(a, b), c) < 0, 2 * FAR)
    return depth, (normal[0], normal[1])


def merge(
    surface: Surface,
    box: tuple[slice, slice],
    depth: Floats,
    normal: Sequence[Floats | float],
    number: int,
    soft: Floats,
) -> None:
    """Put one solid into the buffers; `soft` (256,) is the width of its seam with each part already there, subpixels."""
    there, part = surface.depth[box], surface.part[box]
    seam = soft.take(part)
    gain = (there - depth) / seam
    gain *= np.float32(0.5)
    gain += np.float32(0.5)
    np.clip(gain, 0, 1, out=gain)
    np.subtract(depth, there, out=depth)
    depth *= gain
    there += depth
    there += seam * gain * (gain - 1)
    for axis, component in enumerate(normal):
        old = surface.normal[axis][box]
        old += (component - old) * gain
    np.putmask(part, gain > 0.5, number)
