"""Write synthetic people in MPII's layout for training: `images/NNNNNNNNN.jpg`, `annot/train.h5`, `annot/valid.h5`.

Annotations are in the official frame: pixel centers counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.random import Generator

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, write_bytes
from hgfast.pipelines.processes import map_with_progress
from hgfast.pipelines.synthetic_data.files import check_minimum, data_set_folder, encode_jpeg
from hgfast.pipelines.synthetic_data.people.kinematics import HEAD_TOP, NECK, PELVIS, THORAX
from hgfast.pipelines.synthetic_data.people.layout import MIN_JOINTS, Mask
from hgfast.pipelines.synthetic_data.people.scene import ScenePerson, sample_scene
from hgfast.pipelines.synthetic_data.render.camera import FloatArray

TRAIN, VALID = 0, 1
PIXEL_CENTER = 0.5
"""Added to continuous coordinates, where the first pixel's corner is (0, 0), to count pixel centers from 1."""
HEAD_WIDTH = 0.75
"""A head's width over its length; the bounding box of such an ellipse has the same diagonal at any tilt."""
NORMALIZE_PER_SCALE = 25
"""Divisor that gives the scale from `normalize`; the official files enlarge the scale by 1.25, hence 20 in every row."""
ROUNDED_JOINTS = [joint for joint in range(16) if joint not in (NECK, HEAD_TOP)]


@dataclass(frozen=True)
class Job:
    """One image to render: its number within a split, and in the whole data set."""

    out: Path
    seed: int
    split: int
    number: int
    index: int


@dataclass(frozen=True)
class MpiiRow:
    """One person's row of `annot/*.h5`: every field is a data set with the official name; lengths and positions in pixels."""

    center: FloatArray
    imgname: str
    index: float
    normalize: float
    part: FloatArray
    person: float
    scale: float
    torsoangle: float
    visible: FloatArray


def generate_mpii(
    out: Path, count: int = 3000, seed: int = 0, valid: int | None = None, workers: int | None = None, overwrite: bool = False
) -> str:
    """Render photographs of people into a folder with the layout of MPII for training: images/, annot/train.h5, annot/valid.h5.

    Args:
        out: folder to write; created if missing
        count: images for training, with one to four people each
        seed: the same seed and counts give the same bytes, for any number of workers
        valid: images for validation; if not given, a tenth of `count`, at least 8
        workers: processes; if not given, one per core
        overwrite: replace an existing synthetic data set
    """
    try:
        import h5py  # noqa: F401  (before anything is rendered)
    except ImportError as error:
        raise HgfastError("MPII's annotations are HDF5 files; install h5py to write them") from error
    files = ("annot/valid.h5", "annot/train.h5")
    return generate_people(out, count, seed, valid, workers, overwrite, ("images", "annot"), files, write_h5)


def generate_people(
    out: Path,
    count: int,
    seed: int,
    valid: int | None,
    workers: int | None,
    overwrite: bool,
    folders: Sequence[str],
    annotation_files: tuple[str, str],
    write: Callable[[Path, Sequence[Job], Sequence[list[MpiiRow]]], int],
) -> str:
    """Render photographs of people. An image depends only on the seed, its split and its number.

    `write` writes an annotation file and returns the number of people; `annotation_files` names those for validation and for
    training, which are written last, in this order.
    """
    num_valid = max(8, count // 10) if valid is None else valid
    check_minimum(count=(count, 1), seed=(seed, 0), valid=(num_valid, 1), workers=(workers, 1))
    jobs = [Job(out, seed, TRAIN, i, i) for i in range(count)]
    jobs += [Job(out, seed, VALID, i, count + i) for i in range(num_valid)]
    with data_set_folder(out, folders, annotation_files, 9, overwrite):
        rows = list(map_with_progress(render_job, jobs, workers, "image"))
        people = [
            write(out / file, jobs[part], rows[part]) for file, part in zip(annotation_files, (slice(count, None), slice(count)))
        ]
    return f"{count} training images of {people[1]} people and {num_valid} validation images of {people[0]} in {out}"


def render_job(job: Job) -> list[MpiiRow]:
    """Render one image, write it, and return the rows of its people."""
    rng = np.random.default_rng([job.seed, job.split, job.number])
    scene = sample_scene(rng)
    name = f"{job.index:09d}.jpg"
    write_bytes(job.out / "images" / name, encode_jpeg(scene.image, int(rng.integers(75, 96))))
    size = (scene.image.shape[0], scene.image.shape[1])
    return [
        annotate(rng, subject, scene.K, size, name, job.index, number)
        for number, subject in enumerate(scene.subjects)
        if subject.present.sum() >= MIN_JOINTS
        and (number == 0 or (subject.visible.sum() >= MIN_JOINTS // 2 and subject.present[[NECK, HEAD_TOP]].all()))
    ]


def annotate(
    rng: Generator, subject: ScenePerson, K: FloatArray, size: tuple[int, int], name: str, index: int, person: int
) -> MpiiRow:
    """Return a person's row, with the noise of human annotators."""
    figure, present = subject.figure, subject.present
    head = figure.shape.head * K[0, 0] / figure.joints[NECK, 2]
    axis = subject.pixels[HEAD_TOP] - subject.pixels[NECK]
    diagonal = float(np.sqrt(axis @ axis + (HEAD_WIDTH * head) ** 2))
    box = subject.pixels[present]
    middle = (box.min(0) + box.max(0)) / 2 + PIXEL_CENTER
    normalize = 0.6 * diagonal
    scale = normalize / NORMALIZE_PER_SCALE
    objpos = np.round(middle + np.clip(rng.normal(0, 4, 2), -10, 10) * scale)
    visible = subject.visible.astype(float)
    visible[[NECK, HEAD_TOP]] = present[[NECK, HEAD_TOP]]
    part = to_official_pixels(subject.pixels, present, size)
    return MpiiRow(
        center=objpos + np.array([0, 15 * scale]),
        imgname=name,
        index=float(index),
        normalize=normalize,
        part=part,
        person=float(person),
        scale=1.25 * scale,
        torsoangle=torso_angle(part),
        visible=visible,
    )


def to_official_pixels(pixels: FloatArray, present: Mask, size: tuple[int, int]) -> FloatArray:
    """Convert joints (16, 2) to MPII's pixels: whole, counted from 1, rounded (neck, head top: truncated), (0, 0) if absent."""
    one_based = pixels + PIXEL_CENTER
    part = np.trunc(one_based)
    part[ROUNDED_JOINTS] = np.round(one_based[ROUNDED_JOINTS])
    part = np.clip(part, 1, size[::-1])
    part[~present] = 0
    return part


def torso_angle(part: FloatArray) -> float:
    """Return the clockwise angle of the line from hips to chest from vertical, degrees in (-90, 270]; 0 if a joint is absent."""
    pelvis, thorax = part[[PELVIS, THORAX]]
    if not (pelvis.any() and thorax.any()):
        return 0.0
    along = thorax - pelvis
    return float(np.degrees(np.arctan2(along[1], along[0])) + 90)


def write_h5(file: Path, jobs: Sequence[Job], rows_per_image: Sequence[list[MpiiRow]]) -> int:
    """Write an annotation file with the official data sets, atomically."""
    import h5py

    rows = [row for rows in rows_per_image for row in rows]
    with atomic_write(file) as partial, h5py.File(partial, "w", locking=False) as h5:  # atomic_write has locked the file
        h5.attrs["name"] = "mpii"
        for field in fields(MpiiRow):
            values = [getattr(row, field.name) for row in rows]
            kind = "S13" if field.name == "imgname" else np.float64
            h5.create_dataset(field.name, data=np.array(values, kind), track_times=False)
    return len(rows)
