"""Solids of a hand: round cones along its bones, thick triangles that fill the palm and the webs between fingers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.hand.skeleton import Hand
from hgfast.pipelines.synthetic_data.render.camera import FloatArray
from hgfast.pipelines.synthetic_data.render.render import Solid

PALM, FOREARM, SLEEVE = 0, 6, 7
"""Limbs; 1..5 are thumb, index, middle, ring and little finger."""

CARPALS = np.array([[-0.014, 0.002, -0.002], [0.015, 0.001, -0.003]])
CARPAL_RADIUS = 0.0175


@dataclass(frozen=True)
class HandSolid(Solid):
    """One solid of a hand.

    `limb` and `segment` (0 nearest to the palm) determine which solids blend; `dorsal` (3,) points out of its back; `nail` marks
    the bone that has one.
    """

    limb: int
    segment: int
    dorsal: FloatArray
    nail: bool = False


def blend_mask(parts: Sequence[HandSolid]) -> NDArray[np.bool_]:
    """Return which pairs of solids (P, P) blend instead of overlapping: neighbors along a limb, and limbs with the palm."""
    limb, segment = np.array([part.limb for part in parts]), np.array([part.segment for part in parts])
    same = (limb[:, None] == limb) & (abs(segment[:, None] - segment) <= 1)
    rooted = (limb[:, None] == PALM) & (limb != SLEEVE) & (segment == 0)
    return same | rooted | rooted.T


def hand_solids(hand: Hand, sleeve_from: float | None) -> list[HandSolid]:
    """Return all solids of a hand with its forearm; the sleeve begins `sleeve_from` meters behind the wrist."""
    parts = [*palm_solids(hand), *finger_solids(hand), *forearm_solids(hand, sleeve_from)]
    return [part for part in parts if part.points[:, 2].min() > 0.05]


def make_solid(
    hand: Hand, points: list[FloatArray], radii: list[float], limb: int, segment: int, dorsal: FloatArray
) -> HandSolid:
    """Make a solid from points in the hand frame; the radii, in meters for an average hand, are scaled to this hand."""
    scale = hand.shape.size * hand.shape.stout
    return HandSolid(hand.to_camera(np.stack(points)), np.array(radii) * scale, limb, segment, hand.rotation @ dorsal)


def palm_solids(hand: Hand) -> list[HandSolid]:
    """Return the metacarpals, the plates between them, the balls of thumb and little finger, the webs."""
    back = np.array([0.0, 0.0, 1.0])
    scale = hand.shape.size
    radial, ulnar = CARPALS * scale
    wrist = (radial + ulnar) / 2
    base, thumb = hand.joints[1], hand.joints[2]
    index, middle, ring, pinky = (hand.joints[i] - [0, 0, 0.0015 * scale] for i in (5, 9, 13, 17))
    ball = base + 0.45 * (thumb - base) + scale * np.array([0.008, 0.0, -0.006])
    heel = ulnar + scale * np.array([0.009, 0.016, -0.007])
    web_thumb, web_index = base + 0.72 * (thumb - base), 0.78 * index
    r = CARPAL_RADIUS
    solids: list[tuple[list[FloatArray], list[float]]] = [
        ([radial, ulnar], [r, r]),
        ([radial, index], [r, 0.0118]),
        ([wrist, middle], [r, 0.0120]),
        ([wrist, ring], [r, 0.0115]),
        ([ulnar, pinky], [r, 0.0105]),
        ([heel, pinky], [0.0145, 0.0100]),
        ([radial, base], [0.0165, 0.0150]),
        ([radial, ball], [0.0150, 0.0150]),
        ([base, thumb], [0.0150, 0.0118]),
        ([ball, thumb], [0.0150, 0.0110]),
        ([index, middle], [0.0108, 0.0110]),
        ([middle, ring], [0.0110, 0.0106]),
        ([ring, pinky], [0.0106, 0.0098]),
        ([web_thumb, web_index], [0.0080, 0.0090]),
        ([radial, index, middle], [r, 0.0118, 0.0120]),
        ([radial, middle, ulnar], [r, 0.0120, r]),
        ([ulnar, middle, ring], [r, 0.0120, 0.0115]),
        ([ulnar, ring, pinky], [r, 0.0115, 0.0105]),
        ([base, web_thumb, web_index], [0.0130, 0.0080, 0.0090]),
        ([base, web_index, radial], [0.0130, 0.0100, 0.0160]),
    ]
    return [make_solid(hand, points, radii, PALM, 0, back) for points, radii in solids]


def finger_solids(hand: Hand) -> list[HandSolid]:
    """Return the phalanges; the last cone ends short of the tip, so that the tip joint lies just under the skin."""
    parts = []
    radii = hand.shape.radii
    for finger in range(5):
        for bone in range(1 if finger == 0 else 0, 3):
            joint = 1 + 4 * finger + bone
            start, end = hand.joints[joint], hand.joints[joint + 1]
            last = bone == 2
            if last:
                end = end - 0.55 * radii[finger, 3] * (end - start) / np.linalg.norm(end - start)
            parts.append(
                HandSolid(
                    hand.to_camera(np.stack([start, end])),
                    radii[finger, bone : bone + 2],
                    limb=1 + finger,
                    segment=bone - (finger == 0),
                    dorsal=hand.rotation @ hand.dorsal[finger, bone],
                    nail=last,
                )
            )
    return parts


def forearm_solids(hand: Hand, sleeve_from: float | None) -> list[HandSolid]:
    """Return two bones with the plate between them, longer than any image is wide, and the sleeve over them."""
    along = hand.forearm
    side = np.array([1.0, 0, 0]) - along[0] * along
    side /= np.linalg.norm(side)
    back = np.cross(side, -along)
    scale = hand.shape.size
    toward_camera = (hand.rotation @ along)[2]
    depth = hand.translation[2]
    length = min(0.35, (depth - 0.15) / -toward_camera) if toward_camera < 0 else 0.35

    def tube(start: float, end: float, radii: tuple[float, float], limb: int, segment: int) -> list[HandSolid]:
        first, second = (wide * scale * side for wide in (0.011 + 0.012 * start / 0.35, 0.011 + 0.012 * end / 0.35))
        near, far = start * along, end * along
        a, b, c, d = near - first, near + first, far - second, far + second
        ra, rc = radii
        shapes = [([a, c], [ra, rc]), ([b, d], [ra, rc]), ([a, b, c], [ra, ra, rc]), ([b, d, c], [ra, rc, rc])]
        return [make_solid(hand, points, list(r), limb, segment, back) for points, r in shapes]

    parts = tube(0.0, length, (0.0185, 0.031), FOREARM, 0)
    if sleeve_from is not None and sleeve_from < length - 0.02:
        parts += tube(sleeve_from, length, (0.030, 0.042), SLEEVE, 0)
    return parts
