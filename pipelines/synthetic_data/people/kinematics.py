"""Skeletons of people: body dimensions and forward kinematics.

Body frame (meters, right-handed): origin between the hips, x to the person's left, y up, z forward. When the body stands
straight, the frames of all bones equal that of the body, so arms and legs run along -y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from hgfast.pipelines.synthetic_data.people.poses import LEFT_ARM, LEFT_LEG, RIGHT_ARM, RIGHT_LEG, Poses, sample_poses
from hgfast.pipelines.synthetic_data.render.camera import FloatArray

R_ANKLE, R_KNEE, R_HIP, L_HIP, L_KNEE, L_ANKLE, PELVIS, THORAX = range(8)
NECK, HEAD_TOP, R_WRIST, R_ELBOW, R_SHOULDER, L_SHOULDER, L_ELBOW, L_WRIST = range(8, 16)
"""Joint indices in MPII's order."""
LIMB_BONES = tuple(f"{side} {bone}" for side in ("left", "right") for bone in ("arm", "forearm", "hand", "thigh", "shin", "foot"))
BONES = ("pelvis", "waist", "chest", "neck", "head", *LIMB_BONES)
BONE_INDEX = {name: number for number, name in enumerate(BONES)}
ADULT_HEIGHT, CHILD_HEIGHT = 1.45, 1.0
"""Statures between which proportions change from a small child's to an adult's, meters."""
NUM_CANDIDATES = 10
MIRROR_X = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class BodyShape:
    """Dimensions of one body, in meters: `stature` and `head`, `neck`, `spine` (3,), `arm`, `forearm`, `thigh`, `shin`;
    `shoulders` and `hips` are half widths.

    Factors: `stout` and `broad` on the trunk's radii and width, `bosom` on the size of breasts (0 for none). `age`: 0 for a
    child, 1 for an adult.
    """

    stature: float
    head: float
    neck: float
    spine: FloatArray
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
class PosedBodies:
    """B posed bodies: `joints` (B, 16, 3) in meters, `origins` (B, F, 3) and `frames` (B, F, 3, 3) of `BONES`."""

    joints: FloatArray
    origins: FloatArray
    frames: FloatArray


@dataclass(frozen=True)
class PosedBody:
    """One posed body, initially in its own frame: `joints` (16, 3), `origins` (F, 3), `frames` (F, 3, 3) of `BONES`.

    The columns of a frame are a bone's x, y and z; `airborne`: nothing touches the floor.
    """

    shape: BodyShape
    joints: FloatArray
    origins: FloatArray
    frames: FloatArray
    airborne: bool

    def transformed(self, rotation: FloatArray, translation: FloatArray) -> PosedBody:
        """Return the body in another frame, in which a point p is `rotation @ p + translation`."""
        joints, origins = self.joints @ rotation.T + translation, self.origins @ rotation.T + translation
        return PosedBody(self.shape, joints, origins, rotation @ self.frames, self.airborne)


def sample_shape(rng: Generator) -> BodyShape:
    """Sample the shape of a person: mostly adults, some children, slim to stout."""
    small = rng.random() < 0.15
    stature = float(rng.uniform(1.02, 1.5) if small else np.clip(rng.normal(1.71, 0.1), 1.48, 2.02))
    age = float(np.clip((stature - CHILD_HEIGHT) / (ADULT_HEIGHT - CHILD_HEIGHT), 0, 1))
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
    return BodyShape(
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


def sample_body(rng: Generator) -> PosedBody:
    """Sample a posed body: of several variants of a pose, the one with the least self-intersection."""
    physique = sample_shape(rng)
    poses = sample_poses(rng, NUM_CANDIDATES)
    best = int(np.argmin(self_intersection(forward_kinematics(physique, poses), physique)))
    bodies = forward_kinematics(physique, poses.select(best))
    return PosedBody(physique, bodies.joints[0], bodies.origins[0], bodies.frames[0], poses.airborne)


def axis_rotation(axis: int, degrees: FloatArray) -> FloatArray:
    """Return rotations (B, 3, 3) about x, y or z by angles (B,) in degrees."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.zeros((len(degrees), 3, 3))
    rotation[:, axis, axis] = 1
    rotation[:, i, i], rotation[:, j, j] = cos, cos
    rotation[:, i, j], rotation[:, j, i] = -sin, sin
    return rotation


def spine_rotation(forward: FloatArray, left: FloatArray, twist: FloatArray) -> FloatArray:
    """Return rotations (B, 3, 3) of a part of the trunk relative to the part below."""
    return axis_rotation(1, twist) @ axis_rotation(2, -left) @ axis_rotation(0, forward)


def forward_kinematics(physique: BodyShape, poses: Poses) -> PosedBodies:
    """Compute joints and bone frames of B poses."""
    angles = poses.angles
    batch = len(angles)
    origins, frames = np.zeros((batch, len(BONES), 3)), np.zeros((batch, len(BONES), 3, 3))
    joints = np.zeros((batch, 16, 3))

    def set_frame(name: str, origin: FloatArray, frame: FloatArray) -> None:
        origins[:, BONE_INDEX[name]], frames[:, BONE_INDEX[name]] = origin, frame

    bend, lean, twist, nod, tilt, turn = angles[:, :6].T
    pelvis = axis_rotation(2, -poses.roll) @ axis_rotation(0, poses.pitch)
    half = spine_rotation(bend / 2, lean / 2, twist / 2)
    waist = pelvis @ half
    chest = waist @ half
    neck = chest @ spine_rotation(nod / 2, tilt / 2, turn / 2)
    head = chest @ spine_rotation(nod, tilt, turn)
    low, middle, high = physique.spine
    root = np.zeros((batch, 3))
    at_waist = low * pelvis[:, :, 1]
    at_chest = at_waist + middle * waist[:, :, 1]
    thorax = at_chest + high * chest[:, :, 1]
    skull = thorax + physique.neck * (neck[:, :, 1] + 0.25 * neck[:, :, 2])
    for name, origin, frame in zip(
        BONES, (root, at_waist, at_chest, thorax, skull), (pelvis, waist, chest, neck, head), strict=False
    ):
        set_frame(name, origin, frame)
    joints[:, PELVIS], joints[:, THORAX], joints[:, NECK] = root, thorax, skull
    joints[:, HEAD_TOP] = skull + physique.head * head[:, :, 1]

    for side, arm, leg, numbers in (
        ("left", LEFT_ARM, LEFT_LEG, (L_SHOULDER, L_ELBOW, L_WRIST, L_HIP, L_KNEE, L_ANKLE)),
        ("right", RIGHT_ARM, RIGHT_LEG, (R_SHOULDER, R_ELBOW, R_WRIST, R_HIP, R_KNEE, R_ANKLE)),
    ):
        sign = 1.0 if side == "left" else -1.0
        plane, elevation, rotation, elbow = angles[:, arm].T
        upper = chest @ mirror_right(
            axis_rotation(1, -plane) @ axis_rotation(2, elevation) @ axis_rotation(1, plane + rotation), sign
        )
        fore = upper @ mirror_right(axis_rotation(0, -elbow), sign)
        shrug = 0.028 * np.sin(np.radians(elevation) / 2) ** 2 * physique.stature
        shoulder = thorax + sign * physique.shoulders * chest[:, :, 0] + shrug[:, None] * chest[:, :, 1]
        at_elbow = shoulder - physique.arm * upper[:, :, 1]
        wrist = at_elbow - physique.forearm * fore[:, :, 1]
        flexion, abduction, outward, bow, ankle = angles[:, leg].T
        thigh = pelvis @ mirror_right(axis_rotation(0, -flexion) @ axis_rotation(2, abduction) @ axis_rotation(1, outward), sign)
        shin = thigh @ axis_rotation(0, bow)
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
            ("foot", at_ankle, shin @ axis_rotation(0, ankle)),
        ):
            set_frame(f"{side} {name}", origin, frame)
    return PosedBodies(joints, origins, frames)


def mirror_right(rotation: FloatArray, sign: float) -> FloatArray:
    """Return a rotation (B, 3, 3) unchanged for a left limb (`sign` > 0), mirrored for a right one."""
    return rotation if sign > 0 else MIRROR_X @ rotation @ MIRROR_X


COLLISION_BONES = (
    # joints of a bone, its radii at them as fractions of the stature, its name
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
ALLOWED_CONTACTS = {
    ("left leg", "left shin"), ("right leg", "right shin"), ("trunk", "left leg"), ("trunk", "right leg"), ("trunk", "head"),
    ("left arm", "left forearm"), ("right arm", "right forearm"), ("trunk", "left arm"), ("trunk", "right arm"),
}  # fmt: skip
SAMPLE_FRACTIONS = np.array([0.25, 0.6, 1.0])


def self_intersection(figures: PosedBodies, physique: BodyShape) -> FloatArray:
    """Return the depth to which limbs penetrate each other and the trunk, summed (B,), meters."""
    first, second, first_radius, second_radius, names = zip(*COLLISION_BONES, strict=True)
    start, end = figures.joints[:, first][:, :, None], figures.joints[:, second][:, :, None]
    spheres = start + SAMPLE_FRACTIONS[:, None] * (end - start)  # (B, C, S, 3)
    radii = np.array(first_radius)[:, None] + SAMPLE_FRACTIONS * (np.array(second_radius) - np.array(first_radius))[:, None]
    radii = radii * physique.stature * np.sqrt(physique.stout)
    far = np.array([[a != b and (a, b) not in ALLOWED_CONTACTS and (b, a) not in ALLOWED_CONTACTS for a in names] for b in names])
    pairs = np.array([(i, j) for i in range(len(names)) for j in range(i) if far[i, j]])
    gap = spheres[:, pairs[:, 0], :, None] - spheres[:, pairs[:, 1], None]
    room = radii[pairs[:, 0], :, None] + radii[pairs[:, 1], None]
    penetration = np.maximum(room - np.sqrt((gap * gap).sum(-1)), 0).sum((1, 2, 3))
    elbows = figures.joints[:, [L_ELBOW, R_ELBOW]] - figures.joints[:, [PELVIS]] * 0.5 - figures.joints[:, [THORAX]] * 0.5
    return penetration + np.maximum(0.085 * physique.stature - np.sqrt((elbows * elbows).sum(-1)), 0).sum(1)
