"""Skeletons: left and right by joint names, and invalid skeletons."""

from __future__ import annotations

import numpy as np
import pytest

from hgfast.skeletons import (
    BODY16,
    BUILTIN_SKELETONS,
    CENTER_COLOR,
    HAND21,
    LEFT_COLOR,
    RIGHT_COLOR,
    Skeleton,
    infer_flip_pairs,
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
    assert infer_flip_pairs(skeleton.joints) == ((1, 2),) and skeleton.flip_indices == (0, 2, 1)
    assert skeleton.colors == (RIGHT_COLOR, LEFT_COLOR, CENTER_COLOR)


def test_names_that_are_no_pairs() -> None:
    assert infer_flip_pairs(("left_eye", "nose", "right_ear", "ball", "barr", "Left Knee", "left_knee", "right_knee")) == (
        (6, 7),
    )


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
    [((), {}), (("a", "a"), {}), (("a", "b"), {"flip_pairs": ((0, 0),)}), (("a", "b"), {"flip_pairs": ((0, 2),)})],
)
def test_parts_that_make_no_skeleton(joints: tuple[str, ...], parts: dict[str, tuple[tuple[int, int], ...]]) -> None:
    with pytest.raises(ValueError, match="skeleton x"):
        make_skeleton("x", joints, (), **parts)
