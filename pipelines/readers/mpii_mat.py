"""Reader for MPII Human Pose as its authors publish it: `mpii_human_pose_v1_u12_1.mat` and a folder of images, into `Samples`.

The file distinguishes training and test images only, and has no joints of the latter. The common split of the training images,
that of Tompson et al. (CVPR 2015), is a list of images (pose-hg-train's valid.h5 or valid_images.txt). The published h5 files
hold the following people:

- train.h5 (22246 people), the split "train" here: everybody annotated in a training image in which nobody is in valid.h5 (the
rule of gen_mpii.m of bearpaw/pytorch-pose).
- valid.h5 (2958 people in 2729 images): selected people of these images, in the same order; some 3679 others annotated there are
in neither file. The selection rule is not published; some of the 2958 are so near to each other that it is hardly
RELEASE.single_person. A list of images cannot identify them: `valid_people` reads them from valid.h5, and results compare with
published ones only with this selection.

This reader was written without the original file, so it is unknown how often fields are missing. A person counts as annotated
with at least one point, objpos, scale and the head box; others are left out. `is_visible` is not read: an occluded joint is
labeled, an absent one has no point. `Samples.row` is 1000 times the image's index in annolist plus the person's index in its
annorect, both from 0: 5123002 is annolist(5124).annorect(3), index 5123 and person 2 of the h5 files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.pipelines.readers.base import READ_ERRORS
from hgfast.pipelines.readers.image_paths import FOLDER_ONLY, AllowedRoots
from hgfast.pipelines.readers.mat_file import read_mat
from hgfast.pipelines.readers.mpii_h5 import build_samples, check_split, decode_names, read_columns, to_float_column
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16

MAT_HINT = "unpack mpii_human_pose_v1_u12_2.zip (human-pose.mpi-inf.mpg.de) and give its mpii_human_pose_v1_u12_1.mat"
VALID_LIST_HINT = "valid.h5 or valid_images.txt of princeton-vl/pose-hg-train"
CENTER_OFFSET_Y = 15.0  # pixels times scale from objpos down to the center of the square: legs are longer than heads
SCALE_FACTOR = 1.25  # enlarges the square so that limbs are not cut off
MAX_PEOPLE = 1000  # per image, so that one number identifies image and person
HEAD = 0.6  # head size that PCKh divides by over the head box's diagonal (SC_BIAS of the official evaluation)


class Person(NamedTuple):
    """One annotated person in the file's own 1-based pixel numbers.

    image_name: the file name. number: index of the person in that image's annorect, from 0. row: of person and image, as
    `Samples.row`. objpos: x, y. scale: in units of 200 px. head: diagonal of the head box in px. keypoints: (16, 2), (0, 0) where
    not labeled. labeled: (16,).
    """

    image_name: str
    number: int
    row: int
    objpos: tuple[float, float]
    scale: float
    head: float
    keypoints: NDArray[np.float64]
    labeled: NDArray[np.bool_]


def read_mpii_mat(
    annotations: Path,
    images: Path,
    split: str,
    valid: Sequence[str] | None,
    skip_missing: bool = False,
    *,
    only_people: Collection[tuple[str, int]] | None = None,
    single_person: bool = False,
    bounds: AllowedRoots = FOLDER_ONLY,
) -> Samples:
    """Read the annotated people of one split ("train" or "valid"), one sample each, in the order of the file.

    Joints, center, side and reference are in source pixels, corner convention: the file's numbers plus `PIXEL_OFFSET`, with their
    fraction. The square has its center at objpos + (0, 15 scale) and a side of 200 * 1.25 scale; the reference is 0.6 of the head
    box's diagonal. People of one image have the same group.

    Args:
        valid: names of the images of the validation split, possibly repeated (`valid_names`).
        skip_missing: leave out people whose image is missing, instead of raising.
        only_people: split "valid" only: just these people, as image name and index in annorect from 0 (`valid_people`); without
            it, everybody annotated in the images of `valid`, more than twice as many in the official files.
        single_person: only people that the file calls sufficiently separated from others (RELEASE.single_person).
        bounds: where images may lie.

    Raises:
        HgfastError: files are missing, unreadable or lack a field, lists do not match the file, or nobody is left.
    """
    check_split(split)
    if valid is None:
        raise HgfastError(f"{annotations} does not say which images are for validation: give the list, {VALID_LIST_HINT}")
    if not images.is_dir():
        raise HgfastError(f"there is no folder of images {images}: unpack mpii_human_pose_v1.tar.gz and give its images/")
    release = _Release(annotations, single_person)
    valid_images = set(valid)
    _check_valid_images(valid_images, set(release.image_names.values()), annotations)
    people = [person for person in release.people() if (person.image_name in valid_images) == (split == "valid")]
    if only_people is not None and split == "valid":
        people = _select_people(people, only_people, annotations)
    if not people:
        raise HgfastError(f"{annotations} annotates nobody in the {split} split: check the list of validation images")
    scale = np.array([person.scale for person in people])
    return build_samples(
        images,
        names=[person.image_name for person in people],
        center=np.array([person.objpos for person in people]) + np.stack([np.zeros_like(scale), CENTER_OFFSET_Y * scale], 1),
        scale=SCALE_FACTOR * scale,
        points=np.stack([person.keypoints for person in people]),
        labeled=np.stack([person.labeled for person in people]),
        reference=HEAD * np.array([person.head for person in people]),
        row=np.array([person.row for person in people]),
        skip_missing=skip_missing,
        bounds=bounds,
        describe=lambda row: f"{describe_row(row)} of {annotations}",
    )


def describe_row(row: int) -> str:
    """Return the location of the person with this `Samples.row` in MATLAB's 1-based notation."""
    return f"{_describe_image(row // MAX_PEOPLE)}.annorect({row % MAX_PEOPLE + 1})"


def valid_names(path: Path) -> list[str]:
    """Read the names of the validation images, repeated as in the file: imgname of an h5 file, or the lines of a text file."""
    if not path.is_file():
        raise HgfastError(f"there is no list of validation images {path}: give {VALID_LIST_HINT}")
    if h5py.is_hdf5(path):
        names = _imgname(read_columns(path, ["imgname"])["imgname"], path)
    else:
        try:
            names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise HgfastError(f"{path} is neither HDF5 nor a text file with a name a line: give {VALID_LIST_HINT}") from error
    if not names:
        raise HgfastError(f"{path} names no images: give {VALID_LIST_HINT}")
    return names


def valid_people(path: Path) -> list[tuple[str, int]]:
    """Read the people of valid.h5, as image name and index in annorect from 0."""
    if not path.is_file() or not h5py.is_hdf5(path):
        what = "is no HDF5 file, so it cannot say which people" if path.is_file() else "is missing"
        raise HgfastError(f"{path} {what}: give valid.h5 of princeton-vl/pose-hg-train")
    table = read_columns(path, ["imgname", "person"])
    names, numbers = _imgname(table["imgname"], path), to_float_column(np.atleast_1d(table["person"]), "person", path)
    if numbers.shape != (len(names),) or (numbers < 0).any() or (numbers % 1 != 0).any():
        raise HgfastError(f"{path}: person must hold {len(names)} whole numbers from 0, one for each imgname; replace the file")
    return list(zip(names, numbers.astype(int).tolist()))


class _Release:
    """The struct RELEASE of the file: its training images, and the people annotated in them."""

    def __init__(self, path: Path, single_person: bool) -> None:
        self._path = path
        release = _load_release(path)
        annolist, img_train = _records(_field(release, "annolist")), _array(_field(release, "img_train"))
        for name, count in (("annolist", len(annolist)), ("img_train", len(img_train))):
            if not count:
                raise HgfastError(f"{path} has no RELEASE.{name}: {MAT_HINT}")
        if len(annolist) != len(img_train) or img_train.dtype.kind not in "fiub":
            raise HgfastError(
                f"{path}: RELEASE.img_train must be a number for each of the {len(annolist)} images of annolist, "
                f"but has {len(img_train)}: {MAT_HINT}"
            )
        training = np.flatnonzero(img_train == 1)
        self._training = {int(i): annolist[i] for i in training}
        self.image_names = {i: self._name(i) for i in self._training}
        self._separated_people = self._read_separated_people(release, len(annolist)) if single_person else None

    def people(self) -> Iterator[Person]:
        """Yield everybody annotated in a training image."""
        for i, record in self._training.items():
            annorects = _records(_field(record, "annorect"))
            if len(annorects) > MAX_PEOPLE:
                raise HgfastError(
                    f"{self._path}: {_describe_image(i)} has {len(annorects)} people, more than {MAX_PEOPLE}: {MAT_HINT}"
                )
            for number, annorect in enumerate(annorects):
                if self._separated_people is None or number in self._separated_people[i]:
                    person = _person(annorect, self.image_names[i], number, MAX_PEOPLE * i + number, self._path)
                    if person is not None:
                        yield person

    def _name(self, i: int) -> str:
        name = _array(_field(_first(_field(self._training[i], "image")), "name"))
        if len(name) != 1 or name.dtype.kind != "U" or not str(name[0]).strip():
            raise HgfastError(f"{self._path}: {_describe_image(i)}.image.name is missing or no text: {MAT_HINT}")
        return str(name[0]).strip()

    def _read_separated_people(self, release: np.void, count: int) -> dict[int, set[float]]:
        """Return image index -> indices of the sufficiently separated people, all from 0; the file counts people from 1."""
        single = _array(_field(release, "single_person"))
        if len(single) != count or single.dtype.kind != "O":
            raise HgfastError(f"{self._path} has no RELEASE.single_person with a list for each of the {count} images: {MAT_HINT}")
        lists = {i: _array(single[i]) for i in self._training}
        return {i: {n - 1 for n in found.tolist()} if found.dtype.kind in "fiub" else set() for i, found in lists.items()}


def _check_valid_images(held_out: set[str], training: set[str], annotations: Path) -> None:
    """Raise `HgfastError` for a list of other images, which would leave validation images in the training split."""
    unknown = sorted(held_out - training)
    if unknown or not held_out:
        what = f"{len(unknown)} of its {len(held_out)} names, the first {unknown[0]!r}, are no" if unknown else "it names no"
        raise HgfastError(
            f"the list of validation images does not match {annotations}: {what} training images there; give {VALID_LIST_HINT}"
        )


def _select_people(people: list[Person], chosen: Collection[tuple[str, int]], annotations: Path) -> list[Person]:
    """Return the chosen people. Raises `HgfastError` unless all of them are annotated."""
    wanted = set(chosen)
    selected = [person for person in people if (person.image_name, person.number) in wanted]
    missing = sorted(wanted - {(person.image_name, person.number) for person in selected})
    if missing:
        name, number = missing[0]
        raise HgfastError(
            f"{len(missing)} of the {len(wanted)} people chosen for validation are not annotated in {annotations}, "
            f"the first number {number} (from 0) in {name}: give the valid.h5 that belongs to the file"
        )
    return selected


def _load_release(path: Path) -> np.void:
    """Read the struct RELEASE."""
    if not path.is_file():
        raise HgfastError(f"there is no MPII annotation file {path}: {MAT_HINT}")
    if h5py.is_hdf5(path):
        raise HgfastError(f"{path} is HDF5 (MATLAB's version 7.3), unlike the original: {MAT_HINT}")
    try:
        content = read_mat(path, ["RELEASE"])
    except READ_ERRORS as error:
        raise HgfastError(f"{path} cannot be read as a MATLAB file ({' '.join(str(error).split())[:120]}): {MAT_HINT}") from error
    release = _first(content.get("RELEASE"))
    if release is None:
        raise HgfastError(f"{path} holds no struct RELEASE, so it is not MPII's annotation file: {MAT_HINT}")
    return release


def _person(annorect: np.void, image_name: str, number: int, row: int, path: Path) -> Person | None:
    """Return a person, or None if a field is missing or empty. `path` is for errors about implausible numbers."""
    where = f"{path}: {describe_row(row)}"
    objpos = _first(_field(annorect, "objpos"))
    numbers = [
        *(_number(_field(annorect, name)) for name in ("scale", "x1", "y1", "x2", "y2")),
        *(_number(_field(objpos, name)) for name in ("x", "y")),
    ]
    values = [value for value in numbers if value is not None]
    keypoints, labeled = _read_keypoints(_records(_field(_first(_field(annorect, "annopoints")), "point")), where)
    if len(values) < len(numbers) or not labeled.any():
        return None
    scale, x1, y1, x2, y2, x, y = values
    head = float(np.hypot(x2 - x1, y2 - y1))
    if not (np.isfinite(values).all() and np.isfinite(keypoints).all()):
        raise HgfastError(f"{where} has a number that is not finite: {MAT_HINT}")
    if scale <= 0 or head <= 0:
        raise HgfastError(f"{where} has a scale of {scale:g} and a head box of {head:g} px, both must be above 0: {MAT_HINT}")
    return Person(image_name, number, row, (x, y), scale, head, keypoints, labeled)


def _read_keypoints(records: NDArray[Any], where: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return keypoints (16, 2) and labeled (16,); of two points with one id the first counts, as in the published h5 files."""
    keypoints, labeled = np.zeros((len(BODY16.joints), 2)), np.zeros(len(BODY16.joints), bool)
    for record in records:
        joint, x, y = (_number(_field(record, name)) for name in ("id", "x", "y"))
        if joint is None or x is None or y is None:
            continue
        if joint not in range(len(labeled)):
            raise HgfastError(f"{where} has a point with the id {joint:g}, wanted 0 to {len(labeled) - 1}: {MAT_HINT}")
        if not labeled[int(joint)]:
            keypoints[int(joint)], labeled[int(joint)] = (x, y), True
    return keypoints, labeled


def _describe_image(i: int) -> str:
    return f"RELEASE.annolist({i + 1})"


def _array(value: object) -> NDArray[Any]:
    """Return a MATLAB array as a flat array; empty if it is missing."""
    return value.ravel() if isinstance(value, np.ndarray) else np.empty(0)


def _records(value: object) -> NDArray[Any]:
    """Return the elements of a struct array; none if it is missing, or [] instead of a struct."""
    return value.ravel() if isinstance(value, np.ndarray) and value.dtype.names else np.empty(0)


def _first(value: object) -> np.void | None:
    records = _records(value)
    return records[0] if len(records) else None


def _field(record: np.void | None, name: str) -> object:
    """Return a field, or None if the struct lacks it: the structs of two images need not have the same fields."""
    return record[name] if record is not None and name in (record.dtype.names or ()) else None


def _number(value: object) -> float | None:
    """Return a MATLAB number, or None if it is missing, empty or of another type."""
    return float(value.item(0)) if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "fiub" else None


def _imgname(column: NDArray[Any], path: Path) -> list[str]:
    if column.ndim != 1 or column.dtype.kind not in "SO":
        raise HgfastError(f"{path}: imgname must be a list of file names; replace the file")
    return decode_names(column)
