"""Write synthetic people as a custom data set: `images/NNNNNNNNN.jpg`, `train.json`, `val.json`, COCO keypoints of five joints.

The annotations are converted from the rows of `mpii_layout`, whose pixels count from 1; COCO's count from 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hgfast.fileio.files import atomic_write
from hgfast.pipelines.processes import map_with_progress
from hgfast.pipelines.synthetic_data.files import check_minimum, prepare_folder, report_write_errors
from hgfast.pipelines.synthetic_data.people.mpii_layout import (
    Job,
    MpiiRow,
    default_valid_count,
    make_jobs,
    render_job,
)
from hgfast.skeletons import BODY16

JOINTS = {"head": "head_top", "left_wrist": "left_wrist", "right_wrist": "right_wrist", "left_ankle": "left_ankle",
          "right_ankle": "right_ankle"}  # fmt: skip
"""Joint names in the files -> MPII's names."""
EDGES = ((1, 2), (1, 3), (1, 4), (1, 5))
"""Pairs of 1-based joint numbers, as in COCO."""
SPLIT_FILES = ("val", "train")
"""Annotation files in writing order: a folder with `train.json` is complete."""
BOX_MARGIN = 0.1
"""Margin of the box around its joints on each side, as a fraction of the joints' longer extent."""


def generate_coco(
    out: Path,
    count: int,
    seed: int,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[int, int]:
    """Write `count` images for training and `valid` for validation; annotations are written last.

    The images are those of `generate_mpii` with the same seed. Returns the numbers of people annotated for training and
    validation.

    Raises:
        HgfastError: numbers are out of range, or the folder holds a data set already or is not writable.
    """
    num_valid = default_valid_count(count, valid)
    check_minimum(count=(count, 1), seed=(seed, 0), valid=(num_valid, 1), workers=(workers, 1))
    out = Path(out)
    prepare_folder(out, ("images",), [f"{name}.json" for name in SPLIT_FILES], 9, overwrite)
    jobs = make_jobs(out, seed, count, num_valid)
    with report_write_errors(out):
        rows_per_image = list(map_with_progress(render_job, jobs, workers, "image", progress))
        people = {}
        for name, part in zip(SPLIT_FILES, (slice(count, None), slice(count))):
            content = coco_file(jobs[part], rows_per_image[part])
            people[name] = len(content["annotations"])
            with atomic_write(out / f"{name}.json") as partial:
                partial.write_text(json.dumps(content))
    return people["train"], people["val"]


def coco_file(jobs: Sequence[Job], rows_per_image: Sequence[Sequence[MpiiRow]]) -> dict[str, Any]:
    """Return the content of an annotation file for these images."""
    images = [{"id": job.index, "file_name": f"{job.index:09d}.jpg"} for job in jobs]
    people = [(job.index, person) for job, rows in zip(jobs, rows_per_image) for row in rows if (person := coco_annotation(row))]
    category = {"id": 1, "name": "ends", "keypoints": list(JOINTS), "skeleton": EDGES}
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, **person} for number, (image, person) in enumerate(people, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [category]}


def coco_annotation(row: MpiiRow) -> dict[str, Any] | None:
    """Return one person's box and keypoints; None if no joint is labeled."""
    labeled = (row.part != 0).any(axis=1)
    box = row.part[labeled] - 0.5  # boxes are in corner coordinates
    low, high = box.min(0), box.max(0)
    margin = BOX_MARGIN * float((high - low).max())
    chosen = [BODY16.joints.index(name) for name in JOINTS.values()]
    chosen_labeled = labeled[chosen]
    if not chosen_labeled.any():
        return None
    v = np.where(chosen_labeled, 1 + row.visible[chosen], 0)
    points = np.where(chosen_labeled[:, None], row.part[chosen] - 1, 0)
    corners = [*(low - margin), *(high - low + 2 * margin)]
    return {
        "bbox": [round(float(value), 1) for value in corners],
        "keypoints": [int(number) for point, flag in zip(points, v) for number in (*point, flag)],
        "num_keypoints": int(chosen_labeled.sum()),
    }
