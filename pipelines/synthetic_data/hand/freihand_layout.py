"""Write synthetic hands in FreiHAND's layout: files, folders and annotations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hgfast.fileio.files import atomic_write, write_bytes
from hgfast.pipelines.processes import map_with_progress
from hgfast.pipelines.readers.freihand import VERSIONS
from hgfast.pipelines.synthetic_data.files import check_minimum, data_set_folder, encode_jpeg
from hgfast.pipelines.synthetic_data.hand.scene import render_hand
from hgfast.pipelines.synthetic_data.render.camera import IMAGE_SIZE, Viewpoints
from hgfast.pipelines.synthetic_data.render.render import GBuffer, empty_gbuffer

TRAINING, EVALUATION = 0, 1
ANNOTATION_FILES = ("scale", "xyz", "K")
"""Annotation files of a split in writing order: a folder with `training_K.json` is complete."""
SCALE_BONE = (9, 10)
"""Joints whose distance is a hand's scale: the first phalanx of the middle finger."""
FOLDERS = ("training/rgb", "training/mask", "evaluation/rgb")


@dataclass(frozen=True)
class Job:
    """One hand to render: its number within a split, and the number of hands in that split."""

    out: Path
    seed: int
    split: int
    number: int
    count: int
    viewpoints: Viewpoints


@dataclass(frozen=True)
class Annotation:
    """FreiHAND's annotation of a hand: K (3 rows of 3), xyz (21 rows of 3) in meters, length of `SCALE_BONE` in meters."""

    K: list[list[float]]
    xyz: list[list[float]]
    scale: float


def generate_freihand(
    out: Path,
    count: int = 3000,
    seed: int = 0,
    evaluation: int | None = None,
    viewpoints: Viewpoints = "facing",
    workers: int | None = None,
    overwrite: bool = False,
) -> str:
    """Render right hands into a folder with the layout of FreiHAND_pub_v2.

    Annotations are written last. The images of a hand depend only on the seed, its split and its number.

    Args:
        out: folder to write; created if missing
        count: unique hands for training, each rendered in four versions
        seed: the same seed and counts give the same bytes, for any number of workers
        evaluation: hands for evaluation, one image each; if not given, a twentieth of `count`, at least 8
        viewpoints: "facing", mostly the palm or the back, tilted by about 30 degrees, at any rotation in the image; "uniform",
            every orientation in space equally likely, which is much harder
        workers: processes; if not given, one per core
        overwrite: replace an existing synthetic data set
    """
    num_evaluation = max(8, count // 20) if evaluation is None else evaluation
    check_minimum(count=(count, 1), seed=(seed, 0), evaluation=(num_evaluation, 0), workers=(workers, 1))
    annotation_files = [f"{split}_{name}.json" for split in ("evaluation", "training") for name in ANNOTATION_FILES]
    jobs = [Job(out, seed, TRAINING, i, count, viewpoints) for i in range(count)]
    jobs += [Job(out, seed, EVALUATION, i, num_evaluation, viewpoints) for i in range(num_evaluation)]
    with data_set_folder(out, FOLDERS, annotation_files, 8, overwrite):
        hands = list(map_with_progress(render_job, jobs, workers, "hand"))
        for split, part in (("evaluation", hands[count:]), ("training", hands[:count])):
            for name in ANNOTATION_FILES:
                with atomic_write(out / f"{split}_{name}.json") as file:
                    file.write_text(json.dumps([getattr(hand, name) for hand in part]), "utf-8")
    return f"{4 * count} training and {num_evaluation} evaluation images in {out}"


def render_job(job: Job) -> Annotation:
    """Render one hand and write its images."""
    rng = np.random.default_rng([job.seed, job.split, job.number])
    training = job.split == TRAINING
    hand_images = render_hand(rng, render_buffer(), VERSIONS if training else ("real",), job.viewpoints)
    folder = job.out / ("training" if training else "evaluation")
    for version, image in enumerate(hand_images.images):
        number = job.number + version * job.count
        write_bytes(folder / "rgb" / f"{number:08d}.jpg", encode_jpeg(image, int(rng.integers(70, 96))))
    if training:
        write_bytes(folder / "mask" / f"{job.number:08d}.jpg", encode_jpeg(hand_images.mask, 95))
    xyz = hand_images.hand.xyz
    scale = float(np.linalg.norm(xyz[SCALE_BONE[1]] - xyz[SCALE_BONE[0]]))
    return Annotation(hand_images.hand.K.tolist(), xyz.tolist(), scale)


@lru_cache(maxsize=1)
def render_buffer() -> GBuffer:
    """Return this process's rendering buffers."""
    return empty_gbuffer((IMAGE_SIZE, IMAGE_SIZE))
