"""Rasterize solids with a depth buffer: round cones and thick triangles seen by a camera, blended smoothly where they belong.

Solids are rasterized in image space: u, v in subpixels and w = focal * ln(z) in the same unit. There, perspective is locally a
mere scaling, so a ball stays a ball, and a bone stays nearly straight while its ends project exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.render.camera import Float32Array, FloatArray, project

SUPERSAMPLING = 2
"""Subpixels per pixel in each direction."""
FAR_DEPTH = 1e4
NO_PART = 255
BLEND_WIDTH = 0.45
"""Width of the seam between blended solids as a fraction of the radius."""
EDGE_WIDTH = 0.5
"""Width of the seam between other solids, subpixels."""


@dataclass(frozen=True)
class Solid:
    """One solid in the camera frame, meters: two points make a round cone, three a triangle as thick as its radii."""

    points: FloatArray
    radii: FloatArray


@dataclass(frozen=True)
class GBuffer:
    """The visible surface at R rows and C columns of subpixels.

    `depth` (R, C) is w; `normal` (2, R, C) holds u and v of the unit normal, whose w is negative; `part` (R, C) is the
    index of the solid, `NO_PART` for none.
    """

    depth: Float32Array
    normal: Float32Array
    part: NDArray[np.uint8]


def empty_gbuffer(shape: tuple[int, int]) -> GBuffer:
    """Allocate buffers for an image of this shape (rows, columns) in pixels; `rasterize` fills them."""
    fine = (SUPERSAMPLING * shape[0], SUPERSAMPLING * shape[1])
    return GBuffer(np.empty(fine, np.float32), np.empty((2, *fine), np.float32), np.empty(fine, np.uint8))


def to_image_space(points: FloatArray, K: FloatArray) -> FloatArray:
    """Convert camera-frame points (..., 3), meters, to image space (..., 3), subpixels."""
    depth = K[0, 0] * np.log(points[..., 2:])
    return SUPERSAMPLING * np.concatenate([project(points, K), depth], axis=-1)


def project_solids(parts: Sequence[Solid], K: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Return the points and radii of each solid in image space, with w relative to the first point, for precision in float32."""
    points = np.concatenate([part.points for part in parts])
    radii = SUPERSAMPLING * K[0, 0] * np.concatenate([part.radii for part in parts]) / points[:, 2]
    projected = to_image_space(points, K)
    projected[:, 2] -= projected[0, 2]
    ends = np.cumsum([len(part.radii) for part in parts])[:-1]
    return list(zip(np.split(projected, ends), np.split(radii, ends), strict=True))


def rasterize(parts: Sequence[Solid], K: FloatArray, surface: GBuffer, blended: NDArray[np.bool_] | None = None) -> None:
    """Rasterize fewer than 255 solids into `surface`; nearer ones hide farther ones, and pairs in `blended` (P, P) blend."""
    surface.depth.fill(FAR_DEPTH)
    surface.normal.fill(0)
    surface.part.fill(NO_PART)
    blended = np.zeros((len(parts), len(parts)), bool) if blended is None else blended
    blend_width = np.full(NO_PART + 1, EDGE_WIDTH, np.float32)
    solids = project_solids(parts, K)
    for number, (points, radii), (left, top, right, bottom) in zip(
        range(len(parts)), solids, bounding_boxes(solids, surface.part.shape).tolist(), strict=True
    ):
        if right <= left or bottom <= top:
            continue
        blend_width[: len(parts)] = np.where(blended[number], BLEND_WIDTH * radii.sum() / len(radii), EDGE_WIDTH)
        x = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
        fragment = round_cone(x, y, points, radii) if len(points) == 2 else thick_triangle(x, y, points, radii)
        if fragment is not None:
            blend(surface, (slice(top, bottom), slice(left, right)), fragment[0], fragment[1], number, blend_width)


def bounding_boxes(solids: Sequence[tuple[FloatArray, FloatArray]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return left, top, right, bottom (N, 4) of solids within this shape (rows, columns); right <= left if nothing is inside."""
    points = np.array([p[[0, 1, -1], :2] for p, _ in solids])
    radii = np.array([r[[0, 1, -1]] for _, r in solids])[..., None]
    low, high = np.floor((points - radii).min(1)), np.ceil((points + radii).max(1))
    return np.clip(np.hstack([low, high]), 0, np.array(shape[::-1] * 2)).astype(np.int64)


def round_cone(
    x: Float32Array, y: Float32Array, points: FloatArray, radii: FloatArray
) -> tuple[Float32Array, tuple[Float32Array, Float32Array]]:
    """Return depth and normal (u, v) of a ball that rolls between two points while its radius changes, seen along w.

    At a subpixel, the near side of the ball at `step` along the bone is at `aw + bw * step - sqrt(inside(step))`, where
    `inside(step) = clearance + 2 * along * step - flat * step ** 2`, with coordinates relative to the first point. This is convex
    in `step`, so the visible ball is where its slope is 0, clipped to the bone.
    """
    (ax, ay, aw), (bx, by, bw) = points[0], points[1] - points[0]
    ra, shrink = radii[0], radii[0] - radii[1]
    if bx * bx + by * by + bw * bw <= 1.02 * shrink * shrink + 1e-6:  # one end contains the other
        big = int(np.argmax(radii))
        (ax, ay, aw), ra, bx, by, bw, shrink = points[big], radii[big], 1e-2, 0.0, 0.0, 0.0
    if bx * bx + by * by < 1.05 * shrink * shrink + 1e-4:  # seen end on: tilt it as little as the formula requires
        bx = np.sqrt(1.06 * shrink * shrink + 2e-4)
        by = 0.0
    flat = bx * bx + by * by - shrink * shrink
    f = np.float32
    x, y = x - f(ax), y - f(ay)
    along = (f(bx) * x - f(ra * shrink)) + f(by) * y
    clearance = (f(ra * ra) - x * x) - y * y
    step = along * along
    step *= f(1 / flat)
    step += clearance
    np.maximum(step, 0, out=step)
    np.sqrt(step, out=step)
    step *= f(-bw * np.sqrt(flat / (flat + bw * bw)))
    step += along
    step *= f(1 / flat)
    np.clip(step, 0, 1, out=step)
    inside = f(-flat) * step
    inside += along
    inside += along
    inside *= step
    inside += clearance
    depth = f(bw) * step
    depth += f(aw)
    depth -= np.sqrt(np.maximum(inside, 0))
    np.putmask(depth, inside <= 0, 2 * FAR_DEPTH)
    radius = f(ra) - f(shrink) * step
    return depth, ((x - f(bx) * step) / radius, (y - f(by) * step) / radius)


def thick_triangle(
    x: Float32Array, y: Float32Array, points: FloatArray, radii: FloatArray
) -> tuple[Float32Array, tuple[float, float]] | None:
    """Return depth and normal (u, v) of the near face of a triangle as thick as the balls at its corners; None if edge on."""
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
    np.putmask(depth, np.minimum(np.minimum(a, b), c) < 0, 2 * FAR_DEPTH)
    return depth, (normal[0], normal[1])


def blend(
    surface: GBuffer,
    box: tuple[slice, slice],
    depth: Float32Array,
    normal: Sequence[Float32Array | float],
    number: int,
    soft: Float32Array,
) -> None:
    """Blend one solid into the buffers; `soft` (256,) is the width of its seam with each part already there, subpixels."""
    depth_buffer, part = surface.depth[box], surface.part[box]
    width = soft.take(part)
    weight = (depth_buffer - depth) / width
    weight *= np.float32(0.5)
    weight += np.float32(0.5)
    np.clip(weight, 0, 1, out=weight)
    np.subtract(depth, depth_buffer, out=depth)
    depth *= weight
    depth_buffer += depth
    depth_buffer += width * weight * (weight - 1)
    for axis, component in enumerate(normal):
        old = surface.normal[axis][box]
        old += (component - old) * weight
    np.putmask(part, weight > 0.5, number)
