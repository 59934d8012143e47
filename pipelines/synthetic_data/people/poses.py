"""Poses of people: joint angles in named activities, mixed and varied within the joints' limits.

Angles are in degrees, in the order of `ANGLE_NAMES`. Zero is standing straight, arms hanging, palms to the thighs. An arm is
raised by `elevation` in the plane `plane` (0 to the side, 90 forward, 130 across the chest) and rotated about itself by
`rotation` (positive outward, as for a leg); `lean`, `twist`, `tilt`, `turn` and `roll` are positive to the person's left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from hgfast.pipelines.synthetic_data.render.camera import FloatArray

TRUNK_ANGLES = ("bend", "lean", "twist", "nod", "tilt", "turn")
ARM_ANGLES = ("plane", "elevation", "rotation", "elbow")
LEG_ANGLES = ("flexion", "abduction", "rotation", "knee", "ankle")
ANGLE_NAMES = (*TRUNK_ANGLES, *2 * ARM_ANGLES, *2 * LEG_ANGLES)
"""Names of the angles: trunk, left arm, right arm, left leg, right leg."""
LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG = slice(6, 10), slice(10, 14), slice(14, 19), slice(19, 24)
MIRRORED_ANGLES = (1, 2, 4, 5)
"""Trunk angles whose sign a mirror changes."""

TRUNK_LIMITS = [(-25, 80), (-28, 28), (-42, 42), (-40, 45), (-28, 28), (-65, 65)]
ARM_LIMITS = [(-90, 130), (0, 172), (-80, 85), (0, 145)]
LEG_LIMITS = [(-28, 122), (-18, 52), (-35, 50), (0, 150), (-25, 48)]
LIMITS: FloatArray = np.array(TRUNK_LIMITS + 2 * ARM_LIMITS + 2 * LEG_LIMITS, float)
"""Minimum and maximum of each angle (24, 2)."""
MAX_BACKWARD_ELEVATION = 62.0
"""Maximum elevation of an arm in a plane behind the body."""
ANGLE_STD: FloatArray = np.array([7, 5, 9, 9, 6, 18] + 2 * [14, 11, 16, 15] + 2 * [8, 5, 8, 10, 8], float)
"""Standard deviation of each angle within an activity."""

ArmAngles = tuple[float, float, float, float]
LegAngles = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Activity:
    """One activity: its probability weight, its angles, pitch (forward) and roll of the whole body, and whether it is airborne.

    `right_arm` and `right_leg` default to the left ones.
    """

    weight: float
    left_arm: ArmAngles
    left_leg: LegAngles
    right_arm: ArmAngles | None = None
    right_leg: LegAngles | None = None
    trunk: tuple[float, float, float] = (2, 0, 0)
    nod: float = 4
    pitch: float = 0
    roll: float = 0
    airborne: bool = False

    def angles(self) -> FloatArray:
        """Return all angles (24,)."""
        arms = [*self.left_arm, *(self.right_arm or self.left_arm)]
        return np.array([*self.trunk, self.nod, 0, 0, *arms, *self.left_leg, *(self.right_leg or self.left_leg)], float)


ARMS_DOWN: ArmAngles = (30, 9, -5, 14)
ARMS_UP: ArmAngles = (35, 158, 0, 14)
ARMS_FORWARD: ArmAngles = (90, 82, 0, 16)
LEGS_STRAIGHT: LegAngles = (2, 5, 8, 4, 0)
ACTIVITIES: dict[str, Activity] = {
    "stand": Activity(9, ARMS_DOWN, LEGS_STRAIGHT),
    "ease": Activity(5, ARMS_DOWN, (0, 9, 10, 2, 0), (60, 14, -30, 40), (16, 8, 14, 26, 4), trunk=(3, 5, 5)),
    "hips": Activity(4, (-15, 42, -62, 92), LEGS_STRAIGHT),
    "crossed": Activity(3, (68, 34, -62, 108), LEGS_STRAIGHT, (62, 28, -60, 100)),
    "telephone": Activity(3, ARMS_DOWN, LEGS_STRAIGHT, (55, 42, 10, 138)),
    "wave": Activity(4, ARMS_DOWN, LEGS_STRAIGHT, (12, 84, 78, 75)),
    "surrender": Activity(2, (5, 88, 80, 85), LEGS_STRAIGHT),
    "head": Activity(2, (10, 108, 70, 138), LEGS_STRAIGHT),
    "arms up": Activity(5, ARMS_UP, LEGS_STRAIGHT),
    "one up": Activity(4, ARMS_UP, LEGS_STRAIGHT, ARMS_DOWN),
    "cross": Activity(3, (0, 90, 0, 6), (2, 9, 8, 3, 0)),
    "reach": Activity(4, ARMS_FORWARD, LEGS_STRAIGHT, trunk=(8, 0, 0)),
    "point": Activity(3, (45, 85, 0, 6), LEGS_STRAIGHT, ARMS_DOWN),
    "hold": Activity(5, (72, 30, -18, 88), LEGS_STRAIGHT),
    "walk": Activity(9, (88, 24, -8, 24), (-14, 2, 6, 22, 14), (-80, 24, -8, 14), (24, 3, 6, 8, -6)),
    "run": Activity(7, (82, 34, -18, 92), (-16, 3, 4, 52, 28), (-72, 44, -10, 88), (58, 3, 2, 76, 4), (10, 0, 8), -4, 8),
    "sprint": Activity(
        3, (86, 62, -12, 92), (-24, 3, 4, 28, 36), (-78, 56, -8, 84), (88, 4, 2, 98, 6), (12, 0, 10), -8, 14, airborne=True
    ),
    "lunge": Activity(3, ARMS_DOWN, (76, 5, 4, 78, -4), None, (-16, 5, 4, 36, -12), pitch=4),
    "side lunge": Activity(2, (60, 40, 0, 50), (50, 38, 25, 78, -10), None, (12, 34, 10, 6, 0), (14, 0, 0), pitch=16),
    "kick": Activity(4, (10, 58, 0, 24), (6, 6, 8, 12, -4), (40, 50, 0, 20), (86, 10, 5, 18, 28), (-4, 0, 8), pitch=-10),
    "high kick": Activity(1, (10, 68, 0, 30), (6, 6, 10, 10, 0), (40, 50, 0, 40), (116, 26, 14, 12, 28), (-6, 0, 0), pitch=-14),
    "sit": Activity(9, (62, 26, -22, 58), (86, 9, 8, 86, 0), pitch=-3),
    "sit, arms up": Activity(2, ARMS_UP, (86, 9, 8, 86, 0)),
    "sit, legs crossed": Activity(3, (70, 34, -30, 70), (90, -8, -5, 80, 0), None, (84, 6, 4, 80, 0), pitch=-8),
    "sit at table": Activity(4, (72, 44, -25, 84), (84, 10, 8, 88, 0), trunk=(16, 0, 0), nod=14),
    "tailor": Activity(3, (60, 24, -20, 62), (98, 42, 46, 128, 15), trunk=(16, 0, 0), pitch=-6),
    "sit on ground": Activity(3, (-62, 38, 20, 8), (86, 10, 6, 24, 12), trunk=(10, 0, 0), pitch=-24),
    "knees drawn": Activity(2, (88, 58, -35, 50), (116, 8, 4, 112, 8), trunk=(34, 0, 0), nod=14, pitch=-16),
    "squat": Activity(4, (84, 58, -12, 28), (114, 22, 18, 128, -20), trunk=(28, 0, 0), nod=-10, pitch=22),
    "crouch": Activity(3, (74, 52, -25, 62), (98, 16, 10, 108, -16), trunk=(38, 0, 0), nod=0, pitch=26),
    "kneel": Activity(3, (66, 28, -22, 66), (6, 9, 4, 104, 40), trunk=(6, 0, 0)),
    "kneel on one": Activity(3, (70, 34, -20, 58), (90, 9, 8, 92, 0), None, (-4, 6, 4, 96, 32), (8, 0, 0)),
    "bow": Activity(3, (90, 62, 0, 12), (46, 6, 6, 8, -4), trunk=(34, 0, 0), pitch=42),
    "pick up": Activity(4, (88, 84, 0, 10), (74, 9, 8, 40, -12), trunk=(48, 0, 0), nod=-6, pitch=48),
    "ready": Activity(4, (76, 38, -20, 72), (58, 14, 12, 62, -18), trunk=(24, 0, 0), nod=-16, pitch=24),
    "bicycle": Activity(3, (90, 74, -4, 20), (98, 5, 2, 92, -2), None, (58, 5, 2, 40, 6), (28, 0, 0), -22, 34, airborne=True),
    "ski": Activity(3, (72, 40, -12, 66), (52, 8, 3, 56, -18), trunk=(20, 0, 0), nod=-14, pitch=20),
    "throw": Activity(4, (72, 74, 0, 22), (40, 12, 8, 26, -6), (-22, 92, 72, 84), (-8, 12, 14, 16, 4), (-4, -6, -26), pitch=-4),
    "swing": Activity(4, (112, 78, -8, 16), (16, 16, 6, 18, -4), (48, 84, -10, 40), (14, 16, 12, 20, 2), (12, 4, -28), pitch=10),
    "box": Activity(3, (84, 76, -8, 18), (22, 10, 4, 24, -6), (72, 40, -30, 122), (-4, 12, 24, 22, 4), (8, 0, -18)),
    "climb": Activity(3, (52, 148, 0, 32), (22, 12, 14, 24, 0), (42, 108, 30, 82), (92, 32, 30, 96, 4), airborne=True),
    "dance": Activity(4, (20, 128, 10, 38), (4, 8, 30, 8, 0), (15, 72, -10, 40), (48, 34, 38, 84, 34), (-6, 12, 12)),
    "arabesque": Activity(2, (70, 104, 0, 10), (34, 4, 24, 4, 0), (0, 84, 0, 10), (-26, 12, 18, 10, 42), (-14, 0, 0), -16, 34),
    "jump": Activity(4, (55, 142, 0, 22), (22, 10, 6, 48, 36), None, (44, 12, 8, 82, 34), (-4, 0, 0), airborne=True),
    "star jump": Activity(3, (5, 128, 0, 8), (8, 40, 18, 10, 32), airborne=True),
    "tuck": Activity(1, (84, 62, -20, 62), (112, 10, 4, 118, 24), trunk=(38, 0, 0), nod=14, airborne=True),
    "split jump": Activity(1, (0, 94, 0, 8), (82, 14, 8, 8, 40), None, (-26, 12, 14, 16, 42), airborne=True),
    "push-up": Activity(3, (78, 74, 0, 22), (-2, 5, 0, 4, -18), trunk=(-2, 0, 0), nod=-20, pitch=78),
    "crawl": Activity(3, (88, 84, 0, 10), (88, 6, 4, 86, 38), None, (68, 6, 4, 88, 38), (4, 0, 0), -26, 84),
    "plank aside": Activity(1, (0, 92, 0, 4), (0, 4, 4, 3, 0), (0, 86, 0, 4), pitch=4, roll=-64),
    "lie on back": Activity(3, (20, 32, 10, 22), (8, 12, 18, 14, 22), trunk=(4, 0, 0), pitch=-90),
    "lie, knees up": Activity(2, (30, 140, 10, 40), (58, 9, 6, 98, 10), pitch=-90),
    "lie on front": Activity(2, (40, 118, 20, 88), (-4, 12, 10, 10, 40), trunk=(-10, 0, 0), nod=-26, pitch=88),
    "lie on side": Activity(2, (78, 48, -10, 52), (38, 4, 0, 58, 14), (86, 84, 0, 66), (24, 2, 0, 42, 14), (12, 0, 0), roll=86),
    "bridge": Activity(1, (55, 168, 0, 6), (-24, 12, 6, 78, -10), trunk=(-24, 0, 0), nod=-34, pitch=-106),
    "handstand": Activity(2, (45, 166, 0, 6), (-6, 8, 6, 10, 36), None, (14, 10, 6, 16, 36), (-6, 0, 0), -30, 176),
    "cartwheel": Activity(2, (5, 156, 0, 6), (6, 46, 14, 8, 30), roll=128),
    "dive": Activity(1, (50, 166, 0, 6), (2, 3, 3, 5, 42), trunk=(4, 0, 0), nod=10, pitch=128, airborne=True),
}


@dataclass(frozen=True)
class Poses:
    """B poses: `angles` (B, 24), and `pitch` and `roll` (B,) of the body, in degrees; `airborne` if they leave the ground."""

    angles: FloatArray
    pitch: FloatArray
    roll: FloatArray
    airborne: bool

    def select(self, index: int) -> Poses:
        """Return one of the poses, as B = 1."""
        one = slice(index, index + 1)
        return Poses(self.angles[one], self.pitch[one], self.roll[one], self.airborne)


def sample_poses(rng: Generator, tries: int) -> Poses:
    """Sample `tries` variants of one activity, sometimes with the arms of another, and mirrored in half of the cases."""
    names = list(ACTIVITIES)
    weights = np.array([activity.weight for activity in ACTIVITIES.values()])
    first, second = rng.choice(len(names), 2, p=weights / weights.sum())
    activity = ACTIVITIES[names[first]]
    angles, roll = activity.angles(), activity.roll
    other = mirror(ACTIVITIES[names[second]].angles()) if rng.random() < 0.5 else ACTIVITIES[names[second]].angles()
    if rng.random() < 0.3:
        angles[6:14] = other[6:14]
    elif rng.random() < 0.15:
        angles[LEFT_ARM] = other[LEFT_ARM]
    if rng.random() < 0.5:
        angles, roll = mirror(angles), -roll
    shared = rng.normal(0, 0.8, 24)
    spread = rng.choice([0.6, 1.0, 1.7])
    angles = angles + spread * ANGLE_STD * (shared + rng.normal(0, 0.6, (tries, 24)))
    pitch = activity.pitch + spread * rng.normal(0, 5, tries)
    return Poses(clip_to_limits(angles), pitch, roll + spread * rng.normal(0, 3.5, tries), activity.airborne)


def mirror(angles: FloatArray) -> FloatArray:
    """Return the mirror image of a pose (24,)."""
    mirrored = angles.copy()
    mirrored[list(MIRRORED_ANGLES)] *= -1
    mirrored[LEFT_ARM], mirrored[RIGHT_ARM] = angles[RIGHT_ARM], angles[LEFT_ARM]
    mirrored[LEFT_LEG], mirrored[RIGHT_LEG] = angles[RIGHT_LEG], angles[LEFT_LEG]
    return mirrored


def clip_to_limits(angles: FloatArray) -> FloatArray:
    """Clip angles (B, 24) to the limits of the joints."""
    clipped = np.clip(angles, LIMITS[:, 0], LIMITS[:, 1])
    for arm in (LEFT_ARM, RIGHT_ARM):
        plane, elevation = clipped[:, arm.start], clipped[:, arm.start + 1]
        ceiling = np.interp(plane, [-90, -20, 0], [MAX_BACKWARD_ELEVATION, 110, LIMITS[7, 1]])
        clipped[:, arm.start + 1] = np.minimum(elevation, ceiling)
    return clipped
