"""Shading of a person: face, skin, hair and patterns of clothes as a colored layer.

Colors are BGR. This module computes in linear light; its outputs are image values in [0, 255]. Body coordinates are in the frame
of the bone below the surface, in statures, or in head lengths on the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hgfast.pipelines.synthetic_data.hand.shading import gathered_dot
from hgfast.pipelines.synthetic_data.people.clothing import Fabric, Outfit
from hgfast.pipelines.synthetic_data.people.kinematics import BONE_INDEX, BONES, PosedBody
from hgfast.pipelines.synthetic_data.people.solids import (
    ARM,
    BAG,
    EAR,
    FACE,
    FOOT,
    HAIR,
    HAND,
    HAT,
    LEG,
    NECK,
    SLEEVE,
    TORSO,
    TROUSERS,
    BodySolid,
)
from hgfast.pipelines.synthetic_data.render.background import TILE_SIZE, noise_tile
from hgfast.pipelines.synthetic_data.render.camera import Float32Array, FloatArray
from hgfast.pipelines.synthetic_data.render.light import Indices, Light, shade_layer, smoothstep, surface_points
from hgfast.pipelines.synthetic_data.render.render import SUPERSAMPLING, GBuffer, to_image_space

TRUNK_HEIGHTS = np.zeros(len(BONES), np.float32)
"""Heights above the hips where bones of the trunk begin, so that a pattern continues from one to the next."""
TRUNK_HEIGHTS[[BONE_INDEX["waist"], BONE_INDEX["chest"]]] = 0.062, 0.164
LIPS = np.array([0.10, 0.09, 0.30], np.float32)
WHITE = np.array([0.75, 0.78, 0.80], np.float32)
DARK = np.array([0.02, 0.02, 0.03], np.float32)


def shade_person(
    surface: GBuffer,
    solids: Sequence[BodySolid],
    figure: PosedBody,
    K: FloatArray,
    outfit: Outfit,
    light: Light,
    size: tuple[int, int],
) -> Float32Array:
    """Shade a person whose body is in the camera frame; returns the layer of `shade_layer`."""
    where, part, normal, points = surface_points(surface)
    kind = np.array([piece.surface for piece in solids])[part]
    bone = np.array([piece.bone for piece in solids])[part]

    color = surface_albedo(to_bone_coordinates(points, solids, bone, figure, K), kind, bone, figure, outfit)
    grain = noise_tile()[:, : TILE_SIZE // 2].take(
        np.asarray(points[1] * 256 + points[0] + outfit.texture_offset[0], np.intp), mode="wrap"
    )
    glossy = np.isin(kind, (FACE, NECK, ARM, HAND, EAR, HAIR, FOOT))
    return shade_layer(surface, where, normal, color, light, 1 + np.float32(0.035) * grain, glossy, size)


def to_bone_coordinates(
    points: Float32Array, pieces: Sequence[BodySolid], bone: Indices, figure: PosedBody, K: FloatArray
) -> Float32Array:
    """Convert surface points (3, N) (column, row, w relative to the first solid) to body coordinates (3, N)."""
    first = to_image_space(pieces[0].points[0], K)[2]
    f = np.float32
    depth = np.exp((points[2] + f(first)) * f(1 / (SUPERSAMPLING * K[0, 0])))
    x = (points[0] + f(0.5 - SUPERSAMPLING * K[0, 2])) * depth * f(1 / (SUPERSAMPLING * K[0, 0]))
    y = (points[1] + f(0.5 - SUPERSAMPLING * K[1, 2])) * depth * f(1 / (SUPERSAMPLING * K[1, 1]))
    point = np.stack([x, y, depth])
    unit = np.full(len(BONES), figure.shape.stature)
    unit[BONE_INDEX["head"]] = figure.shape.head
    axes = (figure.frames / unit[:, None, None]).transpose(2, 0, 1).astype(f)  # (axis, F, 3)
    offset = np.einsum("afi,fi->af", axes.astype(float), figure.origins).astype(f)
    return np.stack([gathered_dot(point, axes[axis], bone) - offset[axis].take(bone) for axis in range(3)])


def surface_albedo(place: Float32Array, kind: Indices, bone: Indices, figure: PosedBody, outfit: Outfit) -> Float32Array:
    """Return the albedo (3, N) at body coordinates (3, N), given the surface type (N,) and the bone (N,) of each."""
    stature = figure.shape.stature
    along = np.zeros((2, len(BONES)), np.float32)  # factor from y to a fraction of the limb, and its start
    reach = np.zeros(len(BONES), np.float32)
    for side in ("left", "right"):
        for number, (root, tip, covered) in enumerate((("arm", "forearm", outfit.sleeves), ("thigh", "shin", outfit.legs))):
            lengths = (figure.shape.arm, figure.shape.forearm) if number == 0 else (figure.shape.thigh, figure.shape.shin)
            for step, (name, length) in enumerate(zip((root, tip), lengths, strict=True)):
                along[:, BONE_INDEX[f"{side} {name}"]] = -stature / length, step
                reach[BONE_INDEX[f"{side} {name}"]] = covered if not (number == 1 and outfit.skirt) else 0.02
    down = along[0].take(bone) * place[1] + along[1].take(bone)
    covered = down < reach.take(bone)

    table = np.tile(outfit.skin, (EAR + 1, 1))
    table[HAIR], table[BAG] = outfit.hair_color, outfit.accent
    table[HAT] = outfit.hair_color if outfit.hat is None else outfit.hat
    table[FOOT] = outfit.skin if outfit.shoes is None else outfit.shoes
    albedo = np.ascontiguousarray(table.take(kind, axis=0).T)

    torso = kind == TORSO
    pelvis = bone == BONE_INDEX["pelvis"]
    low = torso & pelvis & (place[1] < outfit.waist)
    for cloth, which in (
        (outfit.top, (torso & ~low) | (kind == SLEEVE) | ((kind == ARM) & covered)),
        (outfit.bottom, low | (kind == TROUSERS) | ((kind == LEG) & covered)),
    ):
        indices = np.flatnonzero(which)
        albedo[:, indices] = fabric_color(
            cloth, place.take(indices, axis=1), TRUNK_HEIGHTS.take(bone.take(indices)), outfit.texture_offset
        )
    if outfit.shoes is not None:
        albedo[:, (kind == LEG) & (down > outfit.socks)] = outfit.sole[:, None]
    for which, color_part in (
        (torso, color_chest),
        (kind == FACE, color_face),
        (kind == FOOT, color_foot),
        (kind == HAND, color_hand),
        (kind == HAIR, color_hair),
    ):
        indices = np.flatnonzero(which)
        if len(indices):
            albedo[:, indices] = color_part(albedo.take(indices, axis=1), place.take(indices, axis=1), bone.take(indices), outfit)
    return albedo


def fabric_color(cloth: Fabric, place: Float32Array, height: Float32Array, tile: tuple[int, int]) -> Float32Array:
    """Return the colors (3, N) of a fabric."""
    if cloth.pattern == "plain":
        return np.repeat(cloth.color[:, None], place.shape[1], axis=1)
    turns = np.float32(2 * np.pi * cloth.repeats)
    x, y = place[0], place[1] + height
    if cloth.pattern == "hoops":
        share = smoothstep(np.sin(turns * y), -0.2, 0.2)
    elif cloth.pattern == "stripes":
        share = smoothstep(np.sin(turns * x), -0.2, 0.2)
    elif cloth.pattern == "checks":
        share = (smoothstep(np.sin(turns * y), -0.2, 0.2) + smoothstep(np.sin(turns * x), -0.2, 0.2)) / 2
    elif cloth.pattern == "mottled":
        row, column = (np.asarray(v * np.float32(900) + t, np.intp) % TILE_SIZE for v, t in ((y, tile[0]), (x, tile[1])))
        share = smoothstep(noise_tile()[row, column], -0.3, 0.3)
    elif cloth.pattern == "halves":
        share = (y > 0.14).astype(np.float32)
    else:
        share = smoothstep(y, -0.1, 0.3)
    return cloth.color[:, None] + share * (cloth.second_color - cloth.color)[:, None]


def color_chest(albedo: Float32Array, place: Float32Array, bone: Indices, outfit: Outfit) -> Float32Array:
    """Color the neckline, the belt, and the front and back of a top."""
    x, z = place[0], place[2]
    y = (
        place[1] + TRUNK_HEIGHTS.take(bone) - TRUNK_HEIGHTS[BONE_INDEX["chest"]]
    )  # above the start of the chest; shoulders are at 0.12
    side = np.abs(x)
    front = z > 0.012
    upper = y > -0.17 + outfit.waist
    high = bone == BONE_INDEX["chest"]
    if outfit.front == "print":
        block = front & (side < 0.034) & (y > -0.005) & (y < 0.055)
        albedo[:, block] = outfit.accent[:, None]
        albedo[:, block & (side < 0.02) & (y > 0.015) & (y < 0.035)] = outfit.top.color[:, None]
    elif outfit.front == "buttons":
        albedo[:, front & upper & (side < 0.0045)] *= 0.6
    elif outfit.front == "zip":
        albedo[:, front & upper & (side < 0.006)] = outfit.accent[:, None]
    elif outfit.front == "pocket":
        albedo[:, front & (x > 0.02) & (x < 0.052) & (y > 0.015) & (y < 0.055)] *= 0.62  # on the person's left
    if outfit.back == "number":
        block = (z < -0.012) & (side < 0.04) & (y > -0.02) & (y < 0.07)
        albedo[:, block & ~((side < 0.014) & (np.abs(y - 0.025) > 0.012))] = outfit.accent[:, None]
    bare = high & (y > np.where(front, 0.118 - outfit.neckline, 0.124) + np.where(front, 1.4 * side, 0))
    if outfit.sleeves == 0:
        bare |= high & (side > 0.068) & (y > 0.02)
    albedo[:, bare] = outfit.skin[:, None]
    belt = (bone == BONE_INDEX["pelvis"]) & (np.abs(place[1] - outfit.waist) < 0.0065)
    albedo[:, belt] *= 0.45
    albedo[:, belt & front & (side < 0.012)] = WHITE[:, None]
    return albedo


def color_face(albedo: Float32Array, place: Float32Array, bone: Indices, outfit: Outfit) -> Float32Array:
    """Color eyes, brows, mouth and beard on the front of the head, and hair on the rest."""
    x, y, z = place
    side = np.abs(x)
    front = z > 0.12
    cheek = np.maximum(1 - ((side - 0.2) ** 2 + (y - 0.36) ** 2) / 0.014, 0) * front
    albedo *= 1 - np.array([[0.22], [0.22], [0.03]], np.float32) * cheek
    if outfit.hair != "bald":
        line = (y > 0.86 - 0.25 * side) | (z < -0.04 + 0.3 * (y - 0.5)) & (y > 0.3)
        albedo[:, line] = outfit.hair_color[:, None]
    if outfit.beard:
        albedo[:, (y < 0.33) & (z > -0.08) & (side < 0.42)] = outfit.hair_color[:, None] * 0.9 + 0.1 * outfit.skin[:, None]
    socket = front & ((side - 0.155) ** 2 / 0.0100 + (y - 0.535) ** 2 / 0.0048 < 1)
    albedo[:, socket] *= 0.72
    albedo[:, front & ((side - 0.155) ** 2 / 0.0056 + (y - 0.53) ** 2 / 0.0013 < 1)] = WHITE[:, None]
    albedo[:, front & ((side - 0.152) ** 2 + (y - 0.53) ** 2 < 0.0014)] = DARK[:, None]
    albedo[:, front & (np.abs(side - 0.16) < 0.095) & (np.abs(y - 0.645 + 0.8 * (side - 0.15) ** 2) < 0.022)] = (
        outfit.hair_color[:, None] * 0.8
    )
    mouth = front & (x * x / 0.0169 + (y - 0.215) ** 2 / 0.0013 < 1)
    albedo[:, mouth] = 0.45 * albedo[:, mouth] + 0.55 * LIPS[:, None] * (0.35 + outfit.skin.mean())
    albedo[:, mouth & (np.abs(y - 0.215) < 0.009)] *= 0.35
    albedo[:, front & (y < 0.335) & (y > 0.295) & (side > 0.015) & (side < 0.065) & (z > 0.42)] *= 0.45
    if outfit.glasses:
        ring = np.sqrt((side - 0.16) ** 2 + (y - 0.53) ** 2)
        frame = (np.abs(ring - 0.115) < 0.016) | ((side < 0.05) & (np.abs(y - 0.55) < 0.014))
        albedo[:, front & frame] = DARK[:, None]
    return albedo


def color_foot(albedo: Float32Array, place: Float32Array, bone: Indices, outfit: Outfit) -> Float32Array:
    """Color soles, toecaps and laces of shoes, or the toes of bare feet."""
    x, y, z = place
    if outfit.shoes is None:
        albedo[:, (z > 0.075) & (np.abs((x * 160) % 1 - 0.5) < 0.12)] *= 0.7
        return albedo
    albedo[:, (z > 0.03) & (z < 0.058) & (y > -0.02) & (np.abs(x) < 0.010) & ((z * 180) % 1 < 0.5)] = WHITE[:, None]
    albedo[:, (z > 0.08)] *= 0.7
    albedo[:, (y < -0.037)] = outfit.sole[:, None]
    return albedo


def color_hand(albedo: Float32Array, place: Float32Array, bone: Indices, outfit: Outfit) -> Float32Array:
    """Color the gaps between fingers."""
    _, y, z = place
    gap = (y < -0.05) & (np.abs((z * 110 + 0.5) % 1 - 0.5) < 0.14)
    albedo[:, gap] *= 0.55
    return albedo


def color_hair(albedo: Float32Array, place: Float32Array, bone: Indices, outfit: Outfit) -> Float32Array:
    """Color strands that fall from the crown."""
    angle = np.arctan2(place[0], -place[2])
    strands = np.sin(np.float32(41) * angle + np.float32(3) * np.sin(7 * angle)) * np.float32(0.16)
    return albedo * (1 + strands)
