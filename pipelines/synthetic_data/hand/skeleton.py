"""Skeletons of right hands: shapes, poses, joint limits, forward kinematics of the 21 joints.

Hand frame (meters, right-handed): origin at the wrist, y to the knuckle of the middle finger, z out of the back of the hand, x to
the side of the little finger. Camera frame (meters): x right, y down, z forward. Joint order as in FreiHAND: 0 wrist; 1-4 thumb,
5-8 index, 9-12 middle, 13-16 ring, 17-20 pinky, each from the palm to the tip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from hgfast.pipelines.synthetic_data.render.camera import FloatArray, Viewpoints, sample_camera, sample_rotation

KNUCKLES = np.array([[-0.026, 0.088, 0.000], [-0.003, 0.092, 0.002], [0.017, 0.086, 0.001], [0.034, 0.076, -0.004]])
"""Average MCP joints of index, middle, ring and little finger in the hand frame, meters."""
THUMB_BASE = np.array([-0.024, 0.021, -0.010])
PHALANGES = np.array(
    [[0.046, 0.033, 0.027], [0.041, 0.025, 0.023], [0.045, 0.028, 0.024], [0.042, 0.027, 0.024], [0.033, 0.020, 0.021]]
)
"""Average bone lengths from joint 1 outward of thumb, index, middle, ring and little finger, meters."""
RADII = np.array(
    [
        [0.0150, 0.0115, 0.0098, 0.0080],
        [0.0105, 0.0092, 0.0080, 0.0068],
        [0.0106, 0.0094, 0.0082, 0.0070],
        [0.0102, 0.0090, 0.0078, 0.0067],
        [0.0092, 0.0079, 0.0068, 0.0058],
    ]
)
"""Average radii of the flesh at the four joints of thumb, index, middle, ring and little finger, meters."""

FLEXION_LIMITS = np.radians([[-20, 90], [0, 110], [0, 80]])
"""Limits of MCP, PIP and DIP flexion, radians."""
MAX_ABDUCTION = np.radians(15)
RESTING_ABDUCTION = np.radians([6, 0, -5, -11])
"""Abduction of the four fingers of a relaxed hand, radians; positive is toward the thumb."""
THUMB_LIMITS = np.array([np.radians([-12, 62]), np.radians([0, 58]), [0, 1], np.radians([-5, 60]), np.radians([-15, 80])])
"""Limits of the thumb: radial and palmar angle of its metacarpal, opposition in [0, 1], MCP and IP flexion (radians)."""
THUMB_PAD_AT_REST = np.array([0.75, 0.1, -0.65])
THUMB_PAD_OPPOSED = np.array([0.85, 0.35, 0.35])

EXTENDED, BENT, FIST, HOOK, TABLE = (0, 5), (35, 40), (82, 98), (5, 95), (75, 8)
POSES: dict[str, tuple[tuple[tuple[float, float], ...], float, tuple[float, float, float, float, float], int]] = {
    # name: (MCP, PIP) of four fingers in degrees, spread, thumb (degrees, opposition in [0, 1]), pinched finger or -1
    "flat": ((EXTENDED, EXTENDED, EXTENDED, EXTENDED), -0.3, (28, 5, 0.0, 5, 5), -1),
    "spread": (((-8, 2), (-8, 2), (-8, 2), (-8, 2)), 1.4, (58, 5, 0.0, -2, -5), -1),
    "ease": (((15, 22), (20, 28), (24, 32), (26, 32)), 0.3, (35, 25, 0.3, 12, 18), -1),
    "fist": ((FIST, FIST, FIST, FIST), -0.2, (15, 48, 0.8, 38, 55), -1),
    "point": ((EXTENDED, FIST, FIST, FIST), 0.0, (18, 46, 0.7, 35, 50), -1),
    "victory": ((EXTENDED, EXTENDED, FIST, FIST), 1.2, (8, 50, 0.9, 42, 45), -1),
    "three": ((EXTENDED, EXTENDED, EXTENDED, FIST), 0.9, (5, 52, 0.9, 45, 45), -1),
    "four": ((EXTENDED, EXTENDED, EXTENDED, EXTENDED), 1.0, (0, 50, 0.9, 48, 50), -1),
    "thumb up": ((FIST, FIST, FIST, FIST), -0.2, (50, 0, 0.0, 0, -8), -1),
    "gun": ((EXTENDED, FIST, FIST, FIST), 0.0, (58, 5, 0.0, 0, 0), -1),
    "telephone": ((FIST, FIST, FIST, EXTENDED), 0.8, (60, 5, 0.0, 0, -5), -1),
    "horns": ((EXTENDED, FIST, FIST, EXTENDED), 0.6, (10, 50, 0.9, 40, 45), -1),
    "ring": (((48, 52), (12, 15), (8, 10), (5, 8)), 0.7, (22, 48, 0.9, 15, 28), 1),
    "pinch": (((52, 48), (58, 55), (62, 60), (65, 62)), 0.0, (20, 50, 0.9, 15, 25), 1),
    "tripod": (((55, 42), (56, 46), (68, 72), (72, 78)), 0.0, (18, 52, 0.9, 18, 22), 2),
    "long pinch": (((10, 12), (58, 50), (15, 20), (10, 15)), 0.5, (15, 52, 1.0, 18, 25), 2),
    "cylinder": (((42, 45), (46, 48), (50, 50), (54, 50)), 0.0, (28, 52, 0.8, 15, 22), -1),
    "ball": (((28, 36), (26, 38), (28, 38), (30, 36)), 1.3, (42, 50, 0.7, 8, 20), -1),
    "hook": ((HOOK, HOOK, HOOK, HOOK), 0.0, (25, 15, 0.2, 10, 15), -1),
    "table": ((TABLE, TABLE, TABLE, TABLE), -0.2, (20, 40, 0.6, 10, 10), -1),
    "key": ((BENT, (60, 70), (68, 80), (70, 85)), -0.2, (18, 22, 0.2, 15, 30), -1),
    "little out": ((BENT, BENT, BENT, EXTENDED), 0.8, (25, 45, 0.8, 15, 25), -1),
    "claw": (((-12, 70), (-12, 72), (-10, 70), (-8, 65)), 1.1, (45, 30, 0.3, 10, 45), -1),
}


@dataclass(frozen=True)
class HandShape:
    """Dimensions of one right hand.

    `knuckles` (4, 3), `base` (3,) of the thumb, `bones` (5, 3) and `radii` (5, 4) in meters; `size` and `stout` are factors on
    the average hand's lengths and radii.
    """

    knuckles: FloatArray
    base: FloatArray
    bones: FloatArray
    radii: FloatArray
    size: float
    stout: float


@dataclass(frozen=True)
class HandPose:
    """B poses, radians: `flexion` (B, 4, 3), `abduction` (B, 4), `thumb` (B, 5) in the order of `THUMB_LIMITS`, `cup` (B,)."""

    flexion: FloatArray
    abduction: FloatArray
    thumb: FloatArray
    cup: FloatArray


@dataclass(frozen=True)
class Hand:
    """One posed hand in front of its camera.

    `joints` (21, 3), `dorsal` (5, 3, 3) (the direction of the back of each finger's bones) and `forearm` (3,) (the direction from
    the wrist to the elbow) are in the hand frame; `x_camera = rotation @ x_hand + translation`; `K` (3, 3) projects the camera
    frame to pixels, with (0, 0) on the outer corner of the first pixel.
    """

    shape: HandShape
    joints: FloatArray
    dorsal: FloatArray
    forearm: FloatArray
    rotation: FloatArray
    translation: FloatArray
    K: FloatArray

    def to_camera(self, points: FloatArray) -> FloatArray:
        """Transform points (..., 3) from the hand frame to the camera frame, meters."""
        return points @ self.rotation.T + self.translation

    @property
    def xyz(self) -> FloatArray:
        """The joints (21, 3) in the camera frame, meters."""
        return self.to_camera(self.joints)


def sample_hand(rng: Generator, viewpoints: Viewpoints = "facing") -> Hand:
    """Sample a random hand in a random pose and a random camera, see `sample_rotation`."""
    person = sample_shape(rng)
    angles = sample_pose(rng, person)
    joints, dorsal = (a[0] for a in forward_kinematics(person, angles))
    while True:
        bend, tilt = np.clip(rng.normal(0, [0.45, 0.18]), [-1.1, -0.4], [1.1, 0.4])
        forearm = np.array([np.sin(tilt), -np.cos(tilt) * np.cos(bend), -np.cos(tilt) * np.sin(bend)])
        rotation = sample_rotation(rng, viewpoints)
        if (rotation @ forearm)[2] > -0.75:  # an arm straight into the lens would hide the hand
            break
    translation, K = sample_camera(rng, joints @ rotation.T)
    return Hand(person, joints, dorsal, forearm, rotation, translation, K)


def sample_shape(rng: Generator) -> HandShape:
    """Sample the size of a hand, the proportions of palm and fingers, and the thickness of the flesh."""
    size = float(np.clip(rng.normal(1, 0.08), 0.80, 1.18))
    stout = float(np.clip(rng.normal(1, 0.08), 0.84, 1.2))
    width, length = np.clip(rng.normal(1, 0.05, 2), 0.88, 1.12)
    fingers = np.clip(rng.normal(1, 0.05) * rng.normal(1, 0.025, 5), 0.86, 1.14)[:, None]
    phalanges = np.clip(rng.normal(1, 0.03, (5, 3)), 0.92, 1.08)
    palm = np.array([width, length, 1.0])
    return HandShape(
        knuckles=KNUCKLES * palm * size,
        base=THUMB_BASE * palm * size,
        bones=PHALANGES * fingers * phalanges * size,
        radii=RADII * stout * size,
        size=size,
        stout=stout,
    )


def sample_pose(rng: Generator, person: HandShape) -> HandPose:
    """Sample one pose (B = 1), near a named pose, between two, or free: the candidate with the least penetration."""
    names = list(POSES)
    first, second = rng.choice(len(names), 2, replace=False)
    kind = rng.random()
    mix = 0.0 if kind < 0.5 else float(rng.beta(0.8, 0.8)) if kind < 0.75 else 0.5
    free = kind >= 0.75
    pinched_finger = POSES[names[first]][3] if mix == 0 else -1
    center = blend_poses(names[first], names[second], mix)
    if free:
        center = free_pose(rng, center)
    best = center
    for spread, tries in ((1.0, 10),) if pinched_finger < 0 else ((1.0, 40), (0.3, 40)):
        candidates = perturb(rng, best, spread, tries)
        joints, _ = forward_kinematics(person, candidates)
        cost = penetration(joints, person)
        if pinched_finger >= 0:
            gap = np.linalg.norm(joints[:, 4] - joints[:, 4 + 4 * pinched_finger], axis=-1)
            cost = cost + 4 * np.abs(gap - 1.1 * person.radii[0, 3])
        best = select_pose(candidates, int(np.argmin(cost)))
    return best


def blend_poses(first: str, second: str, mix: float) -> HandPose:
    """Interpolate between two named poses; returns one pose (B = 1)."""

    def angles(name: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        bends, spread, thumb, _ = POSES[name]
        bend = np.radians(np.array(bends, float))
        flexion = np.concatenate([bend, bend[:, 1:] * 2 / 3], axis=1)
        opposed = np.array([*np.radians(thumb[:2]), thumb[2], *np.radians(thumb[3:])])
        return flexion, RESTING_ABDUCTION * spread, opposed

    flexion, abduction, thumb = ((1 - mix) * a + mix * b for a, b in zip(angles(first), angles(second), strict=True))
    return HandPose(flexion[None], abduction[None], thumb[None], np.zeros(1))


def free_pose(rng: Generator, near: HandPose) -> HandPose:
    """Sample finger curls that correlate with those of their neighbors; the thumb is that of `near` (B = 1)."""
    curl = np.empty(4)
    curl[0] = rng.beta(0.7, 0.8)
    for i in range(1, 4):
        correlation = rng.uniform(0.3, 0.95)
        curl[i] = correlation * curl[i - 1] + (1 - correlation) * rng.beta(0.7, 0.8)
    share = rng.uniform(0.2, 0.8)  # share of the curl at the knuckle rather than in the finger
    knuckle = np.clip(curl * (0.5 + share), 0, 1) * np.radians(100) - np.radians(15)
    middle = np.clip(curl * (1.5 - share), 0, 1) * np.radians(105)
    flexion = np.stack([knuckle, middle, middle * 2 / 3], axis=-1)
    return HandPose(flexion[None], (RESTING_ABDUCTION * rng.uniform(-0.4, 1.4))[None], near.thumb, near.cup)


def perturb(rng: Generator, pose: HandPose, spread: float, tries: int) -> HandPose:
    """Sample `tries` poses around one (B = 1), with noise common to the fingers and noise of each, within the limits."""
    shared = rng.normal(0, np.radians(7), (tries, 1, 2))
    individual = rng.normal(0, np.radians(5), (tries, 4, 2))
    bend = pose.flexion[..., :2] + spread * (shared + individual)
    bend = np.clip(bend, FLEXION_LIMITS[:2, 0], FLEXION_LIMITS[:2, 1])
    coupled = bend[..., 1] * (2 / 3) * (1 + 0.12 * spread * rng.standard_normal((tries, 4)))
    tip = np.clip(coupled, *FLEXION_LIMITS[2])
    fan = pose.abduction + spread * (
        RESTING_ABDUCTION * rng.normal(0, 0.3, (tries, 1)) + rng.normal(0, np.radians(2), (tries, 4))
    )
    thumb = pose.thumb + spread * rng.normal(0, [0.12, 0.10, 0.1, 0.12, 0.14], (tries, 5))
    return HandPose(
        flexion=np.concatenate([bend, tip[..., None]], axis=-1),
        abduction=np.clip(fan, -MAX_ABDUCTION, MAX_ABDUCTION),
        thumb=np.clip(thumb, THUMB_LIMITS[:, 0], THUMB_LIMITS[:, 1]),
        cup=np.clip(np.radians(4) + 0.12 * bend[..., 0].mean(axis=-1), 0, np.radians(14)),
    )


def select_pose(angles: HandPose, index: int) -> HandPose:
    """Return pose `index` as B = 1."""
    only = slice(index, index + 1)
    return HandPose(angles.flexion[only], angles.abduction[only], angles.thumb[only], angles.cup[only])


def forward_kinematics(person: HandShape, angles: HandPose) -> tuple[FloatArray, FloatArray]:
    """Compute joints (B, 21, 3) in meters and backs of the bones (B, 5, 3, 3), both in the hand frame."""
    batch = len(angles.cup)
    joints = np.zeros((batch, 5, 4, 3))
    dorsal = np.empty((batch, 5, 3, 3))

    radial, palmar, opposition, *flexions = np.moveaxis(angles.thumb, -1, 0)
    along = np.stack([-np.sin(radial) * np.cos(palmar), np.cos(radial) * np.cos(palmar), -np.sin(palmar)], axis=-1)
    pulp = THUMB_PAD_AT_REST + opposition[:, None] * (THUMB_PAD_OPPOSED - THUMB_PAD_AT_REST)
    pulp = pulp - (pulp * along).sum(-1, keepdims=True) * along
    pulp /= np.linalg.norm(pulp, axis=-1, keepdims=True)
    joints[:, 0, 0] = person.base
    for bone in range(3):
        if bone:
            cos, sin = np.cos(flexions[bone - 1])[:, None], np.sin(flexions[bone - 1])[:, None]
            along, pulp = cos * along + sin * pulp, cos * pulp - sin * along
        joints[:, 0, bone + 1] = joints[:, 0, bone] + person.bones[0, bone] * along
        dorsal[:, 0, bone] = -pulp

    cup = angles.cup[:, None] * [0, 0, 0.5, 1]
    x, y, z = person.knuckles.T
    knuckles = [np.broadcast_to(x, cup.shape), y * np.cos(cup) + z * np.sin(cup), z * np.cos(cup) - y * np.sin(cup)]
    joints[:, 1:, 0] = np.stack(knuckles, axis=-1)
    angle = cup
    cos_fan, sin_fan = np.cos(angles.abduction), np.sin(angles.abduction)
    for bone in range(3):
        angle = angle + angles.flexion[..., bone]
        cos, sin = np.cos(angle), np.sin(angle)
        along = np.stack([-sin_fan * cos, cos_fan * cos, -sin], axis=-1)
        joints[:, 1:, bone + 1] = joints[:, 1:, bone] + person.bones[1:, bone, None] * along
        dorsal[:, 1:, bone] = np.stack([-sin_fan * sin, cos_fan * sin, cos], axis=-1)

    return np.concatenate([np.zeros((batch, 1, 3)), joints.reshape(batch, 20, 3)], axis=1), dorsal


def penetration(joints: FloatArray, person: HandShape) -> FloatArray:
    """Return the depth to which fingers penetrate each other and the palm, summed (B,), meters; joints (B, 21, 3)."""
    fingers = joints[:, 1:].reshape(-1, 5, 4, 3)
    middles = (fingers[:, :, 1:] + fingers[:, :, :-1]) / 2
    points = np.concatenate([middles, fingers[:, :, 1:]], axis=2)  # (B, 5, 6, 3)
    radii = np.concatenate([(person.radii[:, 1:] + person.radii[:, :-1]) / 2, person.radii[:, 1:]], axis=1)
    first, second = np.triu_indices(5, 1)
    apart = np.linalg.norm(points[:, first, :, None] - points[:, second, None], axis=-1)
    overlap = np.maximum(0.9 * (radii[first, :, None] + radii[second, None]) - apart, 0).sum((1, 2, 3))
    outer, thick = points[:, :, [1, 2, 4, 5]].reshape(-1, 20, 1, 3), radii[:, [1, 2, 4, 5]].reshape(20, 1)
    palm = (np.array([0.35, 0.6, 0.85])[:, None] * fingers[:, 1:, None, 0]).reshape(-1, 1, 12, 3)
    apart = np.linalg.norm(outer - palm, axis=-1)
    return overlap + np.maximum(0.012 * person.size + thick - apart, 0).sum((1, 2))
