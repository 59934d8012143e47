"""The COCO reader: conventions, excluded annotations, skeletons, real files against the FreiHAND reader, broken files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hgfast.errors import HgfastError
from hgfast.metrics import pck, pck_metrics
from hgfast.pipelines.baselines import mean_pose
from hgfast.pipelines.readers.coco import CocoOptions, CocoSamples, read_coco
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.image_paths import AllowedRoots, find_images
from hgfast.skeletons import BODY16, CENTER_COLOR, HAND21, LEFT_COLOR, RIGHT_COLOR
from tests.conftest import shared_path

Content = dict[str, Any]
JOINTS = ["nose", "left_eye", "right_eye"]


def person(number: int, image: Any, **parts: Any) -> Content:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": 3,
        "bbox": [10, 20, 40, 20],
        "keypoints": [12, 30, 2, 22, 25, 1, 18, 22, 2],
        **parts,
    }


def content() -> Content:
    """Two people in one image, one in another image in a sub-folder."""
    return {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "train/deep/b.jpg"}],
        "annotations": [person(100, 7), person(101, 9, bbox=[0.5, 0, 10, 30.5]), person(102, 7)],
        "categories": [{"id": 1, "name": "face", "keypoints": JOINTS, "skeleton": [[1, 2], [1, 3], [2, 3]]}],
    }


def read(root: Path, file: Any, skeleton: Any = None, **options: Any) -> CocoSamples:
    """Read `file` (JSON, or raw text) with empty files as images."""
    (root / "images/train/deep").mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "train/deep/b.jpg"):
        (root / "images" / name).touch()
    (root / "points.json").write_text(file if isinstance(file, str) else json.dumps(file))
    if skeleton is not None:
        (root / "face.yaml").write_text(skeleton)
        options["skeleton"] = root / "face.yaml"
    return read_coco(root / "points.json", root / "images", CocoOptions(**options))


def test_conventions(tmp_path: Path) -> None:
    file = content()
    file["annotations"][1]["keypoints"] = [0, 0, 0, 3.25, 4, 1, 5, 6, 2]
    samples = read(tmp_path, file)
    assert [Path(path).relative_to(tmp_path / "images").as_posix() for path in samples.paths] == [
        "a.jpg",
        "train/deep/b.jpg",
        "a.jpg",
    ]
    assert samples.keypoints[0].tolist() == [[12.5, 30.5], [22.5, 25.5], [18.5, 22.5]]
    assert samples.keypoints[1, 1].tolist() == [3.75, 4.5]
    assert samples.labeled.tolist() == [[True] * 3, [False, True, True], [True] * 3]  # 1 is labeled too
    assert samples.center.tolist() == [[30, 30], [5.5, 15.25], [30, 30]]  # the box has no offset
    assert samples.side.tolist() == [50, 1.25 * 30.5, 50]
    assert samples.reference.tolist() == [40, 30.5, 40]
    assert samples.group[0] == samples.group[2] != samples.group[1]
    assert (samples.pixel_offset, samples.skipped, samples.excluded, samples.summary) == (0.5, 0, {}, "3 samples")


def test_rows_are_the_ids_of_the_annotations(tmp_path: Path) -> None:
    file = content()
    file["annotations"].insert(1, person(7, 7, iscrowd=1))
    assert read(tmp_path, file).row.tolist() == [100, 101, 102]
    (tmp_path / "images/a.jpg").unlink()
    assert read_coco(tmp_path / "points.json", tmp_path / "images", CocoOptions(skip_missing=True)).row.tolist() == [101]


@pytest.mark.parametrize("ids", [[100, "x7", 8, 9], [100, None, 8, 9], [100, 8, 8, 9], [100, 7.5, 8, 9], [1, 2, 3, 2**70]])
def test_rows_are_positions_if_ids_are_unusable(tmp_path: Path, ids: list[Any]) -> None:
    file = content()
    file["annotations"].insert(1, person(0, 7, iscrowd=1))
    for annotation, value in zip(file["annotations"], ids):
        annotation["id"] = value
        if value is None:
            del annotation["id"]
    assert read(tmp_path, file).row.tolist() == [0, 2, 3]


def test_offset_and_padding_are_choices(tmp_path: Path) -> None:
    samples = read(tmp_path, content(), pixel_offset=0, padding=2)
    assert samples.keypoints[0, 0].tolist() == [12, 30] and samples.pixel_offset == 0
    assert samples.side.tolist() == [80, 61, 80] and samples.center[0].tolist() == [30, 30]


def test_missing_box_is_that_of_the_labeled_joints(tmp_path: Path) -> None:
    file = content()
    del file["annotations"][0]["bbox"]
    file["annotations"][2].update(bbox=None, keypoints=[900, 900, 0, 10, 20, 1, 14, 30, 2])
    samples = read(tmp_path, file)
    assert samples.center[[0, 2]].tolist() == [[17.5, 26.5], [12.5, 25.5]]
    assert samples.side[[0, 2]].tolist() == [12.5, 12.5] and samples.reference[2] == 10


def test_excluded_annotations_are_counted(tmp_path: Path) -> None:
    file = content()
    file["categories"].append({"id": 2, "name": "dog"})
    file["annotations"] += [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
        person(2, 7, iscrowd=1, keypoints=None),
        person(3, 7, num_keypoints=0, keypoints=[0] * 9),
        person(4, 7, keypoints=[5, 5, 0] * 3),
        person(5, 7, keypoints=[]),
        person(6, 7, bbox=None, keypoints=[5, 5, 2, *[0] * 6]),  # the box of a single point
    ]
    samples = read(tmp_path, file)
    assert len(samples) == 3
    assert samples.excluded == {
        "of other categories (category_id 2)": 1,
        "crowds": 1,
        "without keypoints": 1,
        "without a labeled joint": 2,
        "without an extent": 1,
    }
    assert samples.summary == (
        "3 samples; left out: 1 of other categories (category_id 2), 1 crowds, 1 without keypoints, 2 without a labeled joint, "
        "1 without an extent"
    )
    with_box = read(tmp_path, file, box_size=20)
    assert len(with_box) == 4 and (with_box.center[3].tolist(), with_box.side[3]) == ([5.5, 5.5], 25)
    assert "1 annotations whose box and joints have no extent have a box of 20 pixels" in with_box.notes
    file["annotations"] = [person(3, 7, keypoints=[5, 5, 0] * 3), person(6, 7, bbox=None, keypoints=[5, 5, 2, *[0] * 6])]
    with pytest.raises(HgfastError, match=r"to use \(1 without a labeled joint, 1 without an extent\): give --box-size"):
        read(tmp_path, file)
    del file["annotations"][1]
    with pytest.raises(HgfastError, match="all v are 0: set those of labeled joints to 2"):
        read(tmp_path, file)


def test_missing_images(tmp_path: Path) -> None:
    file = content()
    file["images"] += [{"id": 11, "file_name": "c.jpg"}, {"id": 12, "file_name": "nowhere/d.jpg"}, {"id": 13, "file_name": "e"}]
    file["annotations"][:0] = [person(1, 11), person(2, 12)]  # image 13 has no annotation
    with pytest.raises(HgfastError, match=r"^2 of 4 images are missing in .*images, the first c.jpg, nowhere/d.jpg: put them"):
        read(tmp_path, file)
    samples = read(tmp_path, file, skip_missing=True)
    assert (len(samples), samples.skipped) == (3, 2)
    assert samples.side.tolist() == [50, 1.25 * 30.5, 50]
    assert samples.summary == "3 samples (2 more without their image)"


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a.jpg", "train/../../a.jpg", "", "a.jpg/", ".", "..\\a", "a\0", "\ud800"],
)
def test_image_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    file = content()
    file["images"][1]["file_name"] = name
    for skip in (False, True):
        with pytest.raises(HgfastError, match=r"which is no plain name of a file in .*images or its sub-folders"):
            read(tmp_path, file, skip_missing=skip)


def test_images_are_found_without_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/{number}.jpg" for folder in ("one", "two/three") for number in range(50)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed: list[Path] = []
    resolved: list[Path] = []
    scandir, realpath = os.scandir, os.path.realpath
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
        patched.setattr(os.path, "realpath", lambda path: resolved.append(Path(path)) or realpath(path))
        for method in ("stat", "exists", "is_file", "resolve"):
            patched.setattr(Path, method, lambda *_: pytest.fail("a file was accessed"))
        paths, exists = find_images(tmp_path, [*names, "two/absent.jpg"], True, "")
    assert set(resolved) == {tmp_path / folder for folder in ("", "one", "two", "two/three")}
    assert len(paths) == 100 and exists.tolist() == [True] * 100 + [False]
    assert sorted(listed) == sorted(tmp_path / folder for folder in ("", "one", "two", "two/three"))


def test_links_are_followed_where_they_may_lead(tmp_path: Path) -> None:
    """tests/robustness/test_hostile.py has more such tests."""
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jpg").touch()
    (tmp_path / "images/train").symlink_to(tmp_path / "elsewhere")
    for bounds in (AllowedRoots(root=tmp_path), AllowedRoots(outside=True)):
        assert find_images(tmp_path / "images", ["train/a.jpg"], False, "", bounds)[1].all()
    with pytest.raises(HgfastError, match=r"a\.jpg, the image of sample 0, is a link that leads out of the data"):
        find_images(tmp_path / "images", ["train/a.jpg"], False, "")


def test_two_joints_as_the_length(tmp_path: Path) -> None:
    file = content()
    file["annotations"][0]["keypoints"] = [12, 30, 2, 22, 25, 1, 18, 22, 2]
    file["annotations"][1]["keypoints"] = [12, 30, 2, 0, 0, 0, 18, 22, 2]
    file["annotations"][2]["keypoints"] = [12, 30, 2, 18, 22, 1, 18, 22, 2]  # distance 0
    samples = read(tmp_path, file, normalize="left_eye, right_eye")
    assert samples.reference == pytest.approx([5, np.nan, np.nan], nan_ok=True)
    found = samples.keypoints + np.array([[[0.6, 0.8]], [[1e3, 0]], [[1e3, 0]]])  # both others would be misses
    assert pck(found, samples.keypoints, samples.labeled, samples.reference, 0.21).total == 1
    table = pck_metrics(found, samples.keypoints, samples.labeled, samples.reference)
    assert list(table) == ["pck@0.05", "pck@0.1", "pck@0.2", "epe_px"]
    assert table["pck@0.1"] == 0 and table["epe_px"] == pytest.approx((3 * 1 + 2 * 1e3 + 3 * 1e3) / 8)
    for normalize, sentence in (
        ("left_eye", "by 'box' or by two joints such as .*, not 'left_eye'"),
        ("nose,nose", "not 'nose,nose'"),
        ("nose,left_ey", r"unknown joint 'left_ey' \(did you mean left_eye\?\); there are nose, left_eye, right_eye"),
    ):
        with pytest.raises(HgfastError, match=sentence):
            read(tmp_path, file, normalize=normalize)
    del file["annotations"][0]
    with pytest.raises(HgfastError, match="no sample has both joints 'left_eye,right_eye' labeled, apart: normalize by 'box'"):
        read(tmp_path, file, normalize="left_eye,right_eye")


def test_the_skeleton_of_the_category(tmp_path: Path) -> None:
    skeleton = read(tmp_path, content()).skeleton
    assert (skeleton.name, skeleton.joints) == ("face", tuple(JOINTS))
    assert skeleton.edges == ((0, 1), (0, 2), (1, 2)) and skeleton.flip_indices == (0, 2, 1)
    assert skeleton.colors == (LEFT_COLOR, RIGHT_COLOR, CENTER_COLOR)


@pytest.mark.parametrize("known", [HAND21, BODY16])
def test_known_skeletons_are_recognized(tmp_path: Path, known: Any) -> None:
    file = content()
    file["categories"][0].update(keypoints=list(known.joints), skeleton=[[1, 2]])
    for annotation in file["annotations"]:
        annotation.update(keypoints=[20, 30, 2] * len(known.joints), bbox=[10, 20, 40, 20])
    assert read(tmp_path, file).skeleton is known


def test_of_several_categories_the_one_in_use(tmp_path: Path) -> None:
    file = content()
    file["categories"].insert(0, {"id": 5, "name": "hand", "keypoints": ["wrist"], "skeleton": []})
    assert read(tmp_path, file).skeleton.name == "face"
    file["annotations"].append(person(1, 7, category_id=5, keypoints=[20, 30, 2]))
    sentence = r"different joints \(hand with 1 joints, face with 3 joints\): choose one with --category hand"
    with pytest.raises(HgfastError, match=sentence):
        read(tmp_path, file)
    assert len(read(tmp_path, file, category=["face"])) == 3 and len(read(tmp_path, file, category=["5"])) == 1
    with pytest.raises(HgfastError, match=r"no category 'fase' \(did you mean face\?\) with keypoints"):
        read(tmp_path, file, category=["fase"])


YAML = """
name: mask
joints: [tip, left_corner, right_corner]
edges: [[tip, left_corner], [right_corner, tip]]
flip_pairs: [[left_corner, right_corner]]
groups: {corners: [left_corner, right_corner]}
colors: [[1, 2, 3], [4, 5, 6]]
"""


def test_a_skeleton_from_yaml(tmp_path: Path) -> None:
    skeleton = read(tmp_path, content(), YAML).skeleton
    assert (skeleton.name, skeleton.joints) == ("mask", ("tip", "left_corner", "right_corner"))
    assert (skeleton.edges, skeleton.flip_indices, skeleton.colors) == (((0, 1), (2, 0)), (0, 2, 1), ((1, 2, 3), (4, 5, 6)))
    assert skeleton.groups == (("corners", (1, 2)),)
    short = read(tmp_path, content(), "joints: [tip, left_corner, right_corner]").skeleton
    assert (short.name, short.flip_indices, short.edges, short.groups) == ("face", (0, 2, 1), (), ())
    assert not read(tmp_path, content(), "joints: [a, left_b, right_b]\nflip_pairs: []").skeleton.has_flip_pairs


def test_with_yaml_the_file_need_not_name_joints(tmp_path: Path) -> None:
    file = content()
    file["categories"] = [{"id": 1, "name": "face"}]
    assert len(read(tmp_path, file, YAML)) == 3
    del file["categories"]
    assert len(read(tmp_path, file, YAML)) == 3
    with pytest.raises(HgfastError, match=r"no category has keypoints: name them in the file, or in .*of --skeleton$"):
        read(tmp_path, file)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("joint: [a]", r"face\.yaml: unknown key 'joint' \(did you mean joints\?\); it may hold name, joints"),
        (YAML.replace("edges: [[tip", "edges: [[top"), r"face\.yaml: edges: unknown joint 'top' \(did you mean tip\?\)"),
        (YAML.replace("{corners: [left", "{corners: [lef"), r"groups: unknown joint 'lef_corner' \(did you mean left_corner"),
        (YAML.replace("[4, 5, 6]", "[4, 5, 256]"), "colors must be a list of three whole numbers from 0 to 255"),
        (YAML.replace(", [4, 5, 6]", ""), "every edge must have a color; correct it"),
        (YAML.replace("[[left_corner, right_corner]]", "[left_corner, right_corner]"), "flip_pairs must be a list of pairs"),
        (YAML.replace("[[left_corner, right_corner]]", "[[left_corner, left_corner]]"), "pairs must name its joints, each once"),
        (YAML.replace("[[left_corner, right_corner]]", "[[left_corner, [tip]]]"), "flip_pairs: unknown joint"),
        (YAML.replace("{corners:", "{one: [left_corner], two:"), "no joint be in two groups; correct it"),
        ("joints: [a, b, no]", "joints: False is not a name; names are text, in quotes"),
        ("joints: [a, b, ]\nname: 3", "name must be text, not 3"),
        ("joints: [a, b, a]", "two joints are called 'a'"),
        ("joints: {a: b}", "joints must be a list of names"),
        ("name: x", "joints must be a list of names"),
        ("joints: [a, b", "is not valid YAML"),
        ("joints: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("- a", "must hold lines such as"),
        ("joints: [a, b]", r"face\.yaml has 2 joints, .*points\.json has 3: name them all, in its order"),
        ("joints: [nose, right_eye, left_eye]", "in another order: use the order nose, left_eye, right_eye"),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(HgfastError, match=sentence) as caught:
        read(tmp_path, content(), text)
    assert "\n" not in str(caught.value)


def with_change(part: str, row: int, **changes: Any) -> Callable[[Content], Content]:
    """Replace entries of a row; `...` removes them."""

    def change(file: Content) -> Content:
        file[part][row].update(changes)
        file[part][row] = {key: value for key, value in file[part][row].items() if value is not ...}
        return file

    return change


def with_keypoints(*values: Any) -> Callable[[Content], Content]:
    return with_change("annotations", 1, keypoints=[*values, 1, 1, 2, 3, 3, 2])


BAD: list[tuple[Callable[[Content], Any], str]] = [
    (lambda _: "{", r"points\.json is cut off after 1 characters"),
    (lambda _: "[" * 100000, r"points\.json is not valid JSON"),
    (lambda _: [], "is not a COCO annotation file: wanted a mapping"),
    (lambda file: {**file, "annotations": {}}, "annotations must be a list of mappings"),
    (lambda file: {**file, "images": [1]}, "images must be a list of mappings"),
    (lambda file: {**file, "annotations": []}, "has no annotation to use: label joints in it"),
    (lambda file: {key: file[key] for key in ("annotations", "categories")}, "has no 'images'"),
    (with_change("categories", 0, keypoints=[]), "no category has keypoints"),
    (with_change("categories", 0, keypoints="nose"), "'face': keypoints must be a list of names"),
    (with_change("categories", 0, keypoints=["a", "b", True]), "'face': keypoints: True is not a name"),
    (with_change("categories", 0, keypoints=["a", "b", " "]), "'face': keypoints: ' ' is not a name"),
    (with_change("categories", 0, keypoints=["a", "b", None]), "'face': keypoints: None is not a name"),
    (with_change("categories", 0, keypoints=["a", "b", "a"]), "two joints are called 'a'"),
    (with_change("categories", 0, id=...), "the category 'face' has no id"),
    (with_change("categories", 0, id=4), r"no annotation to use \(3 of other categories \(category_id 1\)\)"),
    (with_change("annotations", 1, image_id=3), "annotation 101 belongs to image 3, which is not listed"),
    (with_change("annotations", 1, image_id=...), "annotation 101 has no image_id that is"),
    (with_change("annotations", 1, image_id=[9]), "annotation 101 has no image_id that is"),
    (with_change("annotations", 1, keypoints="x", id=...), "keypoints of annotation number 1 is no list"),
    (with_change("annotations", 1, keypoints="x"), "keypoints of annotation 101 is no list"),
    (
        with_change("annotations", 1, keypoints=[1, 2, 2] * 2),
        r"6 numbers \(x and y of each joint without v\?\), wanted 9",
    ),
    (with_keypoints(float("nan"), 1, 2), "keypoints of annotation 101 holds NaN, which is not a finite number of pixels"),
    (with_keypoints(float("inf"), 1, 2), "annotation 101 holds Infinity"),
    (with_keypoints(10**400, 1, 2), "annotation 101 holds 1000"),
    (with_keypoints(-(2**63), 1, 2), "annotation 101 holds -922"),
    (with_keypoints("one", 1, 2), 'annotation 101 holds "one", which is not a finite number'),
    (with_keypoints(None, 1, 2), "annotation 101 holds null"),
    (with_keypoints([1], 1, 2), r"annotation 101 holds \[1\]"),
    (with_keypoints(True, 1, "2"), "annotation 101 holds true"),
    (with_keypoints(1, 1, 0.9), "annotation 101 has a v that is not 0, 1 or 2"),
    (with_keypoints(1, 1, -1), "annotation 101 has a v that is not 0, 1 or 2"),
    (with_change("annotations", 1, bbox=[1, 2, 3]), "bbox of annotation 101 holds 3 numbers, wanted 4: x, y, width, height"),
    (with_change("annotations", 1, bbox=[1, 2, -3, 4]), "the bbox of annotation 101 has a negative size"),
    (with_change("annotations", 1, bbox=[1, float("nan"), 3, 4]), "bbox of annotation 101 holds NaN"),
    (with_change("annotations", 1, bbox=[[1], [2], [3], [4]]), r"bbox of annotation 101 holds \[1\]"),
    (with_change("images", 1, id=7), "two images have the id 7; give each a unique id"),
    (with_change("images", 1, id=...), "image number 1 has no id that is"),
    (with_change("images", 1, id={}), "image number 1 has no id that is"),
    (with_change("images", 1, file_name=...), "image 9 has no file_name; add it"),
    (with_change("images", 1, file_name=3), "the file_name of image 9 is 3, not text; correct it"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_broken_files(tmp_path: Path, change: Callable[[Content], Any], sentence: str) -> None:
    with pytest.raises(HgfastError, match=sentence) as caught:
        read(tmp_path, change(content()))
    assert "points.json" in str(caught.value) and "\n" not in str(caught.value)


def test_every_bad_row_alone(tmp_path: Path) -> None:
    """If all boxes are nested lists, the table would still have the right number of entries."""
    file = content()
    for annotation in file["annotations"]:
        annotation["bbox"] = [[1], [2], [3], [4]]
    with pytest.raises(HgfastError, match=r"bbox of annotation 100 holds \[1\]"):
        read(tmp_path, file)


def test_absent_files_and_bad_numbers(tmp_path: Path) -> None:
    with pytest.raises(HgfastError, match="there is no folder of images"):
        read_coco(tmp_path / "x.json", tmp_path / "nowhere")
    with pytest.raises(HgfastError, match=r"there is no file of COCO annotations .*x\.json: name the JSON file"):
        read_coco(tmp_path / "x.json", tmp_path)
    with pytest.raises(HgfastError, match=r"the skeleton .*x\.yaml cannot be read: No such file"):
        read(tmp_path, content()) and read_coco(tmp_path / "points.json", tmp_path, CocoOptions(skeleton=tmp_path / "x.yaml"))
    for options in ({"padding": 0}, {"padding": float("nan")}, {"pixel_offset": float("inf")}):
        with pytest.raises(HgfastError, match="must be above 0 and the pixel offset"):
            read(tmp_path, content(), **options)


@pytest.mark.real_data
def test_the_same_real_hands_as_the_freihand_reader() -> None:
    root = shared_path("fixtures/freihand_coco")
    hands = read_coco(root / "keypoints.json", root / "images", CocoOptions(pixel_offset=0))
    official = read_freihand(shared_path("fixtures/FreiHAND_pub_v2_mini"), "all")
    assert hands.skeleton is official.skeleton and hands.excluded == {}
    numbers = [int(Path(path).stem) for path in hands.paths]  # the mini set has two ids instead of 32560
    rows = [number // 32560 * 2 + (number % 32560 == 17620) for number in numbers]
    assert sorted(rows) == list(range(8))
    assert [int(Path(path).stem) for path in official.paths[rows]] == rows
    assert [Path(path).read_bytes() for path in hands.paths] == [Path(path).read_bytes() for path in official.paths[rows]]
    assert np.allclose(hands.keypoints, official.keypoints[rows], rtol=0, atol=1e-9)


@pytest.mark.real_data
def test_real_people() -> None:
    root = shared_path("fixtures/lspet_coco")
    train, valid = (
        read_coco(root / f"{split}.json", root / "images", CocoOptions(normalize="left_shoulder,right_hip"))
        for split in ("train", "val")
    )
    assert (len(train), len(valid), len(train.skeleton.joints), train.excluded, valid.excluded) == (3600, 400, 14, {}, {})
    assert train.skeleton == valid.skeleton
    swap = list(range(14))
    for one, other in ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)):
        swap[one], swap[other] = other, one
    assert list(train.skeleton.flip_indices) == swap
    assert np.isfinite(valid.reference).sum() == 292  # the others lack a shoulder or a hip
    table = pck_metrics(mean_pose(train, valid), valid.keypoints, valid.labeled, valid.reference)
    assert table["pck@0.2"] == pytest.approx(0.048, abs=0.001)
