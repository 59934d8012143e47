"""Skeletons as data: joint names, edges, flip pairs, groups and colours, in one place for drawing, metrics and flips.

What may enter: what is known of joints without any data set.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]
RIGHT, LEFT, MIDDLE = (255, 128, 0), (0, 255, 0), (51, 153, 255)  # RGB: orange, green, blue, as in mmpose


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
    colours: tuple[Colour, ...]
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

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> Skeleton:
        """The skeleton of which `dataclasses.asdict` gave these fields, also if lists have come in the place of tuples.

        Raises:
            TypeError, ValueError: fields too many or missing, or what a skeleton refuses.
        """
        return cls(**{name: _tuples(value) for name, value in fields.items()})

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


def make_skeleton(
    name: str,
    joints: Sequence[str],
    edges: Sequence[tuple[int, int]] = (),
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    groups: Sequence[tuple[str, tuple[int, ...]]] = (),
    colours: Sequence[Colour] | None = None,
) -> Skeleton:
    """A skeleton from its parts; what is not given follows from the names and the edges.

    Args:
        pairs: joints that mirroring exchanges; by default `flip_pairs` of the names.
        colours: one an edge; by default `edge_colours`.

    Raises:
        ValueError: no joints, two of one name, a joint in two pairs, and what `Skeleton` refuses.
    """
    if not joints or len(set(joints)) < len(joints):
        raise ValueError(f"skeleton {name}: it needs joints, each with a name of its own")
    pairs = flip_pairs(joints) if pairs is None else tuple(pairs)
    paired = [joint for pair in pairs for joint in pair]
    if len(set(paired)) < len(paired) or not set(paired) <= set(range(len(joints))):
        raise ValueError(f"skeleton {name}: pairs must name its joints, each once")
    swap = swapped(len(joints), pairs)
    drawn = edge_colours(joints, edges, pairs) if colours is None else tuple(colours)
    return Skeleton(name, tuple(joints), tuple(edges), swap, drawn, tuple(groups))


# left, right, and a lone l or r: left_eye, Right Eye, l_eye, eye.R; LEye and leftEye once `_words` has parted them.
_SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def flip_pairs(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of joint numbers whose names differ in left and right only, in any spelling: the lower number first."""
    words = [_words(joint) for joint in joints]
    mirrored = [_SIDE.sub(lambda side: _OTHER[side[0]], name) for name in words]
    number = {name: joint for joint, name in enumerate(words)}
    pairs = [(joint, number.get(name, joint)) for joint, name in enumerate(mirrored)]
    return tuple((one, other) for one, other in pairs if one < other and number.get(mirrored[other]) == one)


def edge_colours(joints: Sequence[str], edges: Sequence[tuple[int, int]], pairs: Sequence[tuple[int, int]]) -> tuple[Colour, ...]:
    """A colour an edge: `LEFT`, `RIGHT`, or `MIDDLE` where it belongs to neither side; without pairs, once round the hues.

    A pair whose names do not say which is which is taken as left, right.
    """
    if not pairs:
        hues = [colorsys.hsv_to_rgb(number / max(len(edges), 1), 0.75, 1.0) for number in range(len(edges))]
        return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues)
    side = {}
    for one, other in pairs:
        said = _SIDE.search(_words(joints[one]))
        first = RIGHT if said and said[0].startswith("r") else LEFT
        side[one], side[other] = first, RIGHT if first is LEFT else LEFT
    found = [{side[joint] for joint in edge if joint in side} for edge in edges]
    return tuple(sides.pop() if len(sides) == 1 else MIDDLE for sides in found)


def _tuples(value: Any, depth: int = 3) -> Any:
    """Lists in lists as tuples, as deep as a skeleton's go. Raises `ValueError` for deeper ones."""
    if not isinstance(value, (list, tuple)):
        return value
    if not depth:
        raise ValueError("its lists are nested deeper than a skeleton's")
    return tuple(_tuples(item, depth - 1) for item in value)


def _words(name: str) -> str:
    """A name in lower case, its words parted by single spaces."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=^[LR])(?=[A-Z][a-z])", " ", name)
    return re.sub(r"[\W_]+", " ", parted).strip().lower()


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
    colours=(*(RIGHT,) * 3, *(LEFT,) * 3, *(MIDDLE,) * 3, *(RIGHT,) * 3, *(LEFT,) * 3),
    groups=(
        ("head", (8, 9)), ("shoulder", (12, 13)), ("elbow", (11, 14)), ("wrist", (10, 15)), ("hip", (2, 3)), ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
)  # fmt: skip

KNOWN = (HAND21, BODY16)
