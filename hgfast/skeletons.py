"""Skeletons: joint names, edges, flip pairs, groups and colors."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hgfast.joint_sides import find_pairs, find_side, find_unpaired

Color = tuple[int, int, int]
RIGHT_COLOR, LEFT_COLOR, CENTER_COLOR = (255, 128, 0), (0, 255, 0), (51, 153, 255)  # RGB: orange, green, blue, as in mmpose
ANONYMOUS_PREFIX = "points"
"""Prefix of the names of skeletons whose joints have no names."""
STORED_NAMES = {"colors": "colours", "flip_indices": "swap"}
"""Fields of `Skeleton` that checkpoints and sidecars store under other names."""


def rename_keys(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields with the keys in `names` renamed."""
    return {names.get(key, key): value for key, value in fields.items()}


@dataclass(frozen=True)
class Skeleton:
    """K named joints.

    edges: pairs of joint numbers. colors: one RGB color per edge. flip_indices: the joint order after a horizontal flip.
    groups: names with the joints that tables report together; the total of PCKh covers the joints in a group.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    flip_indices: tuple[int, ...]
    colors: tuple[Color, ...]
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        indices, flipped = range(len(self.joints)), self.flip_indices
        if sorted(flipped) != list(indices) or any(flipped[flipped[joint]] != joint for joint in indices):
            raise ValueError(f"skeleton {self.name}: swap must exchange joints in pairs and leave the others in place")
        if len(self.colors) != len(self.edges):
            raise ValueError(f"skeleton {self.name}: every edge must have a color")
        named = [joint for _, joints in self.groups for joint in joints]
        if not {*named, *(joint for edge in self.edges for joint in edge)} <= set(indices) or len(set(named)) < len(named):
            raise ValueError(f"skeleton {self.name}: edges and groups must name its joints, and no joint be in two groups")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields under the names that checkpoints and sidecars store (`STORED_NAMES`)."""
        return rename_keys(asdict(self), STORED_NAMES)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Skeleton:
        """Restore a skeleton from `to_dict`; lists are accepted for tuples, and older names of hand joints are updated.

        Raises TypeError or ValueError if fields are unknown, missing or invalid.
        """
        names = {stored_name: name for name, stored_name in STORED_NAMES.items()}
        skeleton = cls(**{name: _to_tuples(value) for name, value in rename_keys(stored, names).items()})
        joints = canonical_joints(skeleton.joints)
        if joints == skeleton.joints:
            return skeleton
        groups = tuple((GROUP_ALIASES.get(name, name), members) for name, members in skeleton.groups)
        return replace(skeleton, joints=joints, groups=groups)

    @property
    def is_anonymous(self) -> bool:
        """Whether the names of the joints, and so their order and sides, are unknown (`anonymous_skeleton`)."""
        return self.name.startswith(ANONYMOUS_PREFIX)

    @property
    def has_flip_pairs(self) -> bool:
        """Whether a horizontal flip swaps joints. Hands have no flip pairs: a mirrored right hand is a left one."""
        return self.flip_indices != tuple(range(len(self.joints)))

    @property
    def grouped_joints(self) -> list[int]:
        """The joints in any group, in ascending order."""
        return sorted(joint for _, joints in self.groups for joint in joints)


def make_flip_indices(num_joints: int, pairs: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Return the order of `num_joints` joints after swapping the `pairs`."""
    order = np.arange(num_joints)
    for first, second in pairs:
        order[[first, second]] = second, first
    return tuple(order.tolist())


def make_skeleton(
    name: str,
    joints: Sequence[str],
    edges: Sequence[tuple[int, int]] = (),
    *,
    flip_pairs: Sequence[tuple[int, int]] | None = None,
    groups: Sequence[tuple[str, tuple[int, ...]]] = (),
    colors: Sequence[Color] | None = None,
) -> Skeleton:
    """Create a skeleton; missing parts are derived from the names and the edges.

    Args:
        flip_pairs: joints that a horizontal flip swaps; by default `find_pairs` of the names.
        colors: one per edge; by default `default_edge_colors`.

    Raises:
        ValueError: there are no joints, a name or a joint of a pair is repeated, or `Skeleton` refuses the values.
    """
    if not joints or len(set(joints)) < len(joints):
        raise ValueError(f"skeleton {name}: it needs joints with distinct names")
    if unprintable := [joint for joint in joints if not joint.isprintable()]:
        raise ValueError(f"skeleton {name}: the joint name {unprintable[0]!r} cannot be printed")
    flip_pairs = find_pairs(joints) if flip_pairs is None else tuple(flip_pairs)
    paired = [joint for pair in flip_pairs for joint in pair]
    if len(set(paired)) < len(paired) or not set(paired) <= set(range(len(joints))):
        raise ValueError(f"skeleton {name}: flip_pairs must name its joints, each once")
    flip_indices = make_flip_indices(len(joints), flip_pairs)
    edge_colors = default_edge_colors(joints, edges, flip_pairs) if colors is None else tuple(colors)
    return Skeleton(name, tuple(joints), tuple(edges), flip_indices, edge_colors, tuple(groups))


def anonymous_skeleton(num_joints: int) -> Skeleton:
    """Return a skeleton for joints whose names are unknown."""
    return make_skeleton(f"{ANONYMOUS_PREFIX}{num_joints}", [f"point{n}" for n in range(num_joints)])


def describe_flip(skeleton: Skeleton, max_pairs: int = 12) -> str:
    """Return one line that says which joints a horizontal flip swaps and which stay."""
    pairs, unpaired = _names_by_flip(skeleton)
    if not pairs:
        return f"a mirrored image swaps no joints of {skeleton.name}"
    swapped = ", ".join(f"{first}/{second}" for first, second in pairs[:max_pairs])
    more = f" and {len(pairs) - max_pairs} more pairs" if len(pairs) > max_pairs else ""
    stay = f"; not {', '.join(unpaired[:max_pairs])}" + f" and {len(unpaired) - max_pairs} more" * (len(unpaired) > max_pairs)
    return f"a mirrored image swaps {swapped}{more}{stay if unpaired else ''}"


def find_sides_problem(skeleton: Skeleton) -> str:
    """Return why a horizontal flip mislabels joints: a name tells a side, and no pair has the joint. "" if there is none.

    The sentence contains the `flip_pairs` to complete in a YAML file of the skeleton.
    """
    joints = skeleton.joints
    lonely = [joints[joint] for joint in find_unpaired(joints) if skeleton.flip_indices[joint] == joint]
    if not lonely:
        return ""
    pairs = json.dumps(_names_by_flip(skeleton)[0], ensure_ascii=False)
    names = ", ".join(map(repr, lonely[:5])) + " and others" * (len(lonely) > 5)
    return (
        f"the names of the joints {names} tell a side, but no pair that a mirrored image swaps has them: correct the names, or "
        f"complete 'flip_pairs: {pairs}' in a --skeleton FILE.yaml that also lists the joints, or train with --augment.flip 0"
    )


def _names_by_flip(skeleton: Skeleton) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pairs of joints that a horizontal flip swaps, and the others."""
    joints, flipped = skeleton.joints, skeleton.flip_indices
    pairs = [(joints[joint], joints[other]) for joint, other in enumerate(flipped) if joint < other]
    return pairs, [joints[joint] for joint, other in enumerate(flipped) if joint == other]


def default_edge_colors(
    joints: Sequence[str], edges: Sequence[tuple[int, int]], pairs: Sequence[tuple[int, int]]
) -> tuple[Color, ...]:
    """Return a color per edge: `LEFT_COLOR`, `RIGHT_COLOR`, or `CENTER_COLOR` for neither side; without pairs, evenly spaced
    hues.

    A pair whose names do not tell the sides is taken as left, right.
    """
    if not pairs:
        hues = [colorsys.hsv_to_rgb(number / max(len(edges), 1), 0.75, 1.0) for number in range(len(edges))]
        return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues)
    joint_colors = {}
    for first, second in pairs:
        is_right = find_side(joints[first]) == "right"
        joint_colors[first], joint_colors[second] = (RIGHT_COLOR, LEFT_COLOR) if is_right else (LEFT_COLOR, RIGHT_COLOR)
    edge_colors = [{joint_colors[joint] for joint in edge if joint in joint_colors} for edge in edges]
    return tuple(colors.pop() if len(colors) == 1 else CENTER_COLOR for colors in edge_colors)


def _to_tuples(value: Any, depth: int = 3) -> Any:
    """Convert nested lists to tuples. Raises `ValueError` if they are nested deeper than a skeleton's fields."""
    if not isinstance(value, (list, tuple)):
        return value
    if not depth:
        raise ValueError("its lists are nested deeper than a skeleton's")
    return tuple(_to_tuples(item, depth - 1) for item in value)


_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
_THUMB_JOINTS, _FINGER_JOINTS = ("cmc", "mcp", "ip", "tip"), ("mcp", "pip", "dip", "tip")
_FINGER_COLORS = ((255, 128, 0), (255, 90, 200), (80, 160, 255), (255, 60, 60), (40, 220, 40))

# Order of FreiHAND's files; names as in MediaPipe.
HAND21 = Skeleton(
    name="hand21",
    joints=(
        "wrist",
        *(f"{finger}_{joint}" for finger in _FINGERS for joint in (_THUMB_JOINTS if finger == "thumb" else _FINGER_JOINTS)),
    ),
    edges=tuple((0 if i == 0 else 4 * f + i, 4 * f + i + 1) for f in range(5) for i in range(4)),
    flip_indices=tuple(range(21)),
    colors=tuple(color for color in _FINGER_COLORS for _ in range(4)),
    groups=(("wrist", (0,)), *((finger, tuple(range(4 * f + 1, 4 * f + 5))) for f, finger in enumerate(_FINGERS))),
)

# Order of MPII's files; edges and colors (right orange, left green, middle blue) as in mmpose. Groups as in MPII's official
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
    flip_indices=make_flip_indices(16, ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))),
    colors=(*(RIGHT_COLOR,) * 3, *(LEFT_COLOR,) * 3, *(CENTER_COLOR,) * 3, *(RIGHT_COLOR,) * 3, *(LEFT_COLOR,) * 3),
    groups=(
        ("head", (8, 9)), ("shoulder", (12, 13)), ("elbow", (11, 14)), ("wrist", (10, 15)), ("hip", (2, 3)), ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
)  # fmt: skip

BUILTIN_SKELETONS = (HAND21, BODY16)

_OLD_FINGERS = (
    ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger"),
    ("thumb", "index", "middle", "ring", "little"),
)
JOINT_ALIASES = {
    f"{finger}{i + 1}": HAND21.joints[1 + 4 * f + i]
    for fingers in _OLD_FINGERS
    for f, finger in enumerate(fingers)
    for i in range(4)
}
"""Names of hand joints in older files and in mmpose, and their names in `HAND21`."""
GROUP_ALIASES = {"forefinger": "index", "middle_finger": "middle", "ring_finger": "ring", "pinky_finger": "pinky"}
"""The same for groups."""


def canonical_joints(joints: Sequence[str]) -> tuple[str, ...]:
    """Return the names of `HAND21` for its 21 joints under older names, in any order; other joints are unchanged."""
    if any(joint != "wrist" and joint not in JOINT_ALIASES for joint in joints):
        return tuple(joints)
    names = tuple(JOINT_ALIASES.get(joint, joint) for joint in joints)
    return names if len(names) == len(HAND21.joints) and set(names) == set(HAND21.joints) else tuple(joints)
