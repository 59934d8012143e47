"""Right hands as skeletons: people, poses, joint limits, forward kinematics.

What may enter: anatomy of the 21 joints. Nothing here knows about flesh, colours or files.

Hand frame (metres, right-handed): origin at the wrist, y to the knuckle of the middle finger, z out of the back of the
hand, x to the side of the little finger. Camera frame (metres): x right, y down, z forward. Joint order as in FreiHAND:
0 wrist; 1-4 thumb, 5-8 index, 9-12 middle, 13-16 ring, 17-20 little, each from the palm to the tip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipelines.drawn.camera import Array, Viewpoints, sample_camera, sample_rotation

KNUCKLES = np.array([[-0.026, 0.088, 0.000], [-0.003, 0.092, 0.002], [0.017, 0.086, 0.001], [0.034, 0.076, -0.004]])
"""Average MCP joints of index, middle, ring, little in the hand frame, metres."""
THUMB_BASE = np.array([-0.024, 0.021, -0.010])
PHALANGES = np.array(
    [[0.046, 0.033, 0.027], [0.041, 0.025, 0.023], [0.045, 0.028, 0.024], [0.042, 0.027, 0.024], [0.033, 0.020, 0.021]]
)
"""Average bones from joint 1 outwards of thumb, index, middle, ring, little, metres."""
THICKNESS = np.array(
    [
        [0.0150, 0.0115, 0.0098, 0.0080],
        [0.0105, 0.0092, 0.0080, 0.0068],
        [0.0106, 0.0094, 0.0082, 0.0070],
        [0.0102, 0.0090, 0.0078, 0.0067],
        [0.0092, 0.0079, 0.0068, 0.0058],
    ]
)
"""Average radii of the flesh at the four joints of thumb, index, middle, ring, little, metres."""

FLEXION = np.radians([[-20, 90], [0, 110], [0, 80]])
"""Limits of MCP, PIP and DIP flexion, radians."""
ABDUCTION = np.radians(15)
FAN = np.radians([6, 0, -5, -11])
"""Abduction of the four fingers of a hand at ease, radians; positive is towards the thumb."""
THUMB = np.array([np.radians([-12, 62]), np.radians([0, 58]), [0, 1], np.radians([-5, 60]), np.radians([-15, 80])])
"""Limits of the thumb: radial and palmar angle of its metacarpal, opposition in [0, 1], MCP and IP flexion (radians)."""
PULP_AT_REST = np.array([0.75, 0.1, -0.65])
PULP_OPPOSED = np.array([0.85, 0.35, 0.35])

OUT, BENT, FIST, HOOK, TABLE = (0, 5), (35, 40), (82, 98), (5, 95), (75, 8)
POSES: dict[str, tuple[tuple[tuple[float, float], ...], float, tuple[float, float, float, float, float], int]] = {
    # name: (MCP, PIP) of four fingers in degrees, spread, thumb (degrees, opposition in [0, 1]), finger it pinches or -1
    "flat": ((OUT, OUT, OUT, OUT), -0.3, (28, 5, 0.0, 5, 5), -1),
    "spread": (((-8, 2), (-8, 2), (-8, 2), (-8, 2)), 1.4, (58, 5, 0.0, -2, -5), -1),
    "ease": (((15, 22), (20, 28), (24, 32), (26, 32)), 0.3, (35, 25, 0.3, 12, 18), -1),
    "fist": ((FIST, FIST, FIST, FIST), -0.2, (15, 48, 0.8, 38, 55), -1),
    "point": ((OUT, FIST, FIST, FIST), 0.0, (18, 46, 0.7, 35, 50), -1),
    "victory": ((OUT, OUT, FIST, FIST), 1.2, (8, 50, 0.9, 42, 45), -1),
    "three": ((OUT, OUT, OUT, FIST), 0.9, (5, 52, 0.9, 45, 45), -1),
    "four": ((OUT, OUT, OUT, OUT), 1.0, (0, 50, 0.9, 48, 50), -1),
    "thumb up": ((FIST, FIST, FIST, FIST), -0.2, (50, 0, 0.0, 0, -8), -1),
    "gun": ((OUT, FIST, FIST, FIST), 0.0, (58, 5, 0.0, 0, 0), -1),
    "telephone": ((FIST, FIST, FIST, OUT), 0.8, (60, 5, 0.0, 0, -5), -1),
    "horns": ((OUT, FIST, FIST, OUT), 0.6, (10, 50, 0.9, 40, 45), -1),
    "ring": (((48, 52), (12, 15), (8, 10), (5, 8)), 0.7, (22, 48, 0.9, 15, 28), 1),
    "pinch": (((52, 48), (58, 55), (62, 60), (65, 62)), 0.0, (20, 50, 0.9, 15, 25), 1),
    "tripod": (((55, 42), (56, 46), (68, 72), (72, 78)), 0.0, (18, 52, 0.9, 18, 22), 2),
    "long pinch": (((10, 12), (58, 50), (15, 20), (10, 15)), 0.5, (15, 52, 1.0, 18, 25), 2),
    "cylinder": (((42, 45), (46, 48), (50, 50), (54, 50)), 0.0, (28, 52, 0.8, 15, 22), -1),
    "ball": (((28, 36), (26, 38), (28, 38), (30, 36)), 1.3, (42, 50, 0.7, 8, 20), -1),
    "hook": ((HOOK, HOOK, HOOK, HOOK), 0.0, (25, 15, 0.2, 10, 15), -1),
    "table": ((TABLE, TABLE, TABLE, TABLE), -0.2, (20, 40, 0.6, 10, 10), -1),
    "key": ((BENT, (60, 70), (68, 80), (70, 85)), -0.2, (18, 22, 0.2, 15, 30), -1),
    "little out": ((BENT, BENT, BENT, OUT), 0.8, (25, 45, 0.8, 15, 25), -1),
    "claw": (((-12, 70), (-12, 72), (-10, 70), (-8, 65)), 1.1, (45, 30, 0.3, 10, 45), -1),
}


@dataclass(frozen=True)
class Person:
    """The measures of one right hand, metres: `knuckles` (4, 3), `base` (3,), `bones` (5, 3), `radii` (5, 4), `palm` scale."""

    knuckles: Array
    base: Array
    bones: Array
    radii: Array
    size: float
    stout: float


@dataclass(frozen=True)
class Angles:
    """B poses, radians: `flexion` (B, 4, 3), `abduction` (B, 4), `thumb` (B, 5) in the order of `THUMB`, `cup` (B,)."""

    flexion: Array
    abduction: Array
    thumb: Array
    cup: Array


@dataclass(frozen=True)
class Hand:
    """One posed hand before its camera.

    `joints` (21, 3) and `dorsal` (5, 3, 3) (per finger and bone the direction of its back) are in the hand frame, as is
    `forearm` (3,), the direction from the wrist to the elbow; `x_camera = rotation @ x_hand + translation`;
    `K` (3, 3) projects the camera frame to pixels, (0, 0) being the outer corner of the first one.
    """

    person: Person
    joints: Array
    dorsal: Array
    forearm: Array
    rotation: Array
    translation: Array
    K: Array

    def to_camera(self, points: Array) -> Array:
        """Points (..., 3) of the hand frame in the camera frame, metres."""
        return points @ self.rotation.T + self.translation

    @property
    def xyz(self) -> Array:
        """The 21 joints (21, 3) in the camera frame, metres."""
        return self.to_camera(self.joints)


def sample_hand(rng: Generator, viewpoints: Viewpoints = "facing") -> Hand:
    """A random person in a random pose seen by a random camera, see `sample_rotation`."""
    person = sample_person(rng)
    angles = sample_angles(rng, person)
    joints, dorsal = (a[0] for a in place_joints(person, angles))
    while True:
        bend, tilt = np.clip(rng.normal(0, [0.45, 0.18]), [-1.1, -0.4], [1.1, 0.4])
        forearm = np.array([np.sin(tilt), -np.cos(tilt) * np.cos(bend), -np.cos(tilt) * np.sin(bend)])
        rotation = sample_rotation(rng, viewpoints)
        if (rotation @ forearm)[2] > -0.75:  # an arm straight into the lens would hide the hand
            break
    translation, K = sample_camera(rng, joints @ rotation.T)
    return Hand(person, joints, dorsal, forearm, rotation, translation, K)


def sample_person(rng: Generator) -> Person:
    """Hand size, proportions of palm and fingers, and how stout the flesh is."""
    size = float(np.clip(rng.normal(1, 0.08), 0.80, 1.18))
    stout = float(np.clip(rng.normal(1, 0.08), 0.84, 1.2))
    width, length = np.clip(rng.normal(1, 0.05, 2), 0.88, 1.12)
    fingers = np.clip(rng.normal(1, 0.05) * rng.normal(1, 0.025, 5), 0.86, 1.14)[:, None]
    phalanges = np.clip(rng.normal(1, 0.03, (5, 3)), 0.92, 1.08)
    palm = np.array([width, length, 1.0])
    return Person(
        knuckles=KNUCKLES * palm * size,
        base=THUMB_BASE * palm * size,
        bones=PHALANGES * fingers * phalanges * size,
        radii=THICKNESS * stout * size,
        size=size,
        stout=stout,
    )


def sample_angles(rng: Generator, person: Person) -> Angles:
    """One pose (B = 1) near a known gesture, between two, or free; the best of several tries at not running through itself."""
    names = list(POSES)
    first, second = rng.choice(len(names), 2, replace=False)
    kind = rng.random()
    mix = 0.0 if kind < 0.5 else float(rng.beta(0.8, 0.8)) if kind < 0.75 else 0.5
    free = kind >= 0.75
    pinched = POSES[names[first]][3] if mix == 0 else -1
    centre = blend_poses(names[first], names[second], mix)
    if free:
        centre = free_pose(rng, centre)
    best = centre
    for spread, tries in ((1.0, 10),) if pinched < 0 else ((1.0, 40), (0.3, 40)):
        tried = perturb(rng, best, spread, tries)
        joints, _ = place_joints(person, tried)
        cost = penetration(joints, person)
        if pinched >= 0:
            gap = np.linalg.norm(joints[:, 4] - joints[:, 4 + 4 * pinched], axis=-1)
            cost = cost + 4 * np.abs(gap - 1.1 * person.radii[0, 3])
        best = pick(tried, int(np.argmin(cost)))
    return best


def blend_poses(first: str, second: str, mix: float) -> Angles:
    """The named poses mixed, as one pose (B = 1)."""

    def angles(name: str) -> tuple[Array, Array, Array]:
        bends, spread, thumb, _ = POSES[name]
        bend = np.radians(np.array(bends, float))
        flexion = np.concatenate([bend, bend[:, 1:] * 2 / 3], axis=1)
        opposed = np.array([*np.radians(thumb[:2]), thumb[2], *np.radians(thumb[3:])])
        return flexion, FAN * spread, opposed

    flexion, abduction, thumb = ((1 - mix) * a + mix * b for a, b in zip(angles(first), angles(second), strict=True))
    return Angles(flexion[None], abduction[None], thumb[None], np.zeros(1))


def free_pose(rng: Generator, near: Angles) -> Angles:
    """Fingers curled by amounts that follow their neighbours; the thumb as in `near` (B = 1)."""
    curl = np.empty(4)
    curl[0] = rng.beta(0.7, 0.8)
    for i in range(1, 4):
        keep = rng.uniform(0.3, 0.95)
        curl[i] = keep * curl[i - 1] + (1 - keep) * rng.beta(0.7, 0.8)
    share = rng.uniform(0.2, 0.8)  # how much of a curl the knuckle takes before the finger does
    knuckle = np.clip(curl * (0.5 + share), 0, 1) * np.radians(100) - np.radians(15)
    middle = np.clip(curl * (1.5 - share), 0, 1) * np.radians(105)
    flexion = np.stack([knuckle, middle, middle * 2 / 3], axis=-1)
    return Angles(flexion[None], (FAN * rng.uniform(-0.4, 1.4))[None], near.thumb, near.cup)


def perturb(rng: Generator, pose: Angles, spread: float, tries: int) -> Angles:
    """`tries` poses around one (B = 1), with noise shared among the fingers and some of their own, within the limits."""
    shared = rng.normal(0, np.radians(7), (tries, 1, 2))
    own = rng.normal(0, np.radians(5), (tries, 4, 2))
    bend = pose.flexion[..., :2] + spread * (shared + own)
    bend = np.clip(bend, FLEXION[:2, 0], FLEXION[:2, 1])
    coupled = bend[..., 1] * (2 / 3) * (1 + 0.12 * spread * rng.standard_normal((tries, 4)))
    tip = np.clip(coupled, *FLEXION[2])
    fan = pose.abduction + spread * (FAN * rng.normal(0, 0.3, (tries, 1)) + rng.normal(0, np.radians(2), (tries, 4)))
    thumb = pose.thumb + spread * rng.normal(0, [0.12, 0.10, 0.1, 0.12, 0.14], (tries, 5))
    return Angles(
        flexion=np.concatenate([bend, tip[..., None]], axis=-1),
        abduction=np.clip(fan, -ABDUCTION, ABDUCTION),
        thumb=np.clip(thumb, THUMB[:, 0], THUMB[:, 1]),
        cup=np.clip(np.radians(4) + 0.12 * bend[..., 0].mean(axis=-1), 0, np.radians(14)),
    )


def pick(angles: Angles, index: int) -> Angles:
    """Pose `index` alone, as B = 1."""
    only = slice(index, index + 1)
    return Angles(angles.flexion[only], angles.abduction[only], angles.thumb[only], angles.cup[only])


def place_joints(person: Person, angles: Angles) -> tuple[Array, Array]:
    """Forward kinematics: joints (B, 21, 3) in metres and backs of the bones (B, 5, 3, 3), both in the hand frame."""
    batch = len(angles.cup)
    joints = np.zeros((batch, 5, 4, 3))
    dorsal = np.empty((batch, 5, 3, 3))

    radial, palmar, opposition, *flexions = np.moveaxis(angles.thumb, -1, 0)
    along = np.stack([-np.sin(radial) * np.cos(palmar), np.cos(radial) * np.cos(palmar), -np.sin(palmar)], axis=-1)
    pulp = PULP_AT_REST + opposition[:, None] * (PULP_OPPOSED - PULP_AT_REST)
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
    turn = cup
    cos_fan, sin_fan = np.cos(angles.abduction), np.sin(angles.abduction)
    for bone in range(3):
        turn = turn + angles.flexion[..., bone]
        cos, sin = np.cos(turn), np.sin(turn)
        along = np.stack([-sin_fan * cos, cos_fan * cos, -sin], axis=-1)
        joints[:, 1:, bone + 1] = joints[:, 1:, bone] + person.bones[1:, bone, None] * along
        dorsal[:, 1:, bone] = np.stack([-sin_fan * sin, cos_fan * sin, cos], axis=-1)

    return np.concatenate([np.zeros((batch, 1, 3)), joints.reshape(batch, 20, 3)], axis=1), dorsal


def penetration(joints: Array, person: Person) -> Array:
    """How far fingers run through each other and through the palm, summed (B,), metres; joints (B, 21, 3)."""
    fingers = joints[:, 1:].reshape(-1, 5, 4, 3)
    middles = (fingers[:, :, 1:] + fingers[:, :, :-1]) / 2
    points = np.concatenate([middles, fingers[:, :, 1:]], axis=2)  # (B, 5, 6, 3)
    radii = np.concatenate([(person.radii[:, 1:] + person.radii[:, :-1]) / 2, person.radii[:, 1:]], axis=1)
    one, other = np.triu_indices(5, 1)
    apart = np.linalg.norm(points[:, one, :, None] - points[:, other, None], axis=-1)
    overlap = np.maximum(0.9 * (radii[one, :, None] + radii[other, None]) - apart, 0).sum((1, 2, 3))
    outer, thick = points[:, :, [1, 2, 4, 5]].reshape(-1, 20, 1, 3), radii[:, [1, 2, 4, 5]].reshape(20, 1)
    palm = (np.array([0.35, 0.6, 0.85])[:, None] * fingers[:, 1:, None, 0]).reshape(-1, 1, 12, 3)
    apart = np.linalg.norm(outer - palm, axis=-1)
    return overlap + np.maximum(0.012 * person.size + thick - apart, 0).sum((1, 2))
