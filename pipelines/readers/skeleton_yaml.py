"""Skeletons that users define: a category of a COCO file, or a YAML file.

Only `joints` is required in the YAML file:

    name: tool                                  # by default the file's name
    joints: [tip, left_grip, right_grip]
    edges: [[tip, left_grip], [tip, right_grip]]
    flip_pairs: [[left_grip, right_grip]]       # by default from the names; [] for none
    groups: {grips: [left_grip, right_grip]}    # joints that tables report together
    colors: [[0, 255, 0], [255, 128, 0]]        # RGB, one per edge; `colours` is accepted too
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgfast.cli import did_you_mean
from hgfast.errors import HgfastError
from hgfast.fileio.yaml_file import read_yaml
from hgfast.skeletons import BUILTIN_SKELETONS, JOINT_ALIASES, Color, Skeleton, canonical_joints, make_skeleton

KEYS = ("name", "joints", "edges", "flip_pairs", "groups", "colors")
OLD_KEYS = {"colours": "colors"}


def skeleton_from_category(category: Mapping[str, Any], path: Path) -> Skeleton:
    """Return the skeleton of a COCO category (cocodataset.org/#format-data), or that of `BUILTIN_SKELETONS` with its joints.

    `keypoints` names the joints, `skeleton` holds pairs of their 1-based numbers; `path` is for messages.
    """
    where = f"{path}: the category {category.get('name', category.get('id'))!r}"
    joints = canonical_joints(_read_joint_names(category.get("keypoints"), f"{where}: keypoints"))
    if known_skeleton := next((known for known in BUILTIN_SKELETONS if known.joints == joints), None):
        return known_skeleton
    edges = category.get("skeleton") or []
    if not isinstance(edges, list) or not all(_is_pair(edge, len(joints)) for edge in edges):
        raise HgfastError(f"{where}: skeleton must hold pairs of joint numbers from 1 to {len(joints)}; correct it")
    return _make_skeleton(where, str(category.get("name", "keypoints")), joints, [(a - 1, b - 1) for a, b in edges])


def read_skeleton(path: Path) -> Skeleton:
    """Read the skeleton of a YAML file with the keys of this module's docstring. Raises `HgfastError` if it is broken."""
    content = read_yaml(path, "the skeleton")
    where = f"the skeleton {path}"
    if not isinstance(content, dict):
        raise HgfastError(f"{where} must hold lines such as 'joints: [wrist, thumb]'")
    content = {OLD_KEYS.get(key, key): value for key, value in content.items()}
    if unknown_keys := [str(key) for key in content if key not in KEYS]:
        raise HgfastError(
            f"{where}: unknown key {unknown_keys[0]!r}{did_you_mean(unknown_keys[0], KEYS)}; it may hold {', '.join(KEYS)}"
        )
    joints = canonical_joints(_read_joint_names(content.get("joints"), f"{where}: joints"))
    name = content.get("name", path.stem)
    if not isinstance(name, str):
        raise HgfastError(f"{where}: name must be text, not {name!r}; put it in quotes")
    edges = _pairs(content.get("edges") or [], joints, f"{where}: edges")
    pairs = content.get("flip_pairs")
    return _make_skeleton(
        where,
        name,
        joints,
        edges,
        flip_pairs=None if pairs is None else _pairs(pairs, joints, f"{where}: flip_pairs"),
        groups=_groups(content.get("groups") or {}, joints, f"{where}: groups"),
        colors=None if content.get("colors") is None else _read_colors(content["colors"], f"{where}: colors"),
    )


def joint_index(name: Any, joints: tuple[str, ...], where: str) -> int:
    """Return the index of a joint. Raises `HgfastError` that suggests the nearest name."""
    if name not in joints and isinstance(name, str):
        name = JOINT_ALIASES.get(name, name)
    if name not in joints:
        raise HgfastError(f"{where}: unknown joint {name!r}{did_you_mean(str(name), joints)}; there are {', '.join(joints)}")
    return joints.index(name)


def _make_skeleton(where: str, name: str, joints: tuple[str, ...], edges: list[tuple[int, int]], **parts: Any) -> Skeleton:
    try:
        return make_skeleton(name, joints, edges, **parts)
    except ValueError as error:
        raise HgfastError(f"{where}: {str(error).partition(': ')[2]}; correct it") from error


def _read_joint_names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise HgfastError(f"{where} must be a list of names, one a joint; add it")
    invalid = next((name for name in value if not isinstance(name, str) or not name.strip()), None)
    if invalid is not None or None in value:
        raise HgfastError(f"{where}: {invalid!r} is not a name; names are text, in quotes if YAML reads them as another type")
    if duplicate := next((name for number, name in enumerate(value) if name in value[:number]), None):
        raise HgfastError(f"{where}: two joints are called {duplicate!r}; give each a unique name")
    return tuple(value)


def _is_pair(edge: Any, count: int) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(type(joint) is int and 1 <= joint <= count for joint in edge)


def _pairs(value: Any, joints: tuple[str, ...], where: str) -> list[tuple[int, int]]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise HgfastError(f"{where} must be a list of pairs of joint names, such as [[wrist, thumb]]")
    numbers = [tuple(joint_index(name, joints, where) for name in pair) for pair in value]
    return [(first, second) for first, second in numbers]


def _groups(value: Any, joints: tuple[str, ...], where: str) -> list[tuple[str, tuple[int, ...]]]:
    if not isinstance(value, dict) or not all(isinstance(members, list) and members for members in value.values()):
        raise HgfastError(f"{where} must hold lines such as 'elbow: [left_elbow, right_elbow]'")
    return [(str(name), tuple(joint_index(joint, joints, where) for joint in members)) for name, members in value.items()]


def _read_colors(value: Any, where: str) -> list[Color]:
    def is_color(color: Any) -> bool:
        return isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)

    if not isinstance(value, list) or not all(is_color(color) for color in value):
        raise HgfastError(f"{where} must be a list of three whole numbers from 0 to 255 for each edge, such as [[0, 255, 0]]")
    return [(red, green, blue) for red, green, blue in value]
