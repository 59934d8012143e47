"""Labels that are wrong as a whole are errors, single ones are named, and right ones of many shapes cause neither."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from hgfast.errors import HgfastError
from hgfast.pipelines.checks.shared_images import shared_images
from hgfast.pipelines.readers.coco import CocoOptions, CocoSamples, read_coco, validation_mask

WIDTH, HEIGHT = 320, 240
JOINTS = ["nose", "tail", "left_paw", "right_paw"]
Content = dict[str, Any]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image_folder")
    rng = np.random.default_rng(0)
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.jpg"), rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    return folder


def animals() -> Content:
    """Twelve animals, each in an image of its own, whose joints lie in boxes that lie in the images."""
    rng = np.random.default_rng(5)
    annotations = []
    for number in range(12):
        box = np.array([rng.uniform(20, 170), rng.uniform(20, 120), rng.uniform(60, 120), rng.uniform(50, 90)]).round(1)
        inner = np.concatenate([[[0.1, 0.1], [0.9, 0.9]], rng.uniform(0.1, 0.9, (2, 2))])
        points = (box[:2] + inner * box[2:]).round(1)
        annotations.append(
            {
                "id": 10 + number,
                "image_id": number,
                "category_id": 1,
                "bbox": box.tolist(),
                "keypoints": np.column_stack([points, [2, 2, 1, 2]]).ravel().tolist(),
            }
        )
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(12)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat", "keypoints": JOINTS, "skeleton": [[1, 2]]}],
    }


def read(root: Path, image_folder: Path, content: Content, **options: Any) -> CocoSamples:
    (root / "points.json").write_text(json.dumps(content))
    return read_coco(root / "points.json", image_folder, CocoOptions(**options))


def map_points(content: Content, change: Callable[[Any], Any], rows: slice = slice(None)) -> None:
    for entry in content["annotations"][rows]:
        table = np.array(entry["keypoints"]).reshape(-1, 3)
        table[:, :2] = change(table[:, :2])
        entry["keypoints"] = table.ravel().tolist()


def map_boxes(content: Content, change: Callable[[Any], Any], rows: slice = slice(None)) -> None:
    for entry in content["annotations"][rows]:
        entry["bbox"] = np.asarray(change(np.array(entry["bbox"]))).tolist()


def test_right_labels_cause_no_note(tmp_path: Path, image_folder: Path) -> None:
    samples = read(tmp_path, image_folder, animals())
    assert samples.notes == () and len(samples) == 12


SIZE = np.array([WIDTH, HEIGHT])


def to_corners(box: Any) -> Any:
    return np.concatenate([box[:2], box[:2] + box[2:]])


def to_center(box: Any) -> Any:
    return np.concatenate([box[:2] + box[2:] / 2, box[2:]])


MISTAKES: list[tuple[str, Callable[[Any], Any] | None, Callable[[Any], Any] | None, str]] = [
    ("normalized", lambda p: p / SIZE, lambda b: b / np.tile(SIZE, 2), "12 of 12 annotations have coordinates that look"),
    ("normalized", lambda p: p / SIZE, None, "coordinates that look normalized"),
    ("normalized", None, lambda b: b / np.tile(SIZE, 2), "have a bbox that looks normalized"),
    ("percent", lambda p: p / SIZE * 100, lambda b: b / np.tile(SIZE, 2) * 100, "the coordinates look like percent"),
    ("box-format", None, to_corners, "the boxes look like two corners.*give --box-format xyxy"),
    ("box-format", None, to_center, "the boxes look like their center, width and height.*give --box-format cxcywh"),
    ("outside-image", lambda p: p * 2, lambda b: b * 2, "labeled joints lie outside of their image .*were resized"),
    ("outside-image", lambda p: p + SIZE, lambda b: b + np.array([WIDTH, HEIGHT, 0, 0]), "48 of 48 labeled joints lie"),
    ("outside-box", lambda p: (p - SIZE / 2) * [-1, 1] + SIZE / 2, lambda b: b / [1, 1, 4, 4], "outside of the square around"),
    ("box-size", None, lambda b: np.concatenate([b[:2] + b[2:] / 2 - 1, [2, 2]]), "12 of 12 annotations have a bbox of at most"),
    ("box-size", None, lambda b: b * 10, "box|bbox"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "points", "boxes", "sentence"), MISTAKES)
def test_a_mistake_of_the_whole_file_is_an_error(
    name: str, points: Any, boxes: Any, sentence: str, tmp_path: Path, image_folder: Path
) -> None:
    content = animals()
    if points is not None:
        map_points(content, points)
    if boxes is not None:
        map_boxes(content, boxes)
    with pytest.raises(HgfastError, match=sentence) as error:
        read(tmp_path, image_folder, content)
    assert "points.json" in str(error.value) and "if that is right, give --allow" in str(error.value)
    every = ("normalized", "percent", "box-format", "box-size", "outside-box", "outside-image")
    samples = read(tmp_path, image_folder, content, allow=every)
    assert len(samples) == 12 and samples.notes


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_of_one_annotation_is_named(number: int, tmp_path: Path, image_folder: Path) -> None:
    _, points, boxes, _ = MISTAKES[number]
    content = animals()
    if points is not None:
        map_points(content, points, slice(3, 4))
    if boxes is not None:
        map_boxes(content, boxes, slice(3, 4))
    notes = " ".join(read(tmp_path, image_folder, content).notes)
    # a single box in another format may still hold its joints, and percent of one annotation may be pixels
    assert "annotation 13" in notes or (points is None and "corners" in MISTAKES[number][3]) or MISTAKES[number][0] == "percent"


@pytest.mark.parametrize(("name", "change"), [("xyxy", to_corners), ("cxcywh", to_center)])
def test_other_box_formats(name: str, change: Callable[[Any], Any], tmp_path: Path, image_folder: Path) -> None:
    expected = read(tmp_path, image_folder, animals())
    content = animals()
    map_boxes(content, change)
    samples = read(tmp_path, image_folder, content, box_format=name)
    assert np.allclose(samples.center, expected.center) and np.allclose(samples.side, expected.side) and samples.notes == ()


def test_missing_joints_at_the_origin_and_repeated_annotations(tmp_path: Path, image_folder: Path) -> None:
    content = animals()
    for entry in content["annotations"][:2]:
        entry["keypoints"][:3] = [0, 0, 2]
    content["annotations"].append({**content["annotations"][4], "id": 99})
    notes = read(tmp_path, image_folder, content).notes
    assert any(note.startswith("2 labeled joints lie at exactly (0, 0)") for note in notes)
    assert any("1 of 13 annotations repeat" in note and "(annotation 99 that of annotation 14)" in note for note in notes)


def test_images_of_another_size_than_the_file_gives(tmp_path: Path, image_folder: Path) -> None:
    content = animals()
    content["images"][3].update(width=640, height=480)
    (note,) = read(tmp_path, image_folder, content).notes
    assert (
        note.startswith("1 of 12 images are not of the size that the file gives") and "320 x 240, in the file 640 x 480" in note
    )
    for image in content["images"]:
        image.update(width=640, height=480)
    with pytest.raises(HgfastError, match=r"12 of 12 images are not of the size.*--allow image-size"):
        read(tmp_path, image_folder, content)
    for image in content["images"]:
        image.update(width="0", height=None)  # unknown
    assert read(tmp_path, image_folder, content).notes == ()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_of_images_whose_exif_rotation_the_tool_ignored(orientation: int, tmp_path: Path) -> None:
    """Pillow turns the image; the labeled pixel keeps its color."""
    stored = np.zeros((40, 64, 3), np.uint8)
    stored[10:13, 50:53] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    Image.fromarray(stored).save(tmp_path / "images/a.jpg", exif=exif, quality=95)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 40}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 5, 20, 12], "keypoints": [51, 11, 2, 42, 6, 2, 58, 15, 2]}
        ],
        "categories": [{"id": 1, "name": "dot", "keypoints": ["dot", "a", "b"]}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("points.json").write_text(json.dumps(content))
        (note, *_) = read_coco(Path("points.json"), Path("images"), CocoOptions(allow=["outside-image"])).notes
        assert "1 images are rotated by EXIF" in note and "--exif ignore" in note
        samples = read_coco(Path("points.json"), Path("images"), CocoOptions(exif="ignore"))
    upright = np.asarray(cv2.imread(str(tmp_path / "images/a.jpg")))
    x, y = np.floor(samples.keypoints[0, 0]).astype(int)
    assert upright[y, x].min() > 128 and samples.notes == ()
    assert samples.size.tolist() == [[upright.shape[1], upright.shape[0]]]
    box_low, box_high = samples.center[0] - samples.side[0] / 2, samples.center[0] + samples.side[0] / 2
    assert (samples.keypoints[0] > box_low).all() and (samples.keypoints[0] < box_high).all()


# ---- names of images ----


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("./sub/caf\u00e9 1.jpg", ""),
        ("sub//caf\u00e9 1.jpg", ""),
        ("sub\\caf\u00e9 1.jpg", ""),
        ("sub/x/../caf\u00e9 1.jpg", ""),
        ("{folder}/sub/caf\u00e9 1.jpg", ""),
        ("sub/cafe\u0301 1.jpg", "another Unicode form"),
        ("sub/caf%C3%A9%201.jpg", "percent-encoded"),
        ("SUB/Caf\u00e9 1.JPG", "another case"),
        ("images/sub/caf\u00e9 1.jpg", "the folder of the images itself"),
        ("images\\sub\\cafe\u0301%201.JPG", "another case"),
    ],
)
def test_names_of_images_are_resolved(name: str, note: str, tmp_path: Path, image_folder: Path) -> None:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    target = folder / "sub/caf\u00e9 1.jpg"
    shutil.copy(image_folder / "0.jpg", target)
    content = animals()
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    content["images"][0]["file_name"] = name.format(folder=folder.resolve())
    samples = read(tmp_path, folder, content)
    assert samples.paths.tolist() == [str(target)]
    assert (len(samples.notes), note in " ".join(samples.notes)) == (bool(note), True)


def test_another_case_is_not_taken_for_a_file_of_another_image(tmp_path: Path, image_folder: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(image_folder / "0.jpg", folder / "a.jpg")
    content = animals()
    content["images"], content["annotations"] = content["images"][:2], content["annotations"][:2]
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "a.jpg", "A.jpg"
    with pytest.raises(HgfastError, match=r"1 of 2 images are missing in .*, the first A\.jpg"):
        read(tmp_path, folder, content)


# ---- shapes of entries ----


def test_entries_as_tools_write_them(tmp_path: Path, image_folder: Path) -> None:
    expected = read(tmp_path, image_folder, animals())
    content = animals()
    first, second, third, fourth, fifth = content["annotations"][:5]
    first["keypoints"] = np.array(first["keypoints"]).reshape(-1, 3).tolist()
    second["keypoints"] = [str(value) for value in second["keypoints"]]
    third.update(iscrowd="0", category_id="1", image_id=2.0, num_keypoints=0)
    fourth.update(iscrowd=None, image_id="3", id="13")
    del fifth["category_id"]
    content["images"][5]["id"] = 5.0
    content["images"].append(dict(content["images"][6]))
    samples = read(tmp_path, image_folder, content)
    assert np.array_equal(samples.keypoints, expected.keypoints) and np.array_equal(samples.side, expected.side)
    assert samples.row.tolist() == expected.row.tolist() and samples.paths.tolist() == expected.paths.tolist()
    assert samples.notes == (
        "1 images are listed more than once under one id",
        "1 annotations have num_keypoints 0 although joints are labeled (annotation 12: 4 by their v); their v counts",
    )


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e300])
def test_coordinates_of_unlabeled_joints_may_be_anything(value: Any, tmp_path: Path, image_folder: Path) -> None:
    content = animals()
    content["annotations"][0]["keypoints"][3:6] = [value, value, 0]
    content["annotations"][1]["keypoints"][3:6] = [None, None, None]
    samples = read(tmp_path, image_folder, content)
    assert not samples.labeled[0, 1] and not samples.labeled[1, 1] and samples.labeled.sum() == 46 and samples.notes == ()
    content["annotations"][0]["keypoints"][5] = 2
    with pytest.raises(HgfastError, match=r"keypoints of annotation 10 holds .* for a labeled joint"):
        read(tmp_path, image_folder, content)


def test_an_unclear_crowd_is_refused(tmp_path: Path, image_folder: Path) -> None:
    content = animals()
    content["annotations"][2]["iscrowd"] = "perhaps"
    with pytest.raises(HgfastError, match='iscrowd of annotation 12 is "perhaps", wanted 0 or 1; correct it'):
        read(tmp_path, image_folder, content)


def test_flat_boxes_are_those_of_the_joints(tmp_path: Path, image_folder: Path) -> None:
    content = animals()
    for entry, size in zip(content["annotations"], ([0, 0], [0, 50], [50, 0])):
        entry["bbox"][2:] = size
    samples = read(tmp_path, image_folder, content)
    points = np.array([entry["keypoints"] for entry in content["annotations"][:3]]).reshape(3, 4, 3)[..., :2] + 0.5
    assert np.allclose(samples.center[:3], (points.min(1) + points.max(1)) / 2)
    assert np.allclose(samples.side[:3], 1.25 * (points.max(1) - points.min(1)).max(1))
    assert samples.notes == ("3 annotations have a bbox without an area (annotation 10); that of their joints is used",)


def test_categories_with_the_same_joints_are_read_together(tmp_path: Path, image_folder: Path) -> None:
    content = animals()
    content["categories"].append({"id": 2, "name": "dog", "keypoints": JOINTS, "skeleton": [[1, 3]]})
    for entry in content["annotations"][::2]:
        entry["category_id"] = 2
    samples = read(tmp_path, image_folder, content)
    assert len(samples) == 12 and samples.summary == "12 samples of cat, dog"
    dogs = read(tmp_path, image_folder, content, category=["dog"])
    assert dogs.row.tolist() == list(range(10, 22, 2)) and dogs.excluded == {"of other categories (category_id 1)": 6}


# ---- train and valid ----


def test_a_fraction_of_the_images_to_validate_on() -> None:
    names = [f"clip{clip}/{frame:03d}.jpg" for clip in range(20) for frame in range(5) for _person in range(2)]
    mask, group = validation_mask(names, 0.2, None)
    valid = {name for name, chosen in zip(names, mask) if chosen}
    assert len(valid) == 20 and not valid & {name for name, chosen in zip(names, mask) if not chosen}
    assert len(set(group)) == 100
    again, _ = validation_mask(names[::-1], 0.2, None)
    assert (again[::-1] == mask).all()
    mask, group = validation_mask(names, 0.2, r"clip(\d+)")
    clips = {name.split("/")[0] for name, chosen in zip(names, mask) if chosen}
    assert len(clips) == 4 and mask.sum() == 40 and len(set(group)) == 20
    assert not clips & {name.split("/")[0] for name, chosen in zip(names, mask) if not chosen}
    assert (validation_mask(names, 0.2, r"^clip\d+")[0].sum(), validation_mask(names, 1e-6, None)[0].sum()) == (40, 2)
    for pattern, sentence in (
        ("(", "is not a regular"),
        ("scene", "does not occur in the image name 'clip0/000.jpg'"),
        ("clip", "one group"),
    ):
        with pytest.raises(HgfastError, match=sentence):
            validation_mask(names, 0.2, pattern)


def test_images_of_two_splits(tmp_path: Path, image_folder: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    shutil.copytree(image_folder, tmp_path / "images")
    shutil.copy(image_folder / "2.jpg", tmp_path / "images/copy.jpg")
    content = animals()
    train = read(tmp_path / "one", tmp_path / "images", {**content, "annotations": content["annotations"][:6]})
    content["images"][8]["file_name"] = "copy.jpg"
    valid = read(tmp_path / "two", tmp_path / "images", {**content, "annotations": content["annotations"][5:]})
    by_path, by_content = shared_images(train, valid)
    assert by_path.startswith("1 of 7 images to validate on are also trained on (the first ") and "5.jpg" in by_path
    assert by_content.startswith("1 of 7 images to validate on are copies of images to train on (the first ")
    assert "copy.jpg" in by_content and "2.jpg" in by_content
    assert shared_images(train, valid, max_images=3) == [by_path]
    assert shared_images(train, valid.take(valid.row > 18)) == []
