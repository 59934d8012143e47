"""The drawn surface of a person as a coloured layer: face, skin, hair, patterns of clothes.

What may enter: how a visible surface gets its colour from its place on the body. Colours are BGR; inside this module linear
light, at its border picture values in [0, 255]. Places on the body are in the frame of the bone below the surface, counted in
statures, on the head in lengths of the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.drawn.background import TILE, noise_tile
from pipelines.drawn.body import ARM, BAG, EAR, FACE, FOOT, HAIR, HAND, HAT, LEG, LEGGING, NECK, SLEEVE, TORSO, Piece
from pipelines.drawn.camera import Array, Floats
from pipelines.drawn.light import Light, contact, highlight, shine, smooth
from pipelines.drawn.outfit import Cloth, Outfit
from pipelines.drawn.people import BONES, FRAME, Figure
from pipelines.drawn.render import EMPTY, FINE, Surface, to_picture
from pipelines.drawn.skin import dot

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]
HEIGHTS = np.zeros(len(BONES), np.float32)
"""Where bones of the trunk begin above the hips, so that a pattern runs on from one to the next."""
HEIGHTS[[FRAME["waist"], FRAME["chest"]]] = 0.062, 0.164
LIPS = np.array([0.10, 0.09, 0.30], np.float32)
WHITE = np.array([0.75, 0.78, 0.80], np.float32)
DARK = np.array([0.02, 0.02, 0.03], np.float32)


def paint(
    surface: Surface, pieces: Sequence[Piece], figure: Figure, K: Array, outfit: Outfit, light: Light, size: tuple[int, int]
) -> Floats:
    """A layer (H, W, 4) of BGR in [0, 255] premultiplied by alpha in [0, 1]; `figure` in the camera's frame, `size` is H, W."""
    rows, columns = surface.part.shape
    where = np.flatnonzero(surface.part.ravel() != EMPTY)
    part = surface.part.take(where).astype(np.intp)
    u, v = surface.normal.reshape(2, -1).take(where, axis=1)
    normal = np.stack([u, v, -np.sqrt(np.maximum(1 - u * u - v * v, 0))])
    seen = np.stack([(where % columns).astype(np.float32), (where // columns).astype(np.float32), surface.depth.take(where)])
    kind = np.array([piece.kind for piece in pieces])[part]
    bone = np.array([piece.bone for piece in pieces])[part]

    colour = colours(on_body(seen, pieces, bone, figure, K), kind, bone, figure, outfit)
    grain = noise_tile()[:, : TILE // 2].take(np.asarray(seen[1] * 256 + seen[0] + outfit.tile[0], np.intp), mode="wrap")
    colour *= shine(normal, light)
    colour *= contact(surface).take(where) * (1 + np.float32(0.035) * grain)
    colour += highlight(normal, light) * np.isin(kind, (FACE, NECK, ARM, HAND, EAR, HAIR, FOOT))
    np.clip(colour, 0, 1, out=colour)
    np.sqrt(colour, out=colour)
    colour *= 255

    layer = np.zeros((rows * columns, 4), np.float32)
    layer[where] = np.concatenate([colour, np.ones((1, len(where)), np.float32)]).T
    smaller = size[0] < rows
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(layer.reshape(rows, columns, 4), size[::-1], interpolation=how)


def on_body(seen: Floats, pieces: Sequence[Piece], bone: Indices, figure: Figure, K: Array) -> Floats:
    """Places on the body (3, N) of surface points `seen` (3, N): column, row and w counted from the first piece on."""
    first = to_picture(pieces[0].points[0], K)[2]
    f = np.float32
    depth = np.exp((seen[2] + f(first)) * f(1 / (FINE * K[0, 0])))
    x = (seen[0] + f(0.5 - FINE * K[0, 2])) * depth * f(1 / (FINE * K[0, 0]))
    y = (seen[1] + f(0.5 - FINE * K[1, 2])) * depth * f(1 / (FINE * K[1, 1]))
    point = np.stack([x, y, depth])
    unit = np.full(len(BONES), figure.physique.stature)
    unit[FRAME["head"]] = figure.physique.head
    axes = (figure.frames / unit[:, None, None]).transpose(2, 0, 1).astype(f)  # (axis, F, 3)
    shift = np.einsum("afi,fi->af", axes.astype(float), figure.origins).astype(f)
    return np.stack([dot(point, axes[axis], bone) - shift[axis].take(bone) for axis in range(3)])


def colours(place: Floats, kind: Indices, bone: Indices, figure: Figure, outfit: Outfit) -> Floats:
    """Albedo (3, N) at places on the body (3, N) of solids of a `kind` (N,) that belong to a `bone` (N,)."""
    stature = figure.physique.stature
    along = np.zeros((2, len(BONES)), np.float32)  # how much of a limb a length along it is, and how much comes before it
    reach = np.zeros(len(BONES), np.float32)
    for side in ("left", "right"):
        for number, (root, tip, covered) in enumerate((("arm", "forearm", outfit.sleeves), ("thigh", "shin", outfit.legs))):
            lengths = (
                (figure.physique.arm, figure.physique.forearm) if number == 0 else (figure.physique.thigh, figure.physique.shin)
            )
            for step, (name, length) in enumerate(zip((root, tip), lengths, strict=True)):
                along[:, FRAME[f"{side} {name}"]] = -stature / length, step
                reach[FRAME[f"{side} {name}"]] = covered if not (number == 1 and outfit.skirt) else 0.02
    down = along[0].take(bone) * place[1] + along[1].take(bone)
    covered = down < reach.take(bone)

    table = np.tile(outfit.skin, (EAR + 1, 1))
    table[HAIR], table[BAG] = outfit.hair_colour, outfit.accent
    table[HAT] = outfit.hair_colour if outfit.hat is None else outfit.hat
    table[FOOT] = outfit.skin if outfit.shoes is None else outfit.shoes
    albedo = np.ascontiguousarray(table.take(kind, axis=0).T)

    torso = kind == TORSO
    pelvis = bone == FRAME["pelvis"]
    low = torso & pelvis & (place[1] < outfit.waist)
    for cloth, which in (
        (outfit.top, (torso & ~low) | (kind == SLEEVE) | ((kind == ARM) & covered)),
        (outfit.bottom, low | (kind == LEGGING) | ((kind == LEG) & covered)),
    ):
        found = np.flatnonzero(which)
        albedo[:, found] = weave(cloth, place.take(found, axis=1), HEIGHTS.take(bone.take(found)), outfit.tile)
    if outfit.shoes is not None:
        albedo[:, (kind == LEG) & (down > outfit.socks)] = outfit.sole[:, None]
    for which, dye in ((torso, chest), (kind == FACE, face), (kind == FOOT, foot), (kind == HAND, hand), (kind == HAIR, hair)):
        found = np.flatnonzero(which)
        if len(found):
            albedo[:, found] = dye(albedo.take(found, axis=1), place.take(found, axis=1), bone.take(found), outfit)
    return albedo


def weave(cloth: Cloth, place: Floats, height: Floats, tile: tuple[int, int]) -> Floats:
    """Colours (3, N) of a cloth."""
    if cloth.pattern == "plain":
        return np.repeat(cloth.main[:, None], place.shape[1], axis=1)
    turns = np.float32(2 * np.pi * cloth.repeats)
    x, y = place[0], place[1] + height
    if cloth.pattern == "hoops":
        share = smooth(np.sin(turns * y), -0.2, 0.2)
    elif cloth.pattern == "stripes":
        share = smooth(np.sin(turns * x), -0.2, 0.2)
    elif cloth.pattern == "checks":
        share = (smooth(np.sin(turns * y), -0.2, 0.2) + smooth(np.sin(turns * x), -0.2, 0.2)) / 2
    elif cloth.pattern == "mottled":
        row, column = (np.asarray(v * np.float32(900) + t, np.intp) % TILE for v, t in ((y, tile[0]), (x, tile[1])))
        share = smooth(noise_tile()[row, column], -0.3, 0.3)
    elif cloth.pattern == "halves":
        share = (y > 0.14).astype(np.float32)
    else:
        share = smooth(y, -0.1, 0.3)
    return cloth.main[:, None] + share * (cloth.other - cloth.main)[:, None]


def chest(albedo: Floats, place: Floats, bone: Indices, outfit: Outfit) -> Floats:
    """Neckline, belt and what is on the front and the back of a top."""
    x, z = place[0], place[2]
    y = place[1] + HEIGHTS.take(bone) - HEIGHTS[FRAME["chest"]]  # from where the chest begins; shoulders are at 0.12
    side = np.abs(x)
    front = z > 0.012
    upper = y > -0.17 + outfit.waist
    high = bone == FRAME["chest"]
    if outfit.front == "print":
        block = front & (side < 0.034) & (y > -0.005) & (y < 0.055)
        albedo[:, block] = outfit.accent[:, None]
        albedo[:, block & (side < 0.02) & (y > 0.015) & (y < 0.035)] = outfit.top.main[:, None]
    elif outfit.front == "buttons":
        albedo[:, front & upper & (side < 0.0045)] *= 0.6
    elif outfit.front == "zip":
        albedo[:, front & upper & (side < 0.006)] = outfit.accent[:, None]
    elif outfit.front == "pocket":
        albedo[:, front & (x > 0.02) & (x < 0.052) & (y > 0.015) & (y < 0.055)] *= 0.62  # on the left, as pockets are
    if outfit.back == "number":
        block = (z < -0.012) & (side < 0.04) & (y > -0.02) & (y < 0.07)
        albedo[:, block & ~((side < 0.014) & (np.abs(y - 0.025) > 0.012))] = outfit.accent[:, None]
    bare = high & (y > np.where(front, 0.118 - outfit.neckline, 0.124) + np.where(front, 1.4 * side, 0))
    if outfit.sleeves == 0:
        bare |= high & (side > 0.068) & (y > 0.02)
    albedo[:, bare] = outfit.skin[:, None]
    belt = (bone == FRAME["pelvis"]) & (np.abs(place[1] - outfit.waist) < 0.0065)
    albedo[:, belt] *= 0.45
    albedo[:, belt & front & (side < 0.012)] = WHITE[:, None]
    return albedo


def face(albedo: Floats, place: Floats, bone: Indices, outfit: Outfit) -> Floats:
    """Eyes, brows, mouth and beard on the front of the head, hair on the rest of it."""
    x, y, z = place
    side = np.abs(x)
    front = z > 0.12
    cheek = np.maximum(1 - ((side - 0.2) ** 2 + (y - 0.36) ** 2) / 0.014, 0) * front
    albedo *= 1 - np.array([[0.22], [0.22], [0.03]], np.float32) * cheek
    if outfit.hair != "bald":
        line = (y > 0.86 - 0.25 * side) | (z < -0.04 + 0.3 * (y - 0.5)) & (y > 0.3)
        albedo[:, line] = outfit.hair_colour[:, None]
    if outfit.beard:
        albedo[:, (y < 0.33) & (z > -0.08) & (side < 0.42)] = outfit.hair_colour[:, None] * 0.9 + 0.1 * outfit.skin[:, None]
    socket = front & ((side - 0.155) ** 2 / 0.0100 + (y - 0.535) ** 2 / 0.0048 < 1)
    albedo[:, socket] *= 0.72
    albedo[:, front & ((side - 0.155) ** 2 / 0.0056 + (y - 0.53) ** 2 / 0.0013 < 1)] = WHITE[:, None]
    albedo[:, front & ((side - 0.152) ** 2 + (y - 0.53) ** 2 < 0.0014)] = DARK[:, None]
    albedo[:, front & (np.abs(side - 0.16) < 0.095) & (np.abs(y - 0.645 + 0.8 * (side - 0.15) ** 2) < 0.022)] = (
        outfit.hair_colour[:, None] * 0.8
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


def foot(albedo: Floats, place: Floats, bone: Indices, outfit: Outfit) -> Floats:
    """Soles, toecaps and laces of shoes; the toes of bare feet."""
    x, y, z = place
    if outfit.shoes is None:
        albedo[:, (z > 0.075) & (np.abs((x * 160) % 1 - 0.5) < 0.12)] *= 0.7
        return albedo
    albedo[:, (z > 0.03) & (z < 0.058) & (y > -0.02) & (np.abs(x) < 0.010) & ((z * 180) % 1 < 0.5)] = WHITE[:, None]
    albedo[:, (z > 0.08)] *= 0.7
    albedo[:, (y < -0.037)] = outfit.sole[:, None]
    return albedo


def hand(albedo: Floats, place: Floats, bone: Indices, outfit: Outfit) -> Floats:
    """The gaps between fingers."""
    _, y, z = place
    gap = (y < -0.05) & (np.abs((z * 110 + 0.5) % 1 - 0.5) < 0.14)
    albedo[:, gap] *= 0.55
    return albedo


def hair(albedo: Floats, place: Floats, bone: Indices, outfit: Outfit) -> Floats:
    """Strands that fall from the crown."""
    angle = np.arctan2(place[0], -place[2])
    strands = np.sin(np.float32(41) * angle + np.float32(3) * np.sin(7 * angle)) * np.float32(0.16)
    return albedo * (1 + strands)
