"""Synthetic people in the layout MPII has for training: `images/NNNNNNNNN.jpg`, `annot/train.h5`, `annot/valid.h5`.

What may enter: which files and folders make the data set, and what the official annotations say about a person, in their
frame: pixel centres counted from 1. What the pictures show is `drawn.snapshot`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.random import Generator

from hgfast.errors import HgfastError
from hgfast.files import complete
from pipelines.drawn.camera import Array
from pipelines.drawn.crowd import FEWEST, Mask
from pipelines.drawn.files import at_least, jpeg, make_room, writing
from pipelines.drawn.people import HEAD_TOP, NECK, PELVIS, THORAX
from pipelines.drawn.snapshot import Subject, snapshot
from pipelines.processes import spread

TRAIN, VALID = 0, 1
FOLDERS = ("images", "annot")
SPLITS = ("valid", "train")
"""In the order their annotations are written: a folder with `annot/train.h5` is complete."""
PIXEL_CENTRE = 0.5
"""What is added to continuous coordinates, the first pixel's corner being (0, 0), to count pixel centres from 1."""
HEAD_WIDTH = 0.75
"""A head's width over its length; the box of such an ellipse has the same diagonal however the head is tilted."""
HEADS = 25
"""What the official files divide `normalize` by to get the scale, which they then enlarge by 1.25: 20 in every row."""
CLICKED = [joint for joint in range(16) if joint not in (NECK, HEAD_TOP)]


@dataclass(frozen=True)
class Job:
    """One picture to draw: its number within a split, and in the whole data set."""

    out: Path
    seed: int
    split: int
    number: int
    index: int


@dataclass(frozen=True)
class Row:
    """What `annot/*.h5` say of one person, a data set a field, by the official names; lengths and places in pixels."""

    center: Array
    imgname: str
    index: float
    normalize: float
    part: Array
    person: float
    scale: float
    torsoangle: float
    visible: Array


def draw_mpii(
    out: Path,
    count: int,
    seed: int,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[int, int]:
    """Write `count` pictures for training and `valid` for validation, with their annotations last.

    A picture depends on the seed, its split and its number alone. Returns the people annotated for training and validation.

    Raises:
        HgfastError: numbers that make no data set, a folder that holds one already or cannot be written, h5py missing.
    """
    held = valid_count(count, valid)
    at_least(count=(count, 1), seed=(seed, 0), valid=(held, 1), workers=(workers, 1))
    need_h5py()
    out = Path(out)
    make_room(out, FOLDERS, leftovers, overwrite)
    jobs = make_jobs(out, seed, count, held)
    with writing(out):
        pictures = list(spread(perform, jobs, workers, "picture", progress))
        train, rest = ([row for rows in part for row in rows] for part in (pictures[:count], pictures[count:]))
        write_rows(out / "annot" / "valid.h5", rest)
        write_rows(out / "annot" / "train.h5", train)
    return len(train), len(rest)


def make_jobs(out: Path, seed: int, count: int, held: int) -> list[Job]:
    """The pictures to draw, `count` for training and then `held` for validation."""
    return [Job(out, seed, TRAIN, i, i) for i in range(count)] + [Job(out, seed, VALID, i, count + i) for i in range(held)]


def valid_count(count: int, valid: int | None) -> int:
    """The number of pictures for validation, given or by default."""
    return max(8, count // 10) if valid is None else valid


def need_h5py() -> None:
    """Say which package is missing before anything is drawn."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise HgfastError("MPII's annotations are HDF5 files; install h5py to write them") from error


def leftovers(out: Path) -> Iterator[Path]:
    """Files of the layout in a folder, annotations first, so that an interrupted removal leaves no complete data set."""
    yield from (file for name in SPLITS[::-1] if (file := out / "annot" / f"{name}.h5").is_file())
    yield from drawn(out)


def drawn(out: Path) -> Iterator[Path]:
    """The pictures in a folder that `perform` has written, those of a run that was broken off too."""
    if (out / "images").is_dir():
        yield from (file for file in (out / "images").iterdir() if re.fullmatch(r"\d{9}\.jpg", file.name))


def perform(job: Job) -> list[Row]:
    """Draw one picture, write it, and say who is in it."""
    rng = np.random.default_rng([job.seed, job.split, job.number])
    shot = snapshot(rng)
    name = f"{job.index:09d}.jpg"
    (job.out / "images" / name).write_bytes(jpeg(shot.picture, int(rng.integers(75, 96))))
    size = (shot.picture.shape[0], shot.picture.shape[1])
    return [
        annotate(rng, subject, shot.K, size, name, job.index, number)
        for number, subject in enumerate(shot.subjects)
        if subject.present.sum() >= FEWEST
        and (number == 0 or (subject.seen.sum() >= FEWEST // 2 and subject.present[[NECK, HEAD_TOP]].all()))
    ]


def annotate(rng: Generator, subject: Subject, K: Array, size: tuple[int, int], name: str, index: int, person: int) -> Row:
    """A person's row, with the noise of people who click."""
    figure, present = subject.figure, subject.present
    head = figure.physique.head * K[0, 0] / figure.joints[NECK, 2]
    axis = subject.pixels[HEAD_TOP] - subject.pixels[NECK]
    diagonal = float(np.sqrt(axis @ axis + (HEAD_WIDTH * head) ** 2))
    box = subject.pixels[present]
    middle = (box.min(0) + box.max(0)) / 2 + PIXEL_CENTRE
    normalize = 0.6 * diagonal
    scale = normalize / HEADS
    objpos = np.round(middle + np.clip(rng.normal(0, 4, 2), -10, 10) * scale)
    visible = subject.seen.astype(float)
    visible[[NECK, HEAD_TOP]] = present[[NECK, HEAD_TOP]]
    part = official(subject.pixels, present, size)
    return Row(
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


def official(pixels: Array, present: Mask, size: tuple[int, int]) -> Array:
    """Joints (16, 2) as MPII has them: clicks on whole pixels counted from 1, neck and head top cut off, (0, 0) where absent."""
    counted = pixels + PIXEL_CENTRE
    part = np.trunc(counted)
    part[CLICKED] = np.round(counted[CLICKED])
    part = np.clip(part, 1, size[::-1])
    part[~present] = 0
    return part


def torso_angle(part: Array) -> float:
    """Degrees from upright of the line from the hips to the chest, clockwise, in (-90, 270]; 0 where one of them is absent."""
    pelvis, thorax = part[[PELVIS, THORAX]]
    if not (pelvis.any() and thorax.any()):
        return 0.0
    along = thorax - pelvis
    return float(np.degrees(np.arctan2(along[1], along[0])) + 90)


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """An annotation file with the official data sets, complete or absent."""
    import h5py

    with complete(file) as partial, h5py.File(partial, "w") as h5:
        h5.attrs["name"] = "mpii"
        for field in fields(Row):
            values = [getattr(row, field.name) for row in rows]
            kind = "S13" if field.name == "imgname" else np.float64
            h5.create_dataset(field.name, data=np.array(values, kind), track_times=False)
