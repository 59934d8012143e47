"""Reader for MPII Human Pose as its authors publish it: `mpii_human_pose_v1_u12_1.mat` and a folder of pictures, into `Samples`.

The file knows training and test pictures only, and no joints of the latter. The split into training and validation in
common use, that of Tompson et al. (CVPR 2015), comes as a list of pictures beside it (pose-hg-train's valid.h5 or
valid_images.txt). What the published h5 files hold of this file:

- train.h5 (22246 people): everybody annotated in a training picture in which nobody is in valid.h5, whether or not the
  file calls them sufficiently separated. This is split "train" here. (convert_annot.py of pose-hg-train keeps everybody with
  scale and objpos; gen_mpii.m of bearpaw/pytorch-pose has the rule about pictures, and the same 22246 people.)
- valid.h5 (2958 people in 2729 pictures): chosen people of these pictures, in the same order. The other people annotated
  there, about 3679 (CPM's genJSON.m gives 25925 people outside valid.h5, and 25925 - 22246 is 3679), are in neither file.
  The rule they were chosen by is not published: some of the 2958 are within a fifth of their height of each other, so it is
  hardly RELEASE.single_person. A list of pictures cannot say who they are; `valid_people` reads it from valid.h5, and only
  with it do figures compare with published ones.

Written without the original file at hand: how often its fields are missing is not known. A person counts as
annotated with at least one point, objpos, scale and the head box; others are left out, as nothing could be learnt from them.
Head boxes are read as they are; convert_annot.py truncates them, which changes none of the 2958: they are whole numbers.
`is_visible`, which the file writes in four ways, is not read: an occluded joint is labelled, an absent one has no point.
`Samples.row` is 1000 times the picture's number in annolist plus the person's in its annorect, both from 0: 5123002 is
annolist(5124).annorect(3), the index 5123 and person 2 of the h5 files.
What may enter: the structs of this file and the lists that go with it; coordinates become samples in `pipelines.mpii`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.skeletons import BODY16
from pipelines.mat_file import BROKEN, read_mat
from pipelines.mpii import as_names, as_numbers, as_samples, check_split, read_columns
from pipelines.pictures import INSIDE, Bounds
from pipelines.samples import Samples

MAT_FROM = "unpack mpii_human_pose_v1_u12_2.zip (human-pose.mpi-inf.mpg.de) and give its mpii_human_pose_v1_u12_1.mat"
VALID_FROM = "valid.h5 or valid_images.txt of princeton-vl/pose-hg-train"
DOWN = 15.0  # pixels of scale from objpos to the middle of the square: legs are longer than heads
WIDER = 1.25  # times the scale, so that limbs are not cut off
PEOPLE = 1000  # in a picture at most, so that a number can stand for picture and person
HEAD = 0.6  # of the diagonal of the head box: what PCKh divides by (SC_BIAS of the official evaluation)


class Person(NamedTuple):
    """One annotated person in the file's own pixel numbers, which count from 1.

    picture: its file name. number: of the person in that picture's annorect, from 0. row: of person and picture, as
    `Samples.row`. objpos: x, y. scale: in 200 px. head: diagonal of the head box in px. points: (16, 2), (0, 0) where not
    labelled (16,).
    """

    picture: str
    number: int
    row: int
    objpos: tuple[float, float]
    scale: float
    head: float
    points: NDArray[np.float64]
    labelled: NDArray[np.bool_]


def read_mpii_mat(
    annotations: Path,
    images: Path,
    split: str,
    valid: Sequence[str] | None,
    skip_missing: bool = False,
    *,
    chosen: Collection[tuple[str, int]] | None = None,
    single_person: bool = False,
    bounds: Bounds = INSIDE,
) -> Samples:
    """The annotated people of one split, one sample each, in the order of the file.

    Joints, centre, side and reference are in source pixels, corner convention: the file's numbers plus `PIXEL_OFFSET`, with
    their fraction. The square has its centre at objpos + (0, 15 scale) and a side of 200 * 1.25 scale; the reference is 0.6
    of the head box's diagonal. People of one picture have the same group.

    Args:
        annotations: the .mat file.
        images: the folder of pictures.
        split: "train" or "valid": training pictures that are not in `valid`, or those that are.
        valid: names of the pictures that make up the validation split, repeated or not (`valid_names`).
        skip_missing: leave out people whose picture is not there, instead of refusing.
        chosen: split "valid" only: just these people, as picture and number in annorect from 0 (`valid_people`); without it
            everybody annotated in the pictures of `valid`, who are more than twice as many in the official files.
        single_person: just people that the file calls sufficiently separated from others (RELEASE.single_person).
        bounds: where pictures may lie.

    Raises:
        HgfastError: files missing, unreadable or without a field that is needed; lists that do not go with them; nobody left.
            The message says which, where and what to do.
    """
    check_split(split)
    if valid is None:
        raise HgfastError(f"{annotations} does not say which pictures are for validation: give the list, {VALID_FROM}")
    if not images.is_dir():
        raise HgfastError(f"there is no folder of pictures {images}: unpack mpii_human_pose_v1.tar.gz and give its images/")
    release = _Release(annotations, single_person)
    held_out = set(valid)
    _check_pictures(held_out, set(release.pictures.values()), annotations)
    people = [person for person in release.people() if (person.picture in held_out) == (split == "valid")]
    if chosen is not None and split == "valid":
        people = _only(people, chosen, annotations)
    if not people:
        raise HgfastError(f"{annotations} annotates nobody in the {split} split: check the list of validation pictures")
    scale = np.array([person.scale for person in people])
    return as_samples(
        images,
        names=[person.picture for person in people],
        centre=np.array([person.objpos for person in people]) + np.stack([np.zeros_like(scale), DOWN * scale], 1),
        scale=WIDER * scale,
        points=np.stack([person.points for person in people]),
        labelled=np.stack([person.labelled for person in people]),
        reference=HEAD * np.array([person.head for person in people]),
        row=np.array([person.row for person in people]),
        skip_missing=skip_missing,
        bounds=bounds,
        called=lambda row: f"{place_of(row)} of {annotations}",
    )


def place_of(row: int) -> str:
    """Where the person with this `Samples.row` is, in MATLAB's words, which count from 1."""
    return f"{_place(row // PEOPLE)}.annorect({row % PEOPLE + 1})"


def valid_names(path: Path) -> list[str]:
    """Names of the validation pictures, repeated as in the file: imgname of an h5 file, or the lines of a text file.

    Raises:
        HgfastError: the file is missing, is neither, or names nothing.
    """
    if not path.is_file():
        raise HgfastError(f"there is no list of validation pictures {path}: give {VALID_FROM}")
    if h5py.is_hdf5(path):
        names = _imgname(read_columns(path, ["imgname"])["imgname"], path)
    else:
        try:
            names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise HgfastError(f"{path} is neither HDF5 nor a text file with a name a line: give {VALID_FROM}") from error
    if not names:
        raise HgfastError(f"{path} names no pictures: give {VALID_FROM}")
    return names


def valid_people(path: Path) -> list[tuple[str, int]]:
    """The people of valid.h5, as picture and number in annorect from 0.

    Raises:
        HgfastError: the file is missing, is no HDF5, or lacks imgname or person.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        what = "is no HDF5 file, so it cannot say which people" if path.is_file() else "is missing"
        raise HgfastError(f"{path} {what}: give valid.h5 of princeton-vl/pose-hg-train")
    table = read_columns(path, ["imgname", "person"])
    names, numbers = _imgname(table["imgname"], path), as_numbers(np.atleast_1d(table["person"]), "person", path)
    if numbers.shape != (len(names),) or (numbers < 0).any() or (numbers % 1 != 0).any():
        raise HgfastError(f"{path}: person must hold {len(names)} whole numbers from 0, one for each imgname; replace the file")
    return list(zip(names, numbers.astype(int).tolist()))


class _Release:
    """The struct RELEASE of the file: its training pictures, and the people annotated in them."""

    def __init__(self, path: Path, single_person: bool) -> None:
        self._path = path
        release = _load(path)
        annolist, img_train = _records(_field(release, "annolist")), _array(_field(release, "img_train"))
        for name, found in (("annolist", len(annolist)), ("img_train", len(img_train))):
            if not found:
                raise HgfastError(f"{path} has no RELEASE.{name}: {MAT_FROM}")
        if len(annolist) != len(img_train) or img_train.dtype.kind not in "fiub":
            raise HgfastError(
                f"{path}: RELEASE.img_train must be a number for each of the {len(annolist)} pictures of annolist, "
                f"but has {len(img_train)}: {MAT_FROM}"
            )
        training = np.flatnonzero(img_train == 1)
        self._training = {int(i): annolist[i] for i in training}
        self.pictures = {i: self._name(i) for i in self._training}
        self._separated = self._separate(_array(_field(release, "single_person")), len(annolist)) if single_person else None

    def people(self) -> Iterator[Person]:
        """Everybody annotated in a training picture."""
        for i, record in self._training.items():
            everybody = _records(_field(record, "annorect"))
            if len(everybody) > PEOPLE:
                raise HgfastError(f"{self._path}: {_place(i)} has {len(everybody)} people, more than {PEOPLE}: {MAT_FROM}")
            for number, annorect in enumerate(everybody):
                if self._separated is None or number in self._separated[i]:
                    person = _person(annorect, self.pictures[i], number, PEOPLE * i + number, self._path)
                    if person is not None:
                        yield person

    def _name(self, i: int) -> str:
        image = _first(_field(self._training[i], "image"))
        name = _array(_field(image, "name"))
        if len(name) != 1 or name.dtype.kind != "U" or not str(name[0]).strip():
            raise HgfastError(f"{self._path}: {_place(i)}.image.name is missing or no text: {MAT_FROM}")
        return str(name[0]).strip()

    def _separate(self, single: NDArray[Any], count: int) -> dict[int, set[float]]:
        """Picture -> the people sufficiently separated, both counted from 0; the file counts them from 1."""
        if len(single) != count or single.dtype.kind != "O":
            raise HgfastError(
                f"{self._path} has no RELEASE.single_person with a list for each of the {count} pictures: {MAT_FROM}"
            )
        lists = {i: _array(single[i]) for i in self._training}
        return {i: {n - 1 for n in found.tolist()} if found.dtype.kind in "fiub" else set() for i, found in lists.items()}


def _check_pictures(held_out: set[str], training: set[str], annotations: Path) -> None:
    """A list of other pictures would leave validation pictures among those to train on."""
    strange = sorted(held_out - training)
    if strange or not held_out:
        what = f"{len(strange)} of its {len(held_out)} names, the first {strange[0]!r}, are no" if strange else "it names no"
        raise HgfastError(
            f"the list of validation pictures does not go with {annotations}: {what} training pictures there; give {VALID_FROM}"
        )


def _only(people: list[Person], chosen: Collection[tuple[str, int]], annotations: Path) -> list[Person]:
    """The chosen ones, who must all be there."""
    wanted = set(chosen)
    found = [person for person in people if (person.picture, person.number) in wanted]
    missing = sorted(wanted - {(person.picture, person.number) for person in found})
    if missing:
        name, number = missing[0]
        raise HgfastError(
            f"{len(missing)} of the {len(wanted)} people chosen for validation are not annotated in {annotations}, "
            f"the first number {number} (from 0) in {name}: give the valid.h5 that goes with the file"
        )
    return found


def _load(path: Path) -> np.void:
    """The struct RELEASE."""
    if not path.is_file():
        raise HgfastError(f"there is no MPII annotation file {path}: {MAT_FROM}")
    if h5py.is_hdf5(path):
        raise HgfastError(f"{path} is HDF5 (MATLAB's version 7.3), the original is not: {MAT_FROM}")
    try:
        content = read_mat(path, ["RELEASE"])
    except BROKEN as error:
        raise HgfastError(f"{path} cannot be read as a MATLAB file ({' '.join(str(error).split())[:120]}): {MAT_FROM}") from error
    release = _first(content.get("RELEASE"))
    if release is None:
        raise HgfastError(f"{path} holds no struct RELEASE, so it is not MPII's annotation file: {MAT_FROM}")
    return release


def _person(annorect: np.void, picture: str, number: int, row: int, path: Path) -> Person | None:
    """A person, or None where a field is missing or empty. `path` is for errors about numbers that cannot be right."""
    where = f"{path}: {place_of(row)}"
    objpos = _first(_field(annorect, "objpos"))
    numbers = [
        *(_number(_field(annorect, name)) for name in ("scale", "x1", "y1", "x2", "y2")),
        *(_number(_field(objpos, name)) for name in ("x", "y")),
    ]
    known = [value for value in numbers if value is not None]
    points, labelled = _points(_records(_field(_first(_field(annorect, "annopoints")), "point")), where)
    if len(known) < len(numbers) or not labelled.any():
        return None
    scale, x1, y1, x2, y2, x, y = known
    head = float(np.hypot(x2 - x1, y2 - y1))
    if not (np.isfinite(known).all() and np.isfinite(points).all()):
        raise HgfastError(f"{where} has a number that is not finite: {MAT_FROM}")
    if scale <= 0 or head <= 0:
        raise HgfastError(f"{where} has a scale of {scale:g} and a head box of {head:g} px, both must be above 0: {MAT_FROM}")
    return Person(picture, number, row, (x, y), scale, head, points, labelled)


def _points(records: NDArray[Any], where: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Points (16, 2) and which are there (16,); of two with the same id the first counts, as in the published h5 files."""
    points, there = np.zeros((len(BODY16.joints), 2)), np.zeros(len(BODY16.joints), bool)
    for record in records:
        joint, x, y = (_number(_field(record, name)) for name in ("id", "x", "y"))
        if joint is None or x is None or y is None:
            continue
        if joint not in range(len(there)):
            raise HgfastError(f"{where} has a point with the id {joint:g}, wanted 0 to {len(there) - 1}: {MAT_FROM}")
        if not there[int(joint)]:
            points[int(joint)], there[int(joint)] = (x, y), True
    return points, there


def _place(i: int) -> str:
    return f"RELEASE.annolist({i + 1})"


def _array(value: object) -> NDArray[Any]:
    """A MATLAB array as a list; empty for what is missing."""
    return value.ravel() if isinstance(value, np.ndarray) else np.empty(0)


def _records(value: object) -> NDArray[Any]:
    """The elements of a struct array; none where it is missing, or [] instead of a struct."""
    return value.ravel() if isinstance(value, np.ndarray) and value.dtype.names else np.empty(0)


def _first(value: object) -> np.void | None:
    records = _records(value)
    return records[0] if len(records) else None


def _field(record: np.void | None, name: str) -> object:
    """A field, None where the struct does not have it: its elements share their fields, those of two pictures need not."""
    return record[name] if record is not None and name in (record.dtype.names or ()) else None


def _number(value: object) -> float | None:
    """A MATLAB number, None where it is missing, empty or something else."""
    return float(value.item(0)) if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "fiub" else None


def _imgname(column: NDArray[Any], path: Path) -> list[str]:
    if column.ndim != 1 or column.dtype.kind not in "SO":
        raise HgfastError(f"{path}: imgname must be a list of file names; replace the file")
    return as_names(column)
