"""Skeletons: left and right by joint names, and invalid skeletons."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from hgfast.joint_sides import find_pairs, find_unpaired
from hgfast.skeletons import (
    BODY16,
    BUILTIN_SKELETONS,
    CENTER_COLOR,
    HAND21,
    LEFT_COLOR,
    RIGHT_COLOR,
    Skeleton,
    describe_flip,
    find_sides_problem,
    make_skeleton,
)


@pytest.mark.parametrize("skeleton", [BODY16, HAND21])
def test_flip_indices_by_name(skeleton: Skeleton) -> None:
    other = {"left": "right", "right": "left"}
    for joint, name in enumerate(skeleton.joints):
        side, _, rest = name.partition("_")
        mirrored = f"{other[side]}_{rest}" if side in other else name
        assert skeleton.joints[skeleton.flip_indices[joint]] == mirrored


def test_body_as_mpii_has_it() -> None:
    assert BODY16.flip_indices == (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)  # the permutation of princeton-vl's code
    assert BODY16.has_flip_pairs and not HAND21.has_flip_pairs
    assert BODY16.grouped_joints == [j for j in range(16) if BODY16.joints[j] not in ("pelvis", "thorax")]
    assert all(rest in BODY16.joints[j] for name, joints in BODY16.groups if name != "head" for j in joints for rest in [name])


@pytest.mark.parametrize("skeleton", [BODY16, HAND21])
def test_edges_reach_every_joint_and_mirror(skeleton: Skeleton) -> None:
    assert {joint for edge in skeleton.edges for joint in edge} == set(range(len(skeleton.joints)))
    assert len(skeleton.edges) == len(skeleton.joints) - 1  # a tree
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert {frozenset(skeleton.flip_indices[j] for j in edge) for edge in edges} == edges
    for edge, color in zip(skeleton.edges, skeleton.colors):
        sides = {skeleton.joints[j].partition("_")[0] for j in edge} & {"left", "right"}
        if skeleton is BODY16:
            assert color == {"left": (0, 255, 0), "right": (255, 128, 0)}.get(*sides, (51, 153, 255)) if sides else True
    assert len(np.unique(skeleton.colors, axis=0)) in (3, 5)


@pytest.mark.parametrize(
    "parts",
    [
        {"flip_indices": (1, 2, 0)},
        {"flip_indices": (0, 1, 1)},
        {"colors": ()},
        {"groups": (("a", (0, 3)),)},
        {"groups": (("a", (0, 1)), ("b", (1, 2)))},
        {"edges": ((0, 5),)},
    ],
)
def test_nonsense_is_refused(parts: dict[str, tuple[object, ...]]) -> None:
    good = {"name": "x", "joints": ("a", "b", "c"), "edges": ((0, 1),), "flip_indices": (0, 2, 1), "colors": ((1, 2, 3),)}
    Skeleton(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="skeleton x"):
        Skeleton(**{**good, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("Left Eye", "Right Eye"),
        ("LEFT-EYE", "RIGHT-EYE"),
        ("leftEye", "rightEye"),
        ("eye_left", "eye_right"),
        ("front_left_paw", "front_right_paw"),
        ("l_eye", "r_eye"),
        ("eye.L", "eye.R"),
        ("L_F_Paw", "R_F_Paw"),
        ("LEye", "REye"),
        ("lefteye", "righteye"),
    ],
)
def test_pairs_by_name(left: str, right: str) -> None:
    skeleton = make_skeleton("x", ("nose", right, left), ((0, 1), (0, 2), (1, 2)))
    assert find_pairs(skeleton.joints) == ((1, 2),) and skeleton.flip_indices == (0, 2, 1)
    assert skeleton.colors == (RIGHT_COLOR, LEFT_COLOR, CENTER_COLOR)


def test_names_that_are_no_pairs() -> None:
    assert find_pairs(("left_eye", "nose", "right_ear", "ball", "barr", "Left Knee", "left_knee", "right_knee")) == ((6, 7),)


@pytest.mark.parametrize("known", BUILTIN_SKELETONS)
def test_parts_that_follow_from_names_and_edges(known: Skeleton) -> None:
    skeleton = make_skeleton(known.name, known.joints, known.edges, groups=known.groups)
    assert skeleton.flip_indices == known.flip_indices
    assert skeleton.colors == known.colors if known.has_flip_pairs else len(set(skeleton.colors)) == len(known.edges)


def test_pairs_that_names_do_not_tell_are_left_and_right() -> None:
    skeleton = make_skeleton("ship", ("bow", "port", "starboard"), ((0, 1), (0, 2)), flip_pairs=((1, 2),))
    assert skeleton.colors == (LEFT_COLOR, RIGHT_COLOR) and skeleton.flip_indices == (0, 2, 1)


@pytest.mark.parametrize(
    ("joints", "parts"),
    [
        ((), {}),
        (("a", "a"), {}),
        (("a", "b\ud800"), {}),
        (("a", "b\x1b[31m"), {}),
        (("a", "b"), {"flip_pairs": ((0, 0),)}),
        (("a", "b"), {"flip_pairs": ((0, 2),)}),
    ],
)
def test_parts_that_make_no_skeleton(joints: tuple[str, ...], parts: dict[str, tuple[tuple[int, int], ...]]) -> None:
    with pytest.raises(ValueError, match="skeleton x"):
        make_skeleton("x", joints, (), **parts)


FULL_LISTS = [
    "left_eye right_eye LF_paw RF_paw LH_paw RH_paw",
    "leftEye rightEye eye_left eye_right L-ear R-ear lefthip righthip",
    "rank lank rkne lkne rhip lhip rwri lwri relb lelb rsho lsho",  # LSP's usual abbreviations
    "eye.L eye.R eye.L.001 eye.R.001 mixamorig:LeftArm mixamorig:RightArm",
    "FL FR RL RR",
    "LF RF LR RR",
    "forelegL1 forelegR1 forelegL2 forelegR2",
    "lf_paw rf_paw lh_paw rh_paw LPIP RPIP LMCP RMCP",
    "eyel eyer earl earr top_left top_right TL TR",
    "左眼 右眼 左_耳 右_耳",
    "left_eye r_eye",
]
"""Names of which each has the opposite of its neighbor: pairs (0, 1), (2, 3), …"""


@pytest.mark.parametrize("names", FULL_LISTS)
@pytest.mark.parametrize("order", [1, -1])
def test_every_usual_spelling_of_sides_is_paired(names: str, order: int) -> None:
    joints = [*names.split(), "nose", "rear", "root", "lip"][::order]
    count = len(names.split())
    pairs = {frozenset(names.split()[n : n + 2]) for n in range(0, count, 2)}
    assert {frozenset((joints[a], joints[b])) for a, b in find_pairs(joints)} == pairs
    assert not find_unpaired(joints)


@pytest.mark.parametrize(
    "names",
    [
        "rump root rear lip limb nose tail ear",
        "lamp ramp",
        "lock rock nose",
        "L1 L2 L3 L4 L5 T1 S1 left_hip right_hip",  # vertebrae
        "P Q R S T",
        "A B C D L M R",
        "cleft bright upright leftover",
        "left_right_center left_hip right_hip",
        "1 2 3 4",
        "Nearknee Offknee",
    ],
)
def test_names_without_sides_are_neither_paired_nor_refused(names: str) -> None:
    joints = names.split()
    assert {joints[joint] for pair in find_pairs(joints) for joint in pair} <= {"left_hip", "right_hip"}
    assert not find_unpaired(joints)


@pytest.mark.parametrize(
    ("names", "unpaired"),
    [
        ("left_eye right_eye LF_paw RF_paw LH_paw tail", ["LH_paw"]),
        ("left_eye right_eye left_paw paw_right", ["left_paw", "paw_right"]),
        ("leye reye nose lhip", ["lhip"]),
        ("left_eye nose right_ear", ["left_eye", "right_ear"]),
        ("forelegL1 forelegR1 forelegL2", ["forelegL2"]),
        ("FL FR RL", ["RL"]),
        ("L_elbow l_elbow r_elbow", ["L_elbow"]),
    ],
)
def test_a_side_without_partner_is_a_problem_with_the_pairs_to_paste(names: str, unpaired: list[str]) -> None:
    skeleton = make_skeleton("x", names.split())
    assert [skeleton.joints[joint] for joint in find_unpaired(skeleton.joints)] == unpaired
    problem = find_sides_problem(skeleton)
    assert all(repr(joint) in problem for joint in unpaired) and "--skeleton" in problem
    pasted = yaml.safe_load(problem.partition("complete '")[2].partition("' in")[0])["flip_pairs"]
    assert [tuple(map(skeleton.joints.index, pair)) for pair in pasted] == list(find_pairs(skeleton.joints))
    pairs = [(joint, other) for joint, other in enumerate(skeleton.flip_indices) if joint < other]
    rest = [joint for joint, name in enumerate(skeleton.joints) if name in unpaired]
    completed = make_skeleton("x", names.split(), flip_pairs=[*pairs, *zip(rest[::2], rest[1::2])])
    assert bool(find_sides_problem(completed)) == bool(len(rest) % 2)


def test_one_line_says_what_a_mirrored_image_swaps() -> None:
    skeleton = make_skeleton("cat", ("left_eye", "right_eye", "nose", "LF_paw", "RF_paw"))
    assert describe_flip(skeleton) == "a mirrored image swaps left_eye/right_eye, LF_paw/RF_paw; not nose"
    assert describe_flip(HAND21) == "a mirrored image swaps no joints of hand21"
    many = make_skeleton(
        "many", [f"{side}_{n}" for n in range(30) for side in ("left", "right")] + [f"tail{n}" for n in range(14)]
    )
    assert "left_11/right_11 and 18 more pairs; not tail0" in describe_flip(many) and describe_flip(many).endswith("and 2 more")
