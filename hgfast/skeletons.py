"""Skeletons as data: joint names, edges, flip pairs, groups and colours, in one place for drawing, metrics and flips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Skeleton:
    """K named joints.

    edges: pairs of joint numbers; colours: one RGB colour an edge. swap: the joint order after mirroring.
    groups: names with the joints that tables report together; a metric's total is over the joints that have a group.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    swap: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        known = range(len(self.joints))
        if sorted(self.swap) != list(known) or any(self.swap[self.swap[joint]] != joint for joint in known):
            raise ValueError(f"skeleton {self.name}: swap must exchange joints in pairs, and leave the others in place")
        if len(self.colours) != len(self.edges):
            raise ValueError(f"skeleton {self.name}: every edge must have a colour")
        named = [joint for _, joints in self.groups for joint in joints]
        if not {*named, *(joint for edge in self.edges for joint in edge)} <= set(known) or len(set(named)) < len(named):
            raise ValueError(f"skeleton {self.name}: edges and groups must name its joints, and no joint be in two groups")

    @property
    def has_sides(self) -> bool:
        """Does mirroring exchange joints? Hands have none: a mirrored right hand is a left one."""
        return self.swap != tuple(range(len(self.joints)))

    @property
    def grouped(self) -> list[int]:
        """The joints of all groups, in the order of the joints."""
        return sorted(joint for _, joints in self.groups for joint in joints)


def swapped(count: int, pairs: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The order of `count` joints after exchanging left and right in `pairs`."""
    order = np.arange(count)
    for one, other in pairs:
        order[[one, other]] = other, one
    return tuple(order.tolist())


_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_FINGER_COLOURS = ((255, 128, 0), (255, 90, 200), (80, 160, 255), (255, 60, 60), (40, 220, 40))

# Order of FreiHAND's files; names as in mmpose.
HAND21 = Skeleton(
    name="hand21",
    joints=("wrist", *(f"{finger}{i}" for finger in _FINGERS for i in range(1, 5))),
    edges=tuple((0 if i == 0 else 4 * f + i, 4 * f + i + 1) for f in range(5) for i in range(4)),
    swap=tuple(range(21)),
    colours=tuple(colour for colour in _FINGER_COLOURS for _ in range(4)),
    groups=(("wrist", (0,)), *((finger, tuple(range(4 * f + 1, 4 * f + 5))) for f, finger in enumerate(_FINGERS))),
)

_RIGHT, _LEFT, _MIDDLE = (255, 128, 0), (0, 255, 0), (51, 153, 255)

# Order of MPII's files; edges and colours (right orange, left green, middle blue) as in mmpose. Groups as in MPII's official
# table (evalMPII.m): pelvis and thorax are in none, so that they do not count.
BODY16 = Skeleton(
    name="body16",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax", "upper_neck",
        "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
    edges=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 8), (8, 13), (13, 14),
        (14, 15),
    ),
    swap=swapped(16, ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))),
    colours=(*(_RIGHT,) * 3, *(_LEFT,) * 3, *(_MIDDLE,) * 3, *(_RIGHT,) * 3, *(_LEFT,) * 3),
    groups=(
        ("head", (8, 9)), ("shoulder", (12, 13)), ("elbow", (11, 14)), ("wrist", (10, 15)), ("hip", (2, 3)), ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
)  # fmt: skip
