"""Skeletons of COCO categories as people write them, the shipped skeletons, and sides that refuse to train."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hgfast.errors import HgfastError
from hgfast.joint_sides import find_unpaired
from hgfast.pipelines.checks.result import CheckConfig
from hgfast.pipelines.checks.run import check, exit_code, format_report
from hgfast.pipelines.readers.coco import CocoOptions, CocoSamples, read_coco
from hgfast.pipelines.readers.skeleton_yaml import SHIPPED, read_skeleton, sides_problem, skeleton_from_category
from hgfast.skeletons import make_skeleton

CROWDPOSE = [
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck"),
]


def write_set(folder: Path, joints: list[Any] | None, **category: Any) -> Path:
    """Write two different images with one annotation each, all joints labeled; returns the JSON file."""
    number = len(joints) if joints else category.pop("number")
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / "images" / name), np.full((80, 96, 3), 90, np.uint8))
    points = [value for n in range(number) for value in (20 + 45 * n / number, 15 + (17 * n) % 50, 2)]
    entry = {"category_id": 1, "bbox": [18, 13, 50, 54], "keypoints": points, "iscrowd": 0}
    file = {
        "images": [{"id": n, "file_name": name, "width": 96, "height": 80} for n, name in enumerate(("a.png", "b.png"))],
        "annotations": [{"id": n, "image_id": n, **entry} for n in range(2)],
        "categories": [{"id": 1, "name": "cat", **({"keypoints": joints} if joints else {}), **category}],
    }
    (folder / "train.json").write_text(json.dumps(file))
    return folder / "train.json"


def read(folder: Path, skeleton: str | None = None) -> CocoSamples:
    options = CocoOptions(skeleton=None if skeleton is None else Path(skeleton))
    return read_coco(folder / "train.json", folder / "images", options)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([[0, 1], [0, 2], [0, 3]], "names joint 0"),
        ([[32, 33], [4, 3]], "names joint 33"),
        ([[1, 2], [3, 5]], "names joint 5"),
        ([[-1, 2]], "names joint -1"),
        ([[1, 2, 3]], "holds [1, 2, 3], which is not a pair"),
        ([[1, None]], "holds [1, null]"),
        ([[1, "ear"]], 'holds [1, "ear"]'),
        ([1, 2], "holds 1"),
        ("1-2", "is not a list of pairs"),
    ],
)
def test_edges_that_are_not_of_these_joints_are_left_out_with_a_note(tmp_path: Path, edges: Any, words: str) -> None:
    write_set(tmp_path, ["nose", "tail", "left_paw", "right_paw"], skeleton=edges)
    samples = read(tmp_path)
    assert samples.skeleton.edges == () and samples.skeleton.flip_indices == (0, 1, 3, 2)
    (note,) = samples.notes
    assert words in note and "the edges are left out; --skeleton" in note


@pytest.mark.parametrize(
    "edges", [[[1, 2], [2, 4]], [[1.0, 2.0], [2, 4.0]], [["1", "2"], ["2", "4"]], [["nose", "tail"], ["tail", "right_paw"]]]
)
def test_edges_are_numbers_from_1_in_any_type_or_names(tmp_path: Path, edges: Any) -> None:
    write_set(tmp_path, ["nose", "tail", "left_paw", "right_paw"], skeleton=edges)
    samples = read(tmp_path)
    assert samples.skeleton.edges == ((0, 1), (1, 3)) and samples.notes == ()


def test_crowdpose_has_the_edges_of_coco_and_the_note_names_its_own(tmp_path: Path) -> None:
    write_set(tmp_path, CROWDPOSE, skeleton=[[16, 14], [14, 12], [17, 15], [6, 12], [10, 11]])
    (note,) = read(tmp_path).notes
    assert "names joint 17" in note and note.endswith("such as --skeleton crowdpose")
    own = read(tmp_path, "crowdpose")
    assert own.notes == () and own.skeleton.joints == tuple(CROWDPOSE)
    assert {frozenset((own.skeleton.joints[a], own.skeleton.joints[b])) for a, b in own.skeleton.edges} >= {
        frozenset(("left_shoulder", "left_elbow")),
        frozenset(("right_knee", "right_ankle")),
        frozenset(("head", "neck")),
    }


@pytest.mark.parametrize("names", [[1, 2, 3, 4], ["1", "2", "3", "4"], [1.5, "2", "a ", 4]])
def test_names_that_are_numbers_are_text(tmp_path: Path, names: list[Any]) -> None:
    write_set(tmp_path, names, skeleton=[[1, 2], [1, 3]])
    samples = read(tmp_path)
    assert samples.skeleton.joints == tuple(str(name).strip() for name in names) and samples.skeleton.edges == ((0, 1), (0, 2))


def test_a_file_without_names_takes_a_shipped_skeleton_by_its_name_alone(tmp_path: Path) -> None:
    write_set(tmp_path, None, number=98)
    with pytest.raises(HgfastError, match=r"no category has keypoints: .* the 98 joints are those of .*give --skeleton wflw"):
        read(tmp_path)
    skeleton = read(tmp_path, "wflw").skeleton
    assert (skeleton.name, len(skeleton.joints), skeleton.joints[16]) == ("wflw", 98, "jaw_center")
    assert skeleton.flip_indices[:3] == (32, 31, 30) and skeleton.flip_indices[96:] == (97, 96)
    with pytest.raises(HgfastError, match=r"no skeleton 'wflv' \(did you mean wflw\?\): name a YAML file, or one of 300w"):
        read(tmp_path, "wflv")
    with pytest.raises(HgfastError, match=r"98|294"):
        read(tmp_path, "cofw")


def test_annotations_with_other_joints_than_their_category_take_a_skeleton_of_their_number(tmp_path: Path) -> None:
    file = write_set(tmp_path, CROWDPOSE)
    content = json.loads(file.read_text())
    content["categories"][0]["keypoints"] += ["left_toe", "right_toe"]  # as Human-Art, with 17 joints of 21 names
    file.write_text(json.dumps(content))
    assert read(tmp_path, "crowdpose").skeleton.joints == tuple(CROWDPOSE)
    with pytest.raises(HgfastError, match="has 17 joints"):
        read(tmp_path, "coco")


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_skeletons_pair_all_sides_and_cite_their_source(file: Path) -> None:
    skeleton = read_skeleton(Path(file.stem))
    assert skeleton == read_skeleton(file) and not find_unpaired(skeleton.joints)
    assert re.match(r"# .*(http|et al|\.org)", file.read_text().partition("joints:")[0], re.DOTALL)
    for joint, name in enumerate(skeleton.joints):
        other = skeleton.joints[skeleton.flip_indices[joint]]
        swapped = name.lower().replace("left", "·").replace("right", "left").replace("·", "right")
        assert other.lower() == swapped
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert {frozenset(skeleton.flip_indices[joint] for joint in edge) for edge in edges} == edges or file.stem == "atrw"


def test_shipped_faces_are_symmetric_in_the_order_of_their_outline() -> None:
    """The jaw is a chain from one ear to the other: its flip is the reversed chain; those of eyes and lips turn the other way."""
    for name, jaw in (("300w", 17), ("wflw", 33), ("lapa", 33)):
        flips = read_skeleton(Path(name)).flip_indices
        assert flips[:jaw] == tuple(range(jaw))[::-1]
    ibug = read_skeleton(Path("300w")).flip_indices
    assert [ibug[n] for n in (17, 21, 31, 36, 39, 41, 48, 54, 57, 60, 66)] == [26, 22, 35, 45, 42, 46, 54, 48, 57, 64, 66]


def test_a_category_without_a_name_is_a_skeleton(tmp_path: Path) -> None:
    skeleton, notes = skeleton_from_category({"id": 3, "keypoints": ["a", "b"], "skeleton": None}, tmp_path)
    assert (skeleton.joints, skeleton.edges, notes) == (("a", "b"), (), ())


def test_check_fails_for_half_recognized_sides_unless_yaml_states_the_pairs(tmp_path: Path) -> None:
    write_set(tmp_path, ["left_eye", "right_eye", "LF_paw", "RH_paw"])
    config = CheckConfig(dataset="coco", annotations=tmp_path / "train.json", images=tmp_path / "images", loader="opencv")
    findings = check(config)
    report = "\n".join(format_report(config, findings))
    assert exit_code(config, findings) == 1 and "a mirrored image swaps left_eye/right_eye; not LF_paw, RH_paw" in report
    assert "'LF_paw', 'RH_paw' tell a side" in report and """flip_pairs: [["left_eye", "right_eye"]]""" in report
    assert exit_code(replace(config, allow=["sides"]), findings) == 0
    (tmp_path / "cat.yaml").write_text(
        """joints: [left_eye, right_eye, LF_paw, RH_paw]\nflip_pairs: [["left_eye", "right_eye"], [LF_paw, RH_paw]]\n"""
    )
    config = replace(config, skeleton=tmp_path / "cat.yaml")
    findings = check(config)
    report = "\n".join(format_report(config, findings))
    assert exit_code(config, findings) == 0 and "a mirrored image swaps left_eye/right_eye, LF_paw/RH_paw" in report
    assert "tell a side" not in report
    one = make_skeleton("x", ("left_eye", "right_eye", "left_paw"), flip_pairs=((0, 1),))
    assert sides_problem(one, None) and not sides_problem(one, tmp_path / "cat.yaml")
