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
from hgfast.pipelines.synthetic_data.people.mpii_layout import Job, MpiiRow, generate_people
from hgfast.skeletons import BODY16

JOINTS = {"head": "head_top", "left_wrist": "left_wrist", "right_wrist": "right_wrist", "left_ankle": "left_ankle",
          "right_ankle": "right_ankle"}  # fmt: skip
"""Joint names in the files -> MPII's names."""
EDGES = ((1, 2), (1, 3), (1, 4), (1, 5))
"""Pairs of 1-based joint numbers, as in COCO."""
BOX_MARGIN = 0.1
"""Margin of the box around its joints on each side, as a fraction of the joints' longer extent."""


def generate_coco(
    out: Path, count: int = 300, seed: int = 0, valid: int | None = None, workers: int | None = None, overwrite: bool = False
) -> str:
    """Render photographs of people as a custom data set, COCO keypoints with five joints: images/, train.json, val.json.

    The images are those of `generate_mpii` with the same seed.

    Args:
        out: folder to write; created if missing
        count: images for training, with one to four people each
        seed: the same seed and counts give the same bytes, for any number of workers
        valid: images for validation; if not given, a tenth of `count`, at least 8
        workers: processes; if not given, one per core
        overwrite: replace an existing synthetic data set
    """
    return generate_people(out, count, seed, valid, workers, overwrite, ("images",), ("val.json", "train.json"), write_json)


def write_json(file: Path, jobs: Sequence[Job], rows_per_image: Sequence[list[MpiiRow]]) -> int:
    """Write an annotation file, atomically."""
    images = [{"id": job.index, "file_name": f"{job.index:09d}.jpg"} for job in jobs]
    people = [(job.index, person) for job, rows in zip(jobs, rows_per_image) for row in rows if (person := coco_annotation(row))]
    category = {"id": 1, "name": "ends", "keypoints": list(JOINTS), "skeleton": EDGES}
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, **person} for number, (image, person) in enumerate(people, 1)
    ]
    with atomic_write(file) as partial:
        partial.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}), "utf-8")
    return len(people)


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
