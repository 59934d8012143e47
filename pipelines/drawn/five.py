"""Synthetic people as somebody's own data set: `images/NNNNNNNNN.jpg`, `train.json`, `val.json`, COCO keypoints of five joints.

What may enter: these files, written from the rows of `drawn.mpii`, which count pixels from 1; COCO counts them from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hgfast.files import complete
from hgfast.skeletons import BODY16
from pipelines.drawn.files import at_least, make_room, writing
from pipelines.drawn.mpii import Job, Row, drawn, make_jobs, perform, valid_count
from pipelines.processes import spread

JOINTS = {"head": "head_top", "left_wrist": "left_wrist", "right_wrist": "right_wrist", "left_ankle": "left_ankle",
          "right_ankle": "right_ankle"}  # fmt: skip
"""Names in the files, and MPII's."""
EDGES = ((1, 2), (1, 3), (1, 4), (1, 5))
"""Numbers of joints, from 1, as COCO has them."""
NAMES = ("val", "train")
"""In the order in which the annotations are written: a folder with `train.json` is complete."""
MARGIN = 0.1
"""How much of its longer side a box is larger than the joints in it, on each side."""


def draw_coco(
    out: Path,
    count: int,
    seed: int,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[int, int]:
    """Write `count` pictures for training and `valid` for validation, with their annotations last.

    The pictures are those of `draw_mpii` with the same seed. Returns the people annotated for training and validation.

    Raises:
        HgfastError: numbers that make no data set, a folder that holds one already or cannot be written.
    """
    held = valid_count(count, valid)
    at_least(count=(count, 1), seed=(seed, 0), valid=(held, 1), workers=(workers, 1))
    out = Path(out)
    make_room(out, ("images",), leftovers, overwrite)
    jobs = make_jobs(out, seed, count, held)
    with writing(out):
        pictures = list(spread(perform, jobs, workers, "picture", progress))
        people = {}
        for name, part in zip(NAMES, (slice(count, None), slice(count))):
            content = content_of(jobs[part], pictures[part])
            people[name] = len(content["annotations"])
            with complete(out / f"{name}.json") as beside:
                beside.write_text(json.dumps(content))
    return people["train"], people["val"]


def leftovers(out: Path) -> Iterator[Path]:
    """Files of the layout in a folder, annotations first, so that an interrupted removal leaves no complete data set."""
    yield from (file for name in NAMES[::-1] if (file := out / f"{name}.json").is_file())
    yield from drawn(out)


def content_of(jobs: Sequence[Job], pictures: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """The content of a file for these pictures."""
    images = [{"id": job.index, "file_name": f"{job.index:09d}.jpg"} for job in jobs]
    found = [(job.index, person) for job, rows in zip(jobs, pictures) for row in rows if (person := annotation(row))]
    category = {"id": 1, "name": "ends", "keypoints": list(JOINTS), "skeleton": EDGES}
    numbered = [{"id": number, "image_id": image, "category_id": 1, **person} for number, (image, person) in enumerate(found, 1)]
    return {"images": images, "annotations": numbered, "categories": [category]}


def annotation(row: Row) -> dict[str, Any] | None:
    """One person's box and keypoints; None where no joint is labelled."""
    labelled = (row.part != 0).any(axis=1)
    box = row.part[labelled] - 0.5  # in corner coordinates, as boxes have them
    low, high = box.min(0), box.max(0)
    margin = MARGIN * float((high - low).max())
    chosen = [BODY16.joints.index(name) for name in JOINTS.values()]
    there = labelled[chosen]
    if not there.any():
        return None
    v = np.where(there, 1 + row.visible[chosen], 0)
    points = np.where(there[:, None], row.part[chosen] - 1, 0)
    corners = [*(low - margin), *(high - low + 2 * margin)]
    return {
        "bbox": [round(float(value), 1) for value in corners],
        "keypoints": [int(number) for point, flag in zip(points, v) for number in (*point, flag)],
        "num_keypoints": int(there.sum()),
    }
