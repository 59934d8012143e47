"""Reader for MPII Human Pose as HRNet and mmpose ship it: annot/train.json and annot/valid.json, into `Samples`.

Each file is a list of people {image, center, scale, joints, joints_vis} in the original 1-based pixel numbers. Unlike in the h5
files, joints keep their fraction, and `center` and `scale` are the raw objpos and scale, which are adjusted here as the h5 files
are. `joints_vis` is 0 for a joint that is not annotated, and 1 for the others, occluded ones included.

The files have no head boxes. MPII's upper neck and head top were derived from the head box: their distance is 0.8 of its
diagonal, so the head size of PCKh, 0.6 of the diagonal, is 0.75 of their distance (within 0.01 px for 93 % of the 2932 people of
valid.h5 who have both, within 0.75 px for 99.5 %). `Samples.row` is the person's index in the list, from 0.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.pipelines.readers.base import read_json
from hgfast.pipelines.readers.image_paths import AllowedRoots
from hgfast.pipelines.readers.mpii_h5 import build_samples
from hgfast.pipelines.readers.mpii_mat import CENTER_OFFSET_Y, SCALE_FACTOR
from hgfast.pipelines.samples import Samples

SHAPES = {"center": (2,), "scale": (), "joints": (16, 2), "joints_vis": (16,)}
UPPER_NECK, HEAD_TOP = 8, 9
HEAD_PER_DISTANCE = 0.75
"""Head size of PCKh over the distance between upper neck and head top."""


def read_mpii_json(path: Path, images: Path, skip_missing: bool, bounds: AllowedRoots) -> Samples:
    """Read the people of one file, one sample each.

    The file has no head boxes, so the head size is derived from the joints, and for a person without upper neck or head top from
    the scale, with the median ratio of the others. A note says so.

    Args:
        images: the folder of the images.
        skip_missing, bounds: see `find_images`.

    Raises:
        HgfastError: the file is missing or no such list, or images are missing.
    """
    if not path.is_file():
        raise HgfastError(f"there is no MPII annotation file {path}: give HRNet's or mmpose's JSON file of this split")
    if not images.is_dir():
        raise HgfastError(
            f"there is no folder of images {images}: unpack mpii_human_pose_v1.tar.gz, or name it with --images DIR"
        )
    people = read_json(path, "unpack it again")
    if (
        not isinstance(people, list)
        or not people
        or not all(isinstance(p, dict) and isinstance(p.get("image"), str) for p in people)
    ):
        raise HgfastError(
            f"{path} is not a list of people with image, center, scale, joints and joints_vis, as HRNet's and mmpose's MPII "
            "files are: give such a file, or --dataset coco for COCO keypoints"
        )
    center, scale, joints, visible = (_column(people, name, path) for name in SHAPES)
    if (scale <= 0).any():
        row = int(np.argmax(scale <= 0))
        raise HgfastError(f"{path}: scale of person {row} is {scale[row]:g}, must be above 0: correct or remove that person")
    labeled = visible != 0
    reference, note = _head_sizes(joints, labeled, scale, path)
    samples = build_samples(
        images,
        [person["image"] for person in people],
        center=center + np.stack([np.zeros_like(scale), CENTER_OFFSET_Y * scale], 1),
        scale=SCALE_FACTOR * scale,
        points=np.where(labeled[..., None], joints, 0),
        labeled=labeled,
        reference=reference,
        row=np.arange(len(people)),
        skip_missing=skip_missing,
        bounds=bounds,
        describe=lambda row: f"person {row} of {path}",
    )
    return replace(samples, notes=(*samples.notes, note))


def _column(people: list[dict[str, Any]], name: str, path: Path) -> NDArray[np.float64]:
    """Return a field of all people (N, ...). Raises `HgfastError` that names the first person in whom it is wrong."""
    shape, rows = SHAPES[name], []
    for number, person in enumerate(people):
        try:
            value = np.array(person.get(name), np.float64)
        except (TypeError, ValueError):
            value = np.empty(0)
        if value.shape != shape or not np.isfinite(value).all():
            wanted = " x ".join(map(str, shape)) + " finite numbers" if shape else "a finite number"
            raise HgfastError(f"{path}: {name} of person {number} must be {wanted}: correct or remove that person")
        rows.append(value)
    return np.stack(rows)


def _head_sizes(
    joints: NDArray[np.float64], labeled: NDArray[np.bool_], scale: NDArray[np.float64], path: Path
) -> tuple[NDArray[np.float64], str]:
    """Return the head sizes (N,) that PCKh divides by, in pixels, and a note on how they are found."""
    size = HEAD_PER_DISTANCE * np.hypot(*(joints[:, HEAD_TOP] - joints[:, UPPER_NECK]).T)
    known = labeled[:, UPPER_NECK] & labeled[:, HEAD_TOP] & (size > 0)
    if not known.any():
        raise HgfastError(f"{path}: no person has upper neck and head top, from which PCKh needs the head size: give annot/*.h5")
    others = f", of {(~known).sum()} of {len(known)} people without these joints from their scale" if not known.all() else ""
    note = (
        f"{path} has no head boxes: the head size for PCKh is derived from upper neck and head top{others}; for the official "
        "figures, use annot/valid.h5"
    )
    return np.where(known, size, scale * np.median(size[known] / scale[known])), note
