"""Skeletons that users describe themselves: a category of a COCO file, or a YAML file.

The YAML file, of which only `joints` must be there:

    name: tool                                  # by default the file's name
    joints: [tip, left_grip, right_grip]
    edges: [[tip, left_grip], [tip, right_grip]]
    flip_pairs: [[left_grip, right_grip]]       # by default from the names; [] for none
    groups: {grips: [left_grip, right_grip]}    # joints that tables report together
    colours: [[0, 255, 0], [255, 128, 0]]       # RGB, one an edge

What may enter: checking such descriptions and turning them into a `Skeleton`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgfast.cli import suggest
from hgfast.errors import HgfastError
from hgfast.skeletons import KNOWN, Colour, Skeleton, make_skeleton
from hgfast.yaml_file import read_yaml

KEYS = ("name", "joints", "edges", "flip_pairs", "groups", "colours")


def skeleton_of_category(category: Mapping[str, Any], path: Path) -> Skeleton:
    """The skeleton of a COCO category (cocodataset.org/#format-data): `keypoints` names the joints, `skeleton` pairs their
    1-based numbers. Where the joints are those of `hgfast.skeletons.KNOWN`, it is that one.

    Raises:
        HgfastError: a broken description; `path` is for the message.
    """
    where = f"{path}: the category {category.get('name', category.get('id'))!r}"
    joints = _names(category.get("keypoints"), f"{where}: keypoints")
    if same := next((known for known in KNOWN if known.joints == joints), None):
        return same
    edges = category.get("skeleton") or []
    if not isinstance(edges, list) or not all(_is_pair(edge, len(joints)) for edge in edges):
        raise HgfastError(f"{where}: skeleton must hold pairs of joint numbers from 1 to {len(joints)}; correct it")
    return _make(where, str(category.get("name", "keypoints")), joints, [(a - 1, b - 1) for a, b in edges])


def read_skeleton(path: Path) -> Skeleton:
    """The skeleton of a YAML file as this module's docstring shows it, taken at its word.

    Raises:
        HgfastError: no such file, not YAML, an unknown key or joint (with the nearest right name), or parts that do not fit.
    """
    content = read_yaml(path, "the skeleton")
    where = f"the skeleton {path}"
    if not isinstance(content, dict):
        raise HgfastError(f"{where} must hold lines such as 'joints: [wrist, thumb]'")
    if strange := [str(key) for key in content if key not in KEYS]:
        raise HgfastError(f"{where}: unknown key {strange[0]!r}{suggest(strange[0], KEYS)}; it may hold {', '.join(KEYS)}")
    joints = _names(content.get("joints"), f"{where}: joints")
    name = content.get("name", path.stem)
    if not isinstance(name, str):
        raise HgfastError(f"{where}: name must be text, not {name!r}; put it in quotes")
    edges = _pairs(content.get("edges") or [], joints, f"{where}: edges")
    pairs = content.get("flip_pairs")
    return _make(
        where,
        name,
        joints,
        edges,
        pairs=None if pairs is None else _pairs(pairs, joints, f"{where}: flip_pairs"),
        groups=_groups(content.get("groups") or {}, joints, f"{where}: groups"),
        colours=None if content.get("colours") is None else _colours(content["colours"], f"{where}: colours"),
    )


def joint_number(name: Any, joints: tuple[str, ...], where: str) -> int:
    """The number of a joint. Raises `HgfastError` that suggests the nearest name."""
    if name not in joints:
        raise HgfastError(f"{where}: unknown joint {name!r}{suggest(str(name), joints)}; there are {', '.join(joints)}")
    return joints.index(name)


def _make(where: str, name: str, joints: tuple[str, ...], edges: list[tuple[int, int]], **parts: Any) -> Skeleton:
    try:
        return make_skeleton(name, joints, edges, **parts)
    except ValueError as error:
        raise HgfastError(f"{where}: {str(error).partition(': ')[2]}; correct it") from error


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise HgfastError(f"{where} must be a list of names, one a joint; add it")
    strange = next((name for name in value if not isinstance(name, str) or not name.strip()), None)
    if strange is not None or None in value:
        raise HgfastError(f"{where}: {strange!r} is not a name; names are text, in quotes where YAML reads them otherwise")
    if twice := next((name for number, name in enumerate(value) if name in value[:number]), None):
        raise HgfastError(f"{where}: two joints are called {twice!r}; give each a name of its own")
    return tuple(value)


def _is_pair(edge: Any, count: int) -> bool:
    return isinstance(edge, list) and len(edge) == 2 and all(type(joint) is int and 1 <= joint <= count for joint in edge)


def _pairs(value: Any, joints: tuple[str, ...], where: str) -> list[tuple[int, int]]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise HgfastError(f"{where} must be a list of pairs of joint names, such as [[wrist, thumb]]")
    numbers = [tuple(joint_number(name, joints, where) for name in pair) for pair in value]
    return [(one, other) for one, other in numbers]


def _groups(value: Any, joints: tuple[str, ...], where: str) -> list[tuple[str, tuple[int, ...]]]:
    if not isinstance(value, dict) or not all(isinstance(members, list) and members for members in value.values()):
        raise HgfastError(f"{where} must hold lines such as 'elbow: [left_elbow, right_elbow]'")
    return [(str(name), tuple(joint_number(joint, joints, where) for joint in members)) for name, members in value.items()]


def _colours(value: Any, where: str) -> list[Colour]:
    def is_colour(colour: Any) -> bool:
        return isinstance(colour, list) and len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour)

    if not isinstance(value, list) or not all(is_colour(colour) for colour in value):
        raise HgfastError(f"{where} must be a list of three whole numbers from 0 to 255 for each edge, such as [[0, 255, 0]]")
    return [(red, green, blue) for red, green, blue in value]
