"""Skeletons that users define: a category of a COCO file, or a YAML file. Those in the folder `skeletons` are also known by name.

Only `joints` is required in the YAML file:

    name: tool                                  # by default the file's name
    joints: [tip, left_grip, right_grip]
    edges: [[tip, left_grip], [tip, right_grip]]
    flip_pairs: [[left_grip, right_grip]]       # by default from the names; [] for none
    groups: {grips: [left_grip, right_grip]}    # joints that tables report together
    colors: [[0, 255, 0], [255, 128, 0]]        # RGB, one per edge; `colours` is accepted too
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hgfast.cli import did_you_mean
from hgfast.errors import HgfastError
from hgfast.fileio.yaml_file import read_yaml
from hgfast.skeletons import (
    BUILTIN_SKELETONS,
    JOINT_ALIASES,
    Color,
    Skeleton,
    canonical_joints,
    find_sides_problem,
    make_skeleton,
)

KEYS = ("name", "joints", "edges", "flip_pairs", "groups", "colors")
OLD_KEYS = {"colours": "colors"}


SHIPPED = Path(__file__).parent / "skeletons"


def skeleton_from_category(category: Mapping[str, Any], path: Path) -> tuple[Skeleton, tuple[str, ...]]:
    """Return the skeleton of a COCO category (cocodataset.org/#format-data), or that of `BUILTIN_SKELETONS` with its joints.

    `keypoints` names the joints, `skeleton` holds pairs of their 1-based numbers; `path` is for messages.

    Returns:
        The skeleton, and a note if the category's edges are left out because they are not pairs of its joints.
    """
    where = f"{path}: the category {category.get('name', category.get('id'))!r}"
    joints = canonical_joints(_read_joint_names(category.get("keypoints"), f"{where}: keypoints"))
    if known_skeleton := next((known for known in BUILTIN_SKELETONS if known.joints == joints), None):
        return known_skeleton, ()
    edges, complaint = _read_edges(category.get("skeleton"), joints)
    notes: tuple[str, ...] = ()
    if complaint:
        others = "".join(f", such as --skeleton {name}" for name in shipped_skeletons(joints)[:1])
        notes = (f"{where}: skeleton {complaint}, so the edges are left out; --skeleton FILE.yaml can name them{others}",)
    return _make_skeleton(where, str(category.get("name", "keypoints")), joints, edges), notes


def shipped_skeletons(joints: Sequence[str] | int) -> list[str]:
    """Return the names of the shipped skeletons with these joints, or with this number of joints."""
    names = []
    for file in sorted(SHIPPED.glob("*.yaml")):
        known = read_skeleton(file).joints
        if len(known) == joints if isinstance(joints, int) else list(known) == list(joints):
            names.append(file.stem)
    return names


def skeleton_file(path: Path) -> Path:
    """Return the file of `--skeleton`: a path, or the name of a shipped skeleton where no such path exists."""
    shipped = SHIPPED / f"{path}.yaml"
    if path.is_file() or path.name != str(path) or path.suffix:
        return path
    if not shipped.exists():
        names = [file.stem for file in sorted(SHIPPED.glob("*.yaml"))]
        raise HgfastError(
            f"there is no skeleton {str(path)!r}{did_you_mean(str(path), names)}: name a YAML file, or one of {', '.join(names)}"
        )
    return shipped


def sides_problem(skeleton: Skeleton, path: Path | None) -> str:
    """Return `find_sides_problem` of a skeleton, "" if it is that of a YAML file that states its `flip_pairs`."""
    content = None if path is None else read_yaml(skeleton_file(path), "the skeleton")
    has_pairs = isinstance(content, dict) and content.get("flip_pairs") is not None
    return "" if has_pairs else find_sides_problem(skeleton)


def read_skeleton(path: Path) -> Skeleton:
    """Read the skeleton of a YAML file with the keys of this module's docstring, or a shipped one by its name.

    Raises `HgfastError` if it is missing or broken.
    """
    path = skeleton_file(path)
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
    """Return the names without spaces around them, numbers as text."""
    if not isinstance(value, list) or not value:
        raise HgfastError(f"{where} must be a list of names, one a joint; add it")
    names = [str(name).strip() if isinstance(name, str) or type(name) in (int, float) else "" for name in value]
    if "" in names:
        invalid = value[names.index("")]
        raise HgfastError(
            f"{where}: {invalid!r} is not a name; names are text, in quotes if YAML reads them as another type; correct it, or "
            "name the joints in a --skeleton FILE.yaml"
        )
    if duplicate := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise HgfastError(
            f"{where}: two joints are called {duplicate!r}; give each a unique name, there or in a --skeleton FILE.yaml"
        )
    return tuple(names)


def _read_edges(value: Any, joints: Sequence[str]) -> tuple[list[tuple[int, int]], str]:
    """Return a category's edges as 0-based pairs, or none and the reason why they cannot be trusted.

    Edges are pairs of numbers from 1 or of names. If one is not, the numbers are those of another list of joints, or start at 0:
    then the others are wrong as well.
    """
    if value is None or value == []:
        return [], ""
    if not isinstance(value, list):
        return [], "is not a list of pairs"
    names, edges = {name: number for number, name in enumerate(joints, 1)}, []
    for edge in value:
        pair = [_joint_number(end, names) for end in edge] if isinstance(edge, list) else []
        if len(pair) != 2 or None in pair:
            return [], f"holds {json.dumps(edge, ensure_ascii=False)[:40]}, which is not a pair of joints"
        first, second = (end for end in pair if end is not None)
        edges.append((first - 1, second - 1))
    lowest, highest = min(map(min, edges)) + 1, max(map(max, edges)) + 1
    if lowest < 1 or highest > len(joints):
        return [], f"names joint {lowest if lowest < 1 else highest}, but the joints are numbered from 1 to {len(joints)}"
    return edges, ""


def _joint_number(end: Any, names: Mapping[str, int]) -> int | None:
    """Return the number of an edge's end, which may be a name, text, or a whole float; None if it is none."""
    if isinstance(end, str):
        return names.get(end.strip()) or (int(end) if end.isascii() and end.strip().isdecimal() and len(end) < 9 else None)
    return int(end) if type(end) is int or (isinstance(end, float) and end.is_integer()) else None


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
