"""The reader of MPII's original file against that of the h5 files made from it, on synthetic and real people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

from hgfast.errors import HgfastError
from hgfast.pipelines.readers import mpii_mat
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.readers.mpii_mat import describe_row, read_mpii_mat, valid_names, valid_people
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16
from tests.conftest import shared_path

Array = NDArray[Any]
Fields = dict[str, Any]
NOTHING = np.zeros((0, 0))
VISIBLE: list[Any] = [NOTHING, 0.0, 1.0, np.uint8(0), np.uint8(1), "0", "1"]
"""Forms of is_visible in the original file: missing, a number, a letter. Joints use the seven forms in turn."""


def structs(*elements: Fields) -> Array:
    """Return a MATLAB struct array (1, N). Elements share their fields; fields that an element lacks are empty."""
    names = list(dict.fromkeys(name for element in elements for name in element))
    array = np.empty((1, len(elements)), [(name, object) for name in names])
    for i, element in enumerate(elements):
        for name in names:
            array[0, i][name] = element.get(name, NOTHING)
    return array


def cells(values: Sequence[Any]) -> Array:
    """Return a MATLAB cell array (N, 1)."""
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def points(part: Array, labeled: Array, forms: Sequence[Any] = VISIBLE, start: int = 0) -> Array:
    """Return annopoints: a point per labeled joint, with visibility in one of the forms except for neck and head top."""
    records = []
    for joint in np.flatnonzero(labeled)[::-1]:
        point: Fields = {"x": part[joint, 0], "y": part[joint, 1], "id": float(joint)}
        if forms and joint not in (8, 9):
            point["is_visible"] = forms[(start + joint) % len(forms)]
        records.append(point)
    return structs({"point": structs(*records)})


def person(annopoints: Any, objpos: Sequence[float], scale: float, box: Sequence[float] = (10, 20, 40, 60)) -> Fields:
    return {
        **dict(zip(("x1", "y1", "x2", "y2"), map(float, box))),
        "annopoints": annopoints,
        "scale": float(scale),
        "objpos": structs({"x": float(objpos[0]), "y": float(objpos[1])}),
    }


def annolist_entry(name: str, annorect: Any, test: bool = False, single: Any = NOTHING) -> Fields:
    return {"image": structs({"name": name}), "annorect": annorect, "test": test, "single": single}


def release(images: Sequence[Fields]) -> Fields:
    """Return the struct RELEASE without unused fields."""
    annolist = structs(*({"image": p["image"], "annorect": p["annorect"], "frame_sec": NOTHING} for p in images))
    trained = np.array([[not p["test"] for p in images]], np.uint8)
    return {"annolist": annolist, "img_train": trained, "single_person": cells([p["single"] for p in images])}


def write(path: Path, images: Sequence[Fields]) -> Path:
    savemat(path, {"RELEASE": release(images)}, do_compression=True)
    return path


COMPLETE_PERSON = person(points(np.full((16, 2), 50.25), np.ones(16, bool)), (60, 70), 0.5)
"""A complete and ordinary person."""
INCOMPLETE_PEOPLE: list[Fields] = [
    {**COMPLETE_PERSON, "annopoints": NOTHING},
    {**COMPLETE_PERSON, "annopoints": structs({"point": NOTHING})},
    {**COMPLETE_PERSON, "annopoints": structs({"point": structs({"x": NOTHING, "y": NOTHING, "id": NOTHING})})},
    {**COMPLETE_PERSON, "objpos": NOTHING},
    {**COMPLETE_PERSON, "objpos": structs({"x": NOTHING, "y": NOTHING})},
    {**COMPLETE_PERSON, "scale": NOTHING},
    {**COMPLETE_PERSON, "x2": NOTHING},
]
"""People who lack one of the required fields."""
WITHOUT_ANNOTATION = [
    [{name: value for name, value in COMPLETE_PERSON.items() if name != missing}]
    for missing in ("annopoints", "objpos", "scale", "y1")
]
"""Images whose people all lack a field, so that the struct array lacks it."""
EMPTY = [
    *(
        annolist_entry(f"nobody{i}.jpg", structs(*people))
        for i, people in enumerate([*([one] for one in INCOMPLETE_PEOPLE), *WITHOUT_ANNOTATION])
    ),
    annolist_entry("none.jpg", NOTHING),
    annolist_entry("noone.jpg", np.empty((0, 0), [("scale", object)])),
    annolist_entry("test.jpg", structs(COMPLETE_PERSON), test=True),
    annolist_entry("test_as_published.jpg", structs({"scale": 2.0, "objpos": structs({"x": 5.0, "y": 6.0})}), test=True),
    annolist_entry("test_none.jpg", NOTHING, test=True),
]
"""Images without annotated people, or without usable ones."""


def annolist_images(rows: dict[str, Array], rng: np.random.Generator) -> tuple[list[Fields], Array]:
    """Return the images behind rows of an h5 file, with other people between them, and the joints' fractions."""
    labeled = (rows["part"] != 0).any(-1)
    fractions = rng.uniform(0, 0.999, rows["part"].shape) * labeled[..., None]
    images: dict[str, list[Fields]] = {}
    for i, name in enumerate(rows["imgname"]):
        people = images.setdefault(name.decode(), [])
        while len(people) < rows["person"][i]:
            people.append(INCOMPLETE_PEOPLE[(i + len(people)) % len(INCOMPLETE_PEOPLE)])
        scale = rows["scale"][i] / 1.25
        forms = [VISIBLE, [], VISIBLE[1:3], ["1"], [NOTHING]][i % 5]
        angle, diagonal = rng.uniform(0, 6.28), rows["normalize"][i] / 0.6
        box = (100.0, 90.0, 100 + diagonal * np.cos(angle), 90 + diagonal * np.sin(angle))
        annopoints = points(rows["part"][i] + fractions[i], labeled[i], forms, i)
        people.append(person(annopoints, rows["center"][i] - (0, 15 * scale), scale, box))
    return [annolist_entry(name, structs(*people)) for name, people in images.items()], fractions


def rows_of(path: Path) -> dict[str, Array]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def assert_same(ours: Samples, h5: Samples, atol: float = 1e-9) -> None:
    """Assert that everything except the keypoints is equal."""
    assert np.array_equal(ours.paths, h5.paths)
    assert np.allclose(ours.center, h5.center, rtol=0, atol=atol)
    assert np.allclose(ours.side, h5.side, rtol=0, atol=atol * 100)
    assert np.allclose(ours.reference, h5.reference, rtol=0, atol=1e-9)
    assert np.array_equal(ours.labeled, h5.labeled) and np.array_equal(ours.group, h5.group)
    assert ours.skeleton is h5.skeleton and ours.pixel_offset == h5.pixel_offset and ours.skipped == h5.skipped


@pytest.fixture(scope="module")
def synthetic_release(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Array]]:
    """The original file of the synthetic people, and the fractions that the h5 files truncate, per split."""
    rng = np.random.default_rng(8)
    train, cut_train = annolist_images(rows_of(people / "annot/train.h5"), rng)
    valid, cut_valid = annolist_images(rows_of(people / "annot/valid.h5"), rng)
    images = [*EMPTY[:4], *valid[:5], *EMPTY[4:], *train, *valid[5:]]
    return write(tmp_path_factory.mktemp("mat") / "mpii.mat", images), {"train": cut_train, "valid": cut_valid}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_like_the_h5_files(people: Path, synthetic_release: tuple[Path, dict[str, Array]], split: str) -> None:
    names = valid_names(people / "annot/valid.h5")
    ours, h5 = read_mpii_mat(synthetic_release[0], people / "images", split, names), read_mpii(people, split)
    assert_same(ours, h5)
    assert len(np.unique(ours.group)) < len(ours), "several people in an image"
    assert not ours.labeled.all() and (rows_of(people / f"annot/{split}.h5")["visible"][ours.labeled] == 0).any()
    cut = synthetic_release[1][split]
    assert cut.max() > 0.9 and np.allclose(ours.keypoints, h5.keypoints + cut, rtol=0, atol=1e-9)


@pytest.mark.real_data
def test_like_the_h5_file_on_real_people(tmp_path: Path) -> None:
    root = shared_path("fixtures/mpii")
    rows = {name: values[:5] for name, values in rows_of(root / "annot/valid.h5").items()}
    exact = loadmat(root / "annot/detections_our_format.mat")
    boxes = exact["headboxes_src"].transpose(2, 0, 1)[:5].round().reshape(5, 4)  # whole numbers, stored with five digits
    published = json.loads((root / "mmpose_val5.json").read_text())
    others = {
        Path(name).name: entry["annotations"]
        for name, entry in json.loads((root / "mpii_sample_annotations.json").read_text())["images"].items()
    }
    images = [annolist_entry(f"other{i}.jpg", NOTHING, test=True) for i in range(40)]
    for i, one in enumerate(published):
        name = Path(one["image"]).name
        [noted] = others[name]
        people = [INCOMPLETE_PEOPLE[k] for k in range(int(rows["person"][i]))]
        annopoints = points(np.array(one["joints"]), np.array(one["joints_vis"]) == 1)
        people.append(person(annopoints, noted["objpos"], one["scale"], boxes[i]))
        images[int(rows["index"][i])] = annolist_entry(name, structs(*people))
    ours = read_mpii_mat(write(tmp_path / "mpii.mat", images), root / "images", "valid", list(others))
    h5 = read_mpii(root, "valid", skip_missing=True)
    assert (ours.skipped, h5.skipped) == (0, 2953)
    h5 = replace(h5, skipped=0, group=np.unique(h5.group, return_inverse=True)[1])
    assert_same(ours, h5, atol=1e-4)  # mmpose stores scale with six digits
    assert np.array_equal(ours.row, 1000 * rows["index"] + rows["person"]) and h5.row.tolist() == [0, 1, 2, 3, 4]
    above = (ours.keypoints - h5.keypoints)[ours.labeled]
    assert (above > -1e-3).all() and (above < 1).all() and above.max() > 0.5
    float_truth = exact["pos_gt_src"].transpose(2, 0, 1)[:5]
    assert np.allclose((ours.keypoints + 0.5 - float_truth)[ours.labeled], 0, atol=1e-3)
    pairs = valid_people(root / "annot/valid.h5")
    assert len(set(pairs)) == len(valid_names(root / "annot/valid.h5")) == 2958
    chosen = read_mpii_mat(tmp_path / "mpii.mat", root / "images", "valid", list(others), only_people=pairs[:5])
    assert np.array_equal(chosen.keypoints, ours.keypoints)


def folder(tmp_path: Path, names: Sequence[str] = ("a.jpg", "b.jpg", "c.jpg")) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name in names:
        cv2.imwrite(str(images / name), np.zeros((4, 4, 3), np.uint8))
    return images


def test_conventions(tmp_path: Path) -> None:
    part, labeled = np.arange(32.0).reshape(16, 2) + 1.75, np.ones(16, bool)
    labeled[5] = False
    part[3] = 1, 1  # the center of the first pixel
    twice = structs({"point": structs(*({"x": x, "y": 7.0, "id": np.uint8(2)} for x in (4.0, 5.0)))})
    mat = write(
        tmp_path / "mpii.mat",
        [
            annolist_entry("a.jpg", structs(person(points(part, labeled), (100, 200), 2, (3, 4, 33, 44)))),
            annolist_entry("b.jpg", structs(person(twice, (1, 1), 1), person(points(part, labeled), (5, 5), 1))),
            annolist_entry("c.jpg", structs(COMPLETE_PERSON)),
        ],
    )
    samples = read_mpii_mat(mat, folder(tmp_path), "train", ["c.jpg", "c.jpg"])
    assert [Path(path).name for path in samples.paths] == ["a.jpg", "b.jpg", "b.jpg"]
    assert samples.center[0].tolist() == [99.5, 229.5] and samples.side[0] == 500 and samples.reference[0] == 0.6 * 50
    assert samples.keypoints[0, 3].tolist() == [0.5, 0.5] and samples.keypoints[0, 4].tolist() == [9.25, 10.25]
    assert np.flatnonzero(~samples.labeled[0]).tolist() == [5]
    assert np.flatnonzero(samples.labeled[1]).tolist() == [2] and samples.keypoints[1, 2].tolist() == [3.5, 6.5]
    assert samples.group[1] == samples.group[2] != samples.group[0]
    assert samples.skeleton is BODY16 and samples.pixel_offset == -0.5
    assert samples.row.tolist() == [0, 1000, 1001]
    assert [describe_row(row) for row in samples.row] == [
        "RELEASE.annolist(1).annorect(1)", "RELEASE.annolist(2).annorect(1)", "RELEASE.annolist(2).annorect(2)",
    ]  # fmt: skip


def test_chosen_and_separated_people(tmp_path: Path) -> None:
    people = [person(points(np.full((16, 2), float(i)), np.ones(16, bool)), (50, 50), 1) for i in range(1, 5)]
    mat = write(
        tmp_path / "mpii.mat",
        [
            annolist_entry("t.jpg", structs(COMPLETE_PERSON), test=True, single=1.0),
            annolist_entry("a.jpg", structs(*people), single=np.array([[1], [3]], np.uint8)),
            annolist_entry("b.jpg", structs(*people[:2]), single=np.nan),
            annolist_entry("c.jpg", structs(people[0]), single=NOTHING),
        ],
    )
    images = folder(tmp_path)

    def who(split: str, **options: Any) -> list[tuple[str, int]]:
        samples = read_mpii_mat(mat, images, split, ["a.jpg", "b.jpg"], **options)
        return [(Path(p).stem, round(k[0, 0] + 0.5)) for p, k in zip(samples.paths, samples.keypoints)]

    assert who("valid") == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("b", 2)]
    assert who("valid", only_people=[("b.jpg", 1), ("a.jpg", 0), ("a.jpg", 3)]) == [("a", 1), ("a", 4), ("b", 2)]
    assert who("train", only_people=[("b.jpg", 1)]) == [("c", 1)], "the list is about validation"
    assert who("valid", single_person=True) == [("a", 1), ("a", 3)]
    some = read_mpii_mat(mat, images, "valid", ["a.jpg", "b.jpg"], only_people=[("b.jpg", 1), ("a.jpg", 3)])
    assert some.row.tolist() == [1003, 2001]  # the test image counts
    with pytest.raises(HgfastError, match=r"^1 of the 2 people chosen .*mpii\.mat, the first number 2 \(from 0\) in b\.jpg"):
        who("valid", only_people=[("b.jpg", 1), ("b.jpg", 2)])


def test_missing_images(tmp_path: Path) -> None:
    mat = write(tmp_path / "mpii.mat", [annolist_entry(f"{name}.jpg", structs(COMPLETE_PERSON)) for name in "abcd"])
    images = folder(tmp_path)
    with pytest.raises(HgfastError, match=r"1 of 3 images are missing in .*images, the first d\.jpg"):
        read_mpii_mat(mat, images, "train", ["a.jpg"])
    samples = read_mpii_mat(mat, images, "train", ["a.jpg"], skip_missing=True)
    assert (len(samples), samples.skipped, samples.row.tolist()) == (2, 1, [1000, 2000])
    with pytest.raises(HgfastError, match="there is no folder of images"):
        read_mpii_mat(mat, tmp_path / "nowhere", "train", ["a.jpg"])


def test_validation_list_must_match_the_file(tmp_path: Path) -> None:
    annolist = [
        annolist_entry("a.jpg", structs(COMPLETE_PERSON)),
        annolist_entry("b.jpg", structs(COMPLETE_PERSON)),
        annolist_entry("c.jpg", NOTHING, test=True),
    ]
    mat, images = write(tmp_path / "mpii.mat", annolist), folder(tmp_path)
    with pytest.raises(HgfastError, match=r"mpii\.mat does not say which images are for validation: give the list, valid\.h5 or"):
        read_mpii_mat(mat, images, "train", None)
    with pytest.raises(HgfastError, match=r"2 of its 3 names, the first 'c\.jpg', are no training images"):
        read_mpii_mat(mat, images, "train", ["x.jpg", "a.jpg", "c.jpg"])
    with pytest.raises(HgfastError, match="it names no training images"):
        read_mpii_mat(mat, images, "train", [])
    with pytest.raises(HgfastError, match="annotates nobody in the train split"):
        read_mpii_mat(mat, images, "train", ["a.jpg", "b.jpg"])
    with pytest.raises(HgfastError, match="MPII has the splits train and valid, not 'test'"):
        read_mpii_mat(mat, images, "test", ["a.jpg"])


GOOD = [
    annolist_entry("a.jpg", structs(COMPLETE_PERSON), single=1.0),
    annolist_entry("b.jpg", structs(COMPLETE_PERSON), single=1.0),
]


def person_with(**fields: Any) -> Fields:
    """Return a valid release with a second person in b.jpg, who differs in `fields`."""
    return release([GOOD[0], annolist_entry("b.jpg", structs(COMPLETE_PERSON, {**COMPLETE_PERSON, **fields}), single=1.0)])


def person_without(name: str) -> Fields:
    return {key: value for key, value in release(GOOD).items() if key != name}


ONE = np.ones(16, bool)
BAD: list[tuple[Any, str]] = [
    (np.zeros((3, 3)), "holds no struct RELEASE"),
    (person_without("annolist"), r"has no RELEASE\.annolist"),
    (person_without("img_train"), r"has no RELEASE\.img_train"),
    (person_without("single_person"), r"has no RELEASE\.single_person with a list for each of the 2"),
    ({**release(GOOD), "img_train": np.ones((1, 3))}, "each of the 2 images of annolist, but has 3"),
    ({**release(GOOD), "single_person": cells([1.0])}, r"has no RELEASE\.single_person with"),
    (
        {**release(GOOD), "annolist": structs({"annorect": NOTHING}, {"annorect": NOTHING})},
        r"annolist\(1\)\.image\.name is missing",
    ),
    (release([GOOD[0], annolist_entry("", NOTHING)]), r"annolist\(2\)\.image\.name is missing or no text"),
    (person_with(scale=0.0), r"annolist\(2\)\.annorect\(2\) has a scale of 0 and a head box of 50 px"),
    (person_with(x1=40.0, y1=60.0), r"annolist\(2\)\.annorect\(2\) has a scale of 0\.5 and a head box of 0 px"),
    (person_with(x1=np.nan), r"annolist\(2\)\.annorect\(2\) has a number that is not finite"),
    (person_with(annopoints=points(np.full((16, 2), np.inf), ONE)), r"annorect\(2\) has a number that is not finite"),
    (
        person_with(annopoints=structs({"point": structs({"x": 1.0, "y": 1.0, "id": 16.0})})),
        r"a point with the id 16, wanted 0 to 15",
    ),
    (person_with(annopoints=structs({"point": structs({"x": 1.0, "y": 1.0, "id": 1.5})})), r"a point with the id 1\.5"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD)
def test_broken_content(tmp_path: Path, content: Any, sentence: str) -> None:
    mat, images = tmp_path / "mpii.mat", folder(tmp_path)
    separated = "single_person" in sentence
    assert len(read_mpii_mat(write(mat, GOOD), images, "train", ["a.jpg"], single_person=separated)) == 1
    savemat(mat, {"RELEASE": content})
    with pytest.raises(HgfastError, match=sentence) as caught:
        read_mpii_mat(mat, images, "train", ["a.jpg"], single_person=separated)
    assert str(mat) in str(caught.value) and str(caught.value).endswith("mpii_human_pose_v1_u12_1.mat")


def test_too_many_people_in_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpii_mat, "MAX_PEOPLE", 3)
    mat = write(tmp_path / "mpii.mat", [annolist_entry("a.jpg", structs(*[COMPLETE_PERSON] * 4)), GOOD[1]])
    with pytest.raises(HgfastError, match=r"annolist\(1\) has 4 people, more than 3: unpack .*mpii_human_pose_v1_u12_1.mat"):
        read_mpii_mat(mat, folder(tmp_path), "train", ["a.jpg"])


def test_files_of_another_kind(tmp_path: Path) -> None:
    images, mat = folder(tmp_path), tmp_path / "mpii.mat"
    good = write(tmp_path / "good.mat", GOOD).read_bytes()

    def refused() -> str:
        with pytest.raises(HgfastError) as caught:
            read_mpii_mat(mat, images, "train", ["a.jpg"])
        return str(caught.value)

    assert "there is no MPII annotation file" in refused()
    for content in (b"", b"no MATLAB at all " * 40, good[:100], good[: len(good) // 2], good[:-9]):
        mat.write_bytes(content)
        assert "cannot be read as a MATLAB file" in refused()
    with h5py.File(mat, "w") as file:
        file["RELEASE"] = 1
    assert "is HDF5 (MATLAB's version 7.3)" in refused()
    savemat(mat, {"something": 1})
    assert "holds no struct RELEASE" in refused()


def make_h5(path: Path, **columns: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def test_validation_lists(tmp_path: Path) -> None:
    text, h5 = tmp_path / "valid_images.txt", tmp_path / "valid.h5"
    text.write_bytes(b"005808361.jpg\r\n005808361.jpg\n\n  052475643.jpg")
    names = ["005808361.jpg", "005808361.jpg", "052475643.jpg"]
    assert valid_names(text) == names
    make_h5(h5, imgname=np.array(names, "S13"), person=np.array([0.0, 2.0, 1.0]))
    assert valid_names(h5) == names
    assert valid_people(h5) == list(zip(names, [0, 2, 1]))


NAMES = np.array([b"a.jpg", b"b.jpg"])
LISTS: list[tuple[Callable[[Path], list[Any]], Callable[[Path], object], str]] = [
    (valid_names, lambda path: None, r"there is no list of validation images .*list: give valid\.h5 or valid_images\.txt"),
    (valid_names, lambda path: path.mkdir(), "there is no list of validation images"),
    (valid_names, lambda path: path.write_bytes(b"\xff\xfe\x81"), "is neither HDF5 nor a text file with a name a line"),
    (valid_names, lambda path: path.write_text(" \n\n"), "names no images"),
    (valid_names, lambda path: make_h5(path, person=[1]), "has no data set 'imgname'"),
    (valid_names, lambda path: make_h5(path, imgname=np.ones(3)), "imgname must be a list of file names"),
    (valid_names, lambda path: make_h5(path, imgname=NAMES[:0]), "names no images"),
    (valid_people, lambda path: None, r"list is missing: give valid\.h5"),
    (
        valid_people,
        lambda path: path.write_text("a.jpg\n"),
        r"list is no HDF5 file, so it cannot say which people: give valid\.h5",
    ),
    (valid_people, lambda path: make_h5(path, imgname=NAMES), "has no data set 'person'"),
    (valid_people, lambda path: make_h5(path, imgname=NAMES, person=[1.0]), "person must hold 2 whole numbers"),
    (valid_people, lambda path: make_h5(path, imgname=NAMES, person=[1.0, 0.5]), "person must hold 2 whole numbers"),
    (valid_people, lambda path: make_h5(path, imgname=NAMES, person=[-1, 0]), "person must hold 2 whole numbers"),
    (valid_people, lambda path: make_h5(path, imgname=NAMES, person=[1.0, np.nan]), "person of row 1 is not finite"),
]


@pytest.mark.parametrize(("read", "make", "sentence"), LISTS)
def test_broken_lists(tmp_path: Path, read: Callable[[Path], list[Any]], make: Callable[[Path], object], sentence: str) -> None:
    path = tmp_path / "list"
    make(path)
    with pytest.raises(HgfastError, match=sentence):
        read(path)
