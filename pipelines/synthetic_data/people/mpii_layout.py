"""Write synthetic people in MPII's layout for training: `images/NNNNNNNNN.jpg`, `annot/train.h5`, `annot/valid.h5`.

Annotations are in the official frame: pixel centers counted from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.random import Generator

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write
from hgfast.pipelines.processes import map_with_progress
from hgfast.pipelines.synthetic_data.files import check_minimum, encode_jpeg, prepare_folder, report_write_errors
from hgfast.pipelines.synthetic_data.people.kinematics import HEAD_TOP, NECK, PELVIS, THORAX
from hgfast.pipelines.synthetic_data.people.layout import MIN_JOINTS, Mask
from hgfast.pipelines.synthetic_data.people.scene import ScenePerson, sample_scene
from hgfast.pipelines.synthetic_data.render.camera import FloatArray

TRAIN, VALID = 0, 1
FOLDERS = ("images", "annot")
SPLITS = ("valid", "train")
"""Splits in writing order: a folder with `annot/train.h5` is complete."""
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
    out: Path,
    count: int,
    seed: int,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[int, int]:
    """Write `count` images for training and `valid` for validation; annotations are written last.

    An image depends only on the seed, its split and its number. Returns the numbers of people annotated for training and
    validation.

    Raises:
        HgfastError: numbers are out of range, the folder holds a data set already or is not writable, or h5py is missing.
    """
    num_valid = default_valid_count(count, valid)
    check_minimum(count=(count, 1), seed=(seed, 0), valid=(num_valid, 1), workers=(workers, 1))
    require_h5py()
    out = Path(out)
    prepare_folder(out, FOLDERS, [f"annot/{name}.h5" for name in SPLITS], 9, overwrite)
    jobs = make_jobs(out, seed, count, num_valid)
    with report_write_errors(out):
        rows_per_image = list(map_with_progress(render_job, jobs, workers, "image", progress))
        train, rest = ([row for rows in part for row in rows] for part in (rows_per_image[:count], rows_per_image[count:]))
        write_rows(out / "annot" / "valid.h5", rest)
        write_rows(out / "annot" / "train.h5", train)
    return len(train), len(rest)


def make_jobs(out: Path, seed: int, count: int, num_valid: int) -> list[Job]:
    """Return the images to render, `count` for training and then `num_valid` for validation."""
    return [Job(out, seed, TRAIN, i, i) for i in range(count)] + [Job(out, seed, VALID, i, count + i) for i in range(num_valid)]


def default_valid_count(count: int, valid: int | None) -> int:
    """Return the number of images for validation, given or by default."""
    return max(8, count // 10) if valid is None else valid


def require_h5py() -> None:
    """Raise `HgfastError` before anything is rendered if h5py is not installed."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise HgfastError("MPII's annotations are HDF5 files; install h5py to write them") from error


def render_job(job: Job) -> list[MpiiRow]:
    """Render one image, write it, and return the rows of its people."""
    rng = np.random.default_rng([job.seed, job.split, job.number])
    scene = sample_scene(rng)
    name = f"{job.index:09d}.jpg"
    (job.out / "images" / name).write_bytes(encode_jpeg(scene.image, int(rng.integers(75, 96))))
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
    """Convert joints (16, 2) to MPII's pixels.

    They are whole pixels counted from 1, rounded but for neck and head top, which are truncated, and (0, 0) where absent.
    """
    one_based = pixels + PIXEL_CENTER
    part = np.trunc(one_based)
    part[ROUNDED_JOINTS] = np.round(one_based[ROUNDED_JOINTS])
    part = np.clip(part, 1, size[::-1])
    part[~present] = 0
    return part


def torso_angle(part: FloatArray) -> float:
    """Return the angle from vertical of the line from hips to chest, in degrees, clockwise, in (-90, 270]; 0 if a joint is
    absent.
    """
    pelvis, thorax = part[[PELVIS, THORAX]]
    if not (pelvis.any() and thorax.any()):
        return 0.0
    along = thorax - pelvis
    return float(np.degrees(np.arctan2(along[1], along[0])) + 90)


def write_rows(file: Path, rows: Sequence[MpiiRow]) -> None:
    """Write an annotation file with the official data sets, atomically."""
    import h5py

    with atomic_write(file) as partial, h5py.File(partial, "w") as h5:
        h5.attrs["name"] = "mpii"
        for field in fields(MpiiRow):
            values = [getattr(row, field.name) for row in rows]
            kind = "S13" if field.name == "imgname" else np.float64
            h5.create_dataset(field.name, data=np.array(values, kind), track_times=False)
