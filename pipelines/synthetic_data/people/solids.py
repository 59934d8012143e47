"""Solids of a person: flesh, hair and clothes around the bones, and which of them blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.people.clothing import Outfit
from hgfast.pipelines.synthetic_data.people.kinematics import BONE_INDEX, PosedBody
from hgfast.pipelines.synthetic_data.render.camera import FloatArray
from hgfast.pipelines.synthetic_data.render.render import Solid

FACE, NECK, TORSO, ARM, HAND, LEG, FOOT, HAIR, HAT, BAG, SLEEVE, TROUSERS, EAR = range(13)
"""Surface types of solids; they determine the color."""

BLENDED_GROUPS = {
    ("trunk", "neck"), ("neck", "head"), ("trunk", "left arm"), ("trunk", "right arm"), ("left arm", "left hand"),
    ("right arm", "right hand"), ("trunk", "left leg"), ("trunk", "right leg"), ("left leg", "left foot"),
    ("right leg", "right foot"), ("trunk", "left sleeve"), ("trunk", "right sleeve"), ("trunk", "left legging"),
    ("trunk", "right legging"), ("trunk", "skirt"), ("left legging", "skirt"), ("right legging", "skirt"),
}  # fmt: skip
"""Pairs of groups whose solids blend, besides each group with itself."""

Point = tuple[float, float, float]


@dataclass(frozen=True)
class BodySolid(Solid):
    """One solid of a body: its surface type, the bone in whose frame it is colored, the group that it blends with."""

    surface: int
    bone: int
    group: str


class SolidBuilder:
    """Collects solids whose points are given in bone frames; lengths and radii are in multiples of `unit` meters."""

    def __init__(self, figure: PosedBody) -> None:
        self.figure = figure
        self.pieces: list[BodySolid] = []

    def at(self, bone: str, point: Point, unit: float) -> FloatArray:
        """Convert a point of a bone's frame to the body frame."""
        number = BONE_INDEX[bone]
        return self.figure.origins[number] + self.figure.frames[number] @ (unit * np.asarray(point))

    def add(self, points: Sequence[FloatArray], radii: Sequence[float], unit: float, kind: int, bone: str, group: str) -> None:
        """Add a solid through points of the body frame."""
        self.pieces.append(BodySolid(np.stack(points), unit * np.asarray(radii), kind, BONE_INDEX[bone], group))


def body_solids(body: PosedBody, outfit: Outfit) -> list[BodySolid]:
    """Return all solids of a dressed body, in the body frame."""
    builder = SolidBuilder(body)
    add_trunk(builder)
    add_head(builder, outfit)
    for side in ("left", "right"):
        add_arm(builder, outfit, side)
        add_leg(builder, outfit, side)
    if outfit.skirt:
        add_skirt(builder, outfit)
    if outfit.back == "bag":
        add_bag(builder)
    return builder.pieces


def blend_mask(pieces: Sequence[BodySolid]) -> NDArray[np.bool_]:
    """Return which pairs of solids (P, P) blend smoothly instead of overlapping."""
    groups = sorted({piece.group for piece in pieces})
    table = np.array([[a == b or (a, b) in BLENDED_GROUPS or (b, a) in BLENDED_GROUPS for b in groups] for a in groups])
    which = np.array([groups.index(piece.group) for piece in pieces])
    return table[which][:, which]


def add_trunk(b: SolidBuilder) -> None:
    """Add hips, buttocks, belly, chest, shoulders and neck."""
    physique = b.figure.shape
    unit, g, wide = physique.stature, physique.stout, physique.broad
    round_belly = max(0.0, g - 1.1)
    half = physique.shoulders / unit
    pelvis, waist, chest = "pelvis", "waist", "chest"

    def cone(
        start: tuple[str, Point], end: tuple[str, Point], radii: Sequence[float], group: str = "trunk", kind: int = TORSO
    ) -> None:
        b.add([b.at(*start, unit), b.at(*end, unit)], radii, unit, kind, start[0], group)

    cone((pelvis, (-0.04, 0.004, -0.004)), (pelvis, (0.04, 0.004, -0.004)), [0.058 * g] * 2)
    for s in (-1.0, 1.0):
        cone((pelvis, (s * 0.036, -0.022, -0.026)), (pelvis, (s * 0.036, -0.012, -0.022)), [0.05 * g] * 2)
        cone((pelvis, (s * 0.036 * g, 0.01, 0.0)), (waist, (s * 0.03 * g * wide, 0.015, 0.004)), [0.056 * g, 0.05 * g])
        cone((waist, (s * 0.03 * g * wide, 0.015, 0.004)), (chest, (s * 0.05 * wide, 0.035, 0.006)), [0.05 * g, 0.056 * g**0.6])
        cone((chest, (s * 0.05 * wide, 0.03, 0.006)), (chest, (s * 0.056, 0.095, -0.002)), [0.056 * g**0.6, 0.046 * g**0.4])
        cone((chest, (s * (half - 0.02), 0.112, -0.002)), (chest, (s * 0.022, 0.136, -0.008)), [0.031 * g**0.4, 0.03])
        if physique.bosom:
            size = 0.034 * physique.bosom * g**0.4
            cone((chest, (s * 0.036, 0.052, 0.042)), (chest, (s * 0.037, 0.04, 0.046)), [size, size])
    cone((pelvis, (0, 0.03, 0.008)), (chest, (0, 0.03, 0.012)), [0.052 * g, 0.056 * g**0.6])
    if round_belly:
        cone((waist, (0, -0.02, 0.03)), (waist, (0, 0.02, 0.03)), [0.055 + 0.06 * round_belly] * 2)
    cone((chest, (0, 0.03, 0.012)), (chest, (0, 0.1, 0.004)), [0.056 * g**0.6, 0.046])
    b.add(
        [b.at("neck", (0, 0.002, -0.01), unit), b.at("head", (0, 0.3, -0.06), physique.head)],
        [0.034 * g**0.4, 0.031 * g**0.3], unit, NECK, "neck", "neck",
    )  # fmt: skip


def add_head(b: SolidBuilder, outfit: Outfit) -> None:
    """Add skull, jaw, nose, ears, hair and hat, in head lengths: 0 at the neck, 1 at the top."""
    unit = b.figure.shape.head
    cheeks = 1 + 0.12 * (b.figure.shape.stout - 1) + 0.06 * (1 - b.figure.shape.age)

    def cone(start: Point, end: Point, radii: Sequence[float], kind: int, group: str) -> None:
        b.add([b.at("head", start, unit), b.at("head", end, unit)], radii, unit, kind, "head", group)

    cone((0, 0.62, 0.11), (0, 0.62, -0.12), [0.365, 0.375], FACE, "head")
    cone((0, 0.5, 0.17), (0, 0.16, 0.24), [0.30 * cheeks, 0.19 * cheeks], FACE, "head")
    cone((0, 0.5, 0.45), (0, 0.37, 0.51), [0.045, 0.065], FACE, "nose")
    for s in (-1.0, 1.0):
        cone((s * 0.36, 0.53, -0.03), (s * 0.34, 0.42, -0.01), [0.085, 0.06], EAR, "ear")
    if outfit.hair != "bald":
        thick = 0.02 if outfit.hair == "short" else 0.045
        cone((0, 0.71, 0.02), (0, 0.64, -0.15), [0.365 + thick, 0.385 + thick], HAIR, "hair")
        cone((0, 0.6, -0.16), (0, 0.36, -0.2), [0.375 + thick, 0.27 + thick], HAIR, "hair")
    if outfit.hair == "long":
        for s in (-1.0, 1.0):
            cone((s * 0.26, 0.62, -0.1), (s * 0.26, -0.08, -0.2), [0.2, 0.17], HAIR, "hair")
        cone((0, 0.5, -0.25), (0, -0.35, -0.34), [0.28, 0.22], HAIR, "hair")
    elif outfit.hair == "bun":
        cone((0, 0.86, -0.4), (0, 0.84, -0.48), [0.17, 0.17], HAIR, "bun")
    elif outfit.hair == "tail":
        cone((0, 0.74, -0.48), (0, 0.45, -0.68), [0.11, 0.12], HAIR, "bun")
        cone((0, 0.45, -0.68), (0, -0.1, -0.62), [0.12, 0.06], HAIR, "bun")
    if outfit.hat is not None:
        cone((0, 0.74, 0.06), (0, 0.72, -0.14), [0.385, 0.4], HAT, "hat")
        cone((-0.16, 0.78, 0.4), (0.16, 0.78, 0.4), [0.06, 0.06], HAT, "hat")
        left, right, tip = (b.at("head", p, unit) for p in ((0.3, 0.8, 0.3), (-0.3, 0.8, 0.3), (0, 0.76, 0.86)))
        b.add([left, right, tip], [0.035] * 3, unit, HAT, "head", "hat")
        cone((0.2, 0.78, 0.52), (-0.2, 0.78, 0.52), [0.05, 0.05], HAT, "hat")
        cone((0.12, 0.77, 0.68), (-0.12, 0.77, 0.68), [0.045, 0.045], HAT, "hat")


def add_arm(b: SolidBuilder, outfit: Outfit, side: str) -> None:
    """Add the upper arm, the forearm, the hand with its thumb to the front, and the sleeve."""
    physique = b.figure.shape
    unit, g = physique.stature, physique.stout**0.7
    s = 1.0 if side == "left" else -1.0
    upper, fore, hand = f"{side} arm", f"{side} forearm", f"{side} hand"
    group = f"{side} arm"
    shoulder, elbow, wrist = (b.at(bone, (0, 0, 0), unit) for bone in (upper, fore, hand))
    biceps = b.at(upper, (0, -0.07, 0.006), unit)
    b.add([shoulder, biceps], [0.036 * g, 0.031 * g], unit, ARM, upper, group)
    b.add([biceps, elbow], [0.031 * g, 0.0245 * g], unit, ARM, upper, group)
    belly = b.at(fore, (s * 0.003, -0.035, -0.002), unit)
    b.add([elbow, belly], [0.0245 * g, 0.0265 * g], unit, ARM, fore, group)
    b.add([belly, wrist], [0.0265 * g, 0.0165 * g**0.6], unit, ARM, fore, group)

    def palm(one: Point, other: Point, radii: Sequence[float]) -> None:
        b.add([b.at(hand, one, unit), b.at(hand, other, unit)], radii, unit, HAND, hand, f"{side} hand")

    palm((0, 0, 0.004), (-s * 0.003, -0.048, 0.012), [0.0155, 0.0125])
    palm((0, 0, -0.004), (-s * 0.003, -0.046, -0.012), [0.0155, 0.0125])
    palm((-s * 0.003, -0.048, 0.011), (-s * 0.018, -0.088, 0.011), [0.0115, 0.0085])
    palm((-s * 0.003, -0.046, -0.009), (-s * 0.02, -0.082, -0.007), [0.0115, 0.0085])
    palm((-s * 0.004, -0.014, 0.012), (-s * 0.012, -0.046, 0.032), [0.0105, 0.0075])
    if outfit.sleeves > 0:
        wide = outfit.looseness[0]
        end = shoulder + min(outfit.sleeves, 1) * (elbow - shoulder)
        taper = 0.036 - 0.0095 * min(outfit.sleeves, 1)
        b.add([shoulder, end], [0.0372 * g * wide**0.4, taper * g * wide**1.3], unit, SLEEVE, upper, f"{side} sleeve")
        if outfit.sleeves > 1:
            end = elbow + (outfit.sleeves - 1) * (wrist - elbow)
            b.add([elbow, end], [0.0265 * g * wide**1.3, 0.021 * g**0.6 * wide**1.3], unit, SLEEVE, fore, f"{side} sleeve")


def add_leg(b: SolidBuilder, outfit: Outfit, side: str) -> None:
    """Add the thigh, the shin with its calf behind, the foot with its toes in front, and the trouser leg."""
    physique = b.figure.shape
    unit, g = physique.stature, physique.stout**0.8
    s = 1.0 if side == "left" else -1.0
    thigh, shin, foot = f"{side} thigh", f"{side} shin", f"{side} foot"
    group = f"{side} leg"
    hip, knee, ankle = (b.at(bone, (0, 0, 0), unit) for bone in (thigh, shin, foot))
    inner = b.at(thigh, (-s * 0.004, -0.03, -0.002), unit)
    b.add([hip, inner], [0.054 * g, 0.053 * g], unit, LEG, thigh, group)
    b.add([inner, knee], [0.053 * g, 0.0335 * g], unit, LEG, thigh, group)
    b.add(
        [b.at(thigh, (0, -0.225, 0.008), unit), b.at(shin, (0, -0.02, 0.008), unit)],
        [0.030 * g, 0.028 * g],
        unit,
        LEG,
        shin,
        group,
    )
    b.add([knee, b.at(shin, (0, -0.21, 0), unit)], [0.0325 * g, 0.0195 * g**0.6], unit, LEG, shin, group)
    calf = [b.at(shin, p, unit) for p in ((s * 0.003, -0.06, -0.016), (0, -0.15, -0.008))]
    b.add(calf, [0.0305 * g, 0.021 * g], unit, LEG, shin, group)
    b.add([b.at(shin, (0, -0.2, 0), unit), ankle], [0.0195 * g**0.6, 0.0195], unit, LEG, shin, group)
    big = 1.0 if outfit.shoes is None else 1.14

    def sole(one: Point, other: Point, radii: Sequence[float]) -> None:
        b.add([b.at(foot, one, unit), b.at(foot, other, unit)], [big * r for r in radii], unit, FOOT, foot, f"{side} foot")

    sole((0, -0.006, 0.0), (0, -0.021, -0.018), [0.0205, 0.0205])
    sole((0, -0.008, 0.006), (s * 0.002, -0.026, 0.062), [0.0215, 0.0165])
    sole((0, -0.022, -0.016), (s * 0.008, -0.026, 0.06), [0.0195, 0.0155])
    sole((-s * 0.004, -0.027, 0.06), (-s * 0.005, -0.03, 0.094), [0.0165, 0.0115])
    sole((s * 0.009, -0.027, 0.058), (s * 0.008, -0.031, 0.086), [0.0150, 0.0105])
    if not outfit.skirt:
        wide = outfit.looseness[1]
        reach = min(outfit.legs, 1)
        b.add(
            [inner, inner + reach * (knee - inner)],
            [0.0545 * g * wide**0.5, (0.0545 - 0.020 * reach) * g * wide], unit, TROUSERS, thigh, f"{side} legging",
        )  # fmt: skip
        if outfit.legs > 1:
            end = knee + (outfit.legs - 1) * (ankle - knee)
            b.add([knee, end], [0.0355 * g * wide, 0.0275 * g**0.6 * wide**1.4], unit, TROUSERS, shin, f"{side} legging")


def add_skirt(b: SolidBuilder, outfit: Outfit) -> None:
    """Add cloth around both thighs and between them."""
    unit, g = b.figure.shape.stature, b.figure.shape.stout
    reach = min(outfit.legs, 0.95)
    ends = []
    for side in ("left", "right"):
        start, knee = (b.at(f"{side} {bone}", (0, 0, 0), unit) for bone in ("thigh", "shin"))
        end = start + reach * (knee - start)
        ends.append(end)
        b.add([start, end], [0.062 * g, 0.066 * g * outfit.looseness[1]], unit, TROUSERS, f"{side} thigh", "skirt")
    middle = (ends[0] + ends[1]) / 2
    b.add([b.at("pelvis", (0, 0, 0), unit), middle], [0.062 * g, 0.066 * g], unit, TROUSERS, "left thigh", "skirt")


def add_bag(b: SolidBuilder) -> None:
    """Add a backpack and its straps."""
    unit = b.figure.shape.stature

    def cone(start: Point, end: Point, radius: float) -> None:
        b.add([b.at("chest", start, unit), b.at("chest", end, unit)], [radius, radius], unit, BAG, "chest", "bag")

    for s in (-1.0, 1.0):
        cone((s * 0.04, -0.08, -0.09), (s * 0.04, 0.1, -0.085), 0.052)
        cone((s * 0.056, 0.13, 0.006), (s * 0.058, 0.06, 0.058), 0.012)
        cone((s * 0.058, 0.06, 0.058), (s * 0.075, -0.03, 0.04), 0.012)
        cone((s * 0.056, 0.13, 0.006), (s * 0.05, 0.1, -0.05), 0.013)
    cone((0, -0.08, -0.1), (0, 0.08, -0.095), 0.052)
