"""People as skeletons: measures of a body, and where a pose puts its joints.

What may enter: proportions and forward kinematics. Nothing here knows about flesh, colours, cameras or files.

Body frame (metres, right-handed): origin between the hips, x to the person's own left, y up, z forwards. The frame of a
bone is that of the body when it stands straight, so that arms and legs run along -y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pipelines.drawn.camera import Array
from pipelines.drawn.poses import LEFT_ARM, LEFT_LEG, RIGHT_ARM, RIGHT_LEG, Poses, sample_poses

R_ANKLE, R_KNEE, R_HIP, L_HIP, L_KNEE, L_ANKLE, PELVIS, THORAX = range(8)
NECK, HEAD_TOP, R_WRIST, R_ELBOW, R_SHOULDER, L_SHOULDER, L_ELBOW, L_WRIST = range(8, 16)
"""Joints in MPII's order."""
LIMBS = tuple(f"{side} {bone}" for side in ("left", "right") for bone in ("arm", "forearm", "hand", "thigh", "shin", "foot"))
BONES = ("pelvis", "waist", "chest", "neck", "head", *LIMBS)
FRAME = {name: number for number, name in enumerate(BONES)}
ADULT, CHILD = 1.45, 1.0
"""Statures between which proportions change from a small child's to an adult's, metres."""
TRIES = 10
MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Physique:
    """The measures of one body: `stature`, bones in metres, and how wide, stout and old (0 child, 1 adult) it is."""

    stature: float
    head: float
    neck: float
    spine: Array
    shoulders: float
    hips: float
    arm: float
    forearm: float
    thigh: float
    shin: float
    stout: float
    broad: float
    bosom: float
    age: float


@dataclass(frozen=True)
class Figures:
    """B posed bodies: `joints` (B, 16, 3) metres, `origins` (B, F, 3) and `frames` (B, F, 3, 3) of `BONES`."""

    joints: Array
    origins: Array
    frames: Array


@dataclass(frozen=True)
class Figure:
    """One posed body, at first in its own frame: `joints` (16, 3), `origins` (F, 3), `frames` (F, 3, 3) of `BONES`.

    The columns of a frame are a bone's x, y and z; `flies` tells that nothing touches the floor.
    """

    physique: Physique
    joints: Array
    origins: Array
    frames: Array
    flies: bool

    def moved(self, turn: Array, shift: Array) -> Figure:
        """The figure in another frame, in which a point p is `turn @ p + shift`."""
        joints, origins = self.joints @ turn.T + shift, self.origins @ turn.T + shift
        return Figure(self.physique, joints, origins, turn @ self.frames, self.flies)


def sample_physique(rng: Generator) -> Physique:
    """Somebody: mostly adults, some children, slim to stout."""
    small = rng.random() < 0.15
    stature = float(rng.uniform(1.02, 1.5) if small else np.clip(rng.normal(1.71, 0.1), 1.48, 2.02))
    age = float(np.clip((stature - CHILD) / (ADULT - CHILD), 0, 1))
    woman = rng.random() < 0.5
    vary = np.clip(rng.normal(1, 0.035, 9), 0.91, 1.09)
    head = 0.15 * (1.42 - 0.42 * age) * vary[0]
    limb = 0.94 + 0.06 * age
    thigh, shin = 0.245 * limb * vary[1], 0.240 * limb * vary[2]
    spine = 0.284 * vary[3]
    neck = 0.047 * vary[4]
    lengths = np.array([head, neck, spine, thigh, shin])
    lengths *= (1 - 0.045) / lengths.sum()  # soles to ankles are the rest of the stature
    head, neck, spine, thigh, shin = (lengths * stature).tolist()
    return Physique(
        stature=stature,
        head=head,
        neck=neck,
        spine=spine * np.array([0.22, 0.36, 0.42]),
        shoulders=stature * (0.099 if woman else 0.107) * vary[5],
        hips=stature * (0.052 if woman else 0.048) * vary[6],
        arm=stature * 0.170 * limb * vary[7],
        forearm=stature * 0.147 * limb * vary[8],
        thigh=thigh,
        shin=shin,
        stout=float(np.clip(rng.normal(1.02, 0.13) + (rng.random() < 0.12) * rng.uniform(0.1, 0.35), 0.8, 1.5)),
        broad=float(0.92 if woman else 1.03),
        bosom=float(rng.uniform(0.6, 1.2)) if woman and age > 0.8 else 0.0,
        age=age,
    )


def sample_figure(rng: Generator) -> Figure:
    """Somebody doing something: of several variants of a pose the one that runs least through itself."""
    physique = sample_physique(rng)
    poses = sample_poses(rng, TRIES)
    best = int(np.argmin(overlap(place(physique, poses), physique)))
    found = place(physique, poses.only(best))
    return Figure(physique, found.joints[0], found.origins[0], found.frames[0], poses.flies)


def about(axis: int, degrees: Array) -> Array:
    """Rotations (B, 3, 3) about x, y or z by angles (B,)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    one, other = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((len(degrees), 3, 3))
    turn[:, axis, axis] = 1
    turn[:, one, one], turn[:, other, other] = cos, cos
    turn[:, one, other], turn[:, other, one] = -sin, sin
    return turn


def bent(forwards: Array, left: Array, twist: Array) -> Array:
    """Rotations (B, 3, 3) of a part of the trunk on the one below."""
    return about(1, twist) @ about(2, -left) @ about(0, forwards)


def place(physique: Physique, poses: Poses) -> Figures:
    """Forward kinematics of B poses."""
    angles = poses.angles
    batch = len(angles)
    origins, frames = np.zeros((batch, len(BONES), 3)), np.zeros((batch, len(BONES), 3, 3))
    joints = np.zeros((batch, 16, 3))

    def put(name: str, origin: Array, frame: Array) -> None:
        origins[:, FRAME[name]], frames[:, FRAME[name]] = origin, frame

    bend, lean, twist, nod, tilt, turn = angles[:, :6].T
    pelvis = about(2, -poses.roll) @ about(0, poses.pitch)
    half = bent(bend / 2, lean / 2, twist / 2)
    waist = pelvis @ half
    chest = waist @ half
    neck = chest @ bent(nod / 2, tilt / 2, turn / 2)
    head = chest @ bent(nod, tilt, turn)
    low, middle, high = physique.spine
    root = np.zeros((batch, 3))
    at_waist = low * pelvis[:, :, 1]
    at_chest = at_waist + middle * waist[:, :, 1]
    thorax = at_chest + high * chest[:, :, 1]
    skull = thorax + physique.neck * (neck[:, :, 1] + 0.25 * neck[:, :, 2])
    for name, origin, frame in zip(
        BONES, (root, at_waist, at_chest, thorax, skull), (pelvis, waist, chest, neck, head), strict=False
    ):
        put(name, origin, frame)
    joints[:, PELVIS], joints[:, THORAX], joints[:, NECK] = root, thorax, skull
    joints[:, HEAD_TOP] = skull + physique.head * head[:, :, 1]

    for side, arm, leg, numbers in (
        ("left", LEFT_ARM, LEFT_LEG, (L_SHOULDER, L_ELBOW, L_WRIST, L_HIP, L_KNEE, L_ANKLE)),
        ("right", RIGHT_ARM, RIGHT_LEG, (R_SHOULDER, R_ELBOW, R_WRIST, R_HIP, R_KNEE, R_ANKLE)),
    ):
        sign = 1.0 if side == "left" else -1.0
        plane, elevation, rotation, elbow = angles[:, arm].T
        upper = chest @ sided(about(1, -plane) @ about(2, elevation) @ about(1, plane + rotation), sign)
        fore = upper @ sided(about(0, -elbow), sign)
        shrug = 0.028 * np.sin(np.radians(elevation) / 2) ** 2 * physique.stature
        shoulder = thorax + sign * physique.shoulders * chest[:, :, 0] + shrug[:, None] * chest[:, :, 1]
        at_elbow = shoulder - physique.arm * upper[:, :, 1]
        wrist = at_elbow - physique.forearm * fore[:, :, 1]
        flexion, abduction, outward, bow, ankle = angles[:, leg].T
        thigh = pelvis @ sided(about(0, -flexion) @ about(2, abduction) @ about(1, outward), sign)
        shin = thigh @ about(0, bow)
        hip = root + sign * physique.hips * pelvis[:, :, 0]
        knee = hip - physique.thigh * thigh[:, :, 1]
        at_ankle = knee - physique.shin * shin[:, :, 1]
        joints[:, numbers] = np.stack([shoulder, at_elbow, wrist, hip, knee, at_ankle], axis=1)
        for name, origin, frame in (
            ("arm", shoulder, upper),
            ("forearm", at_elbow, fore),
            ("hand", wrist, fore),
            ("thigh", hip, thigh),
            ("shin", knee, shin),
            ("foot", at_ankle, shin @ about(0, ankle)),
        ):
            put(f"{side} {name}", origin, frame)
    return Figures(joints, origins, frames)


def sided(turn: Array, sign: float) -> Array:
    """A rotation (B, 3, 3) of the left limb as it is, of the right one mirrored."""
    return turn if sign > 0 else MIRROR @ turn @ MIRROR


CHAINS = (
    # a bone's joints, its radii as shares of the stature, what it belongs to, what it may touch
    (PELVIS, THORAX, 0.062, 0.058, "trunk"),
    (L_HIP, L_KNEE, 0.045, 0.034, "left leg"),
    (L_KNEE, L_ANKLE, 0.032, 0.022, "left shin"),
    (R_HIP, R_KNEE, 0.045, 0.034, "right leg"),
    (R_KNEE, R_ANKLE, 0.032, 0.022, "right shin"),
    (NECK, HEAD_TOP, 0.050, 0.050, "head"),
    (L_SHOULDER, L_ELBOW, 0.028, 0.026, "left arm"),
    (L_ELBOW, L_WRIST, 0.026, 0.026, "left forearm"),
    (R_SHOULDER, R_ELBOW, 0.028, 0.026, "right arm"),
    (R_ELBOW, R_WRIST, 0.026, 0.026, "right forearm"),
)
FRIENDS = {
    ("left leg", "left shin"), ("right leg", "right shin"), ("trunk", "left leg"), ("trunk", "right leg"), ("trunk", "head"),
    ("left arm", "left forearm"), ("right arm", "right forearm"), ("trunk", "left arm"), ("trunk", "right arm"),
}  # fmt: skip
STEPS = np.array([0.25, 0.6, 1.0])


def overlap(figures: Figures, physique: Physique) -> Array:
    """How far limbs run through each other and through the trunk, summed (B,), metres."""
    one, other, first, last, names = zip(*CHAINS, strict=True)
    start, end = figures.joints[:, one][:, :, None], figures.joints[:, other][:, :, None]
    balls = start + STEPS[:, None] * (end - start)  # (B, C, S, 3)
    radii = np.array(first)[:, None] + STEPS * (np.array(last) - np.array(first))[:, None]
    radii = radii * physique.stature * np.sqrt(physique.stout)
    far = np.array([[a != b and (a, b) not in FRIENDS and (b, a) not in FRIENDS for a in names] for b in names])
    pairs = np.array([(i, j) for i in range(len(names)) for j in range(i) if far[i, j]])
    gap = balls[:, pairs[:, 0], :, None] - balls[:, pairs[:, 1], None]
    room = radii[pairs[:, 0], :, None] + radii[pairs[:, 1], None]
    through = np.maximum(room - np.sqrt((gap * gap).sum(-1)), 0).sum((1, 2, 3))
    elbows = figures.joints[:, [L_ELBOW, R_ELBOW]] - figures.joints[:, [PELVIS]] * 0.5 - figures.joints[:, [THORAX]] * 0.5
    return through + np.maximum(0.085 * physique.stature - np.sqrt((elbows * elbows).sum(-1)), 0).sum(1)
