"""Synthetic data sets in the layouts of the real ones: `python pipelines/synthetic.py freihand --out DIR --count N`.

What may enter: the command, files and folders, and the processes that share the work. What the pictures show is in the
other `synthetic_*` modules.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.cli import dispatch
from hgfast.errors import HgfastError, run
from hgfast.machine import cores
from pipelines.freihand import VERSIONS
from pipelines.synthetic_camera import Viewpoints
from pipelines.synthetic_render import Surface, blank
from pipelines.synthetic_scene import photograph

TRAINING, EVALUATION = 0, 1
LISTS = ("scale", "xyz", "K")
"""Annotation files of a split in the order they are written: a folder with `training_K.json` is complete."""
SCALE_BONE = (9, 10)
"""The joints whose distance is a hand's scale: the first phalanx of the middle finger."""
CHUNK = 16


@dataclass(frozen=True)
class Job:
    """One hand to draw: its number within a split, and how many hands that split has."""

    out: Path
    seed: int
    split: int
    number: int
    count: int
    viewpoints: Viewpoints


@dataclass(frozen=True)
class Annotation:
    """What FreiHAND tells of a hand: K (3 rows of 3), xyz (21 rows of 3) in metres, a bone's length in metres."""

    K: list[list[float]]
    xyz: list[list[float]]
    scale: float


def freihand(
    out: Path,
    count: int = 3000,
    seed: int = 0,
    evaluation: int | None = None,
    viewpoints: Viewpoints = "facing",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Draw right hands into a folder laid out as FreiHAND_pub_v2.

    Args:
        out: folder to write, made if missing
        count: unique hands for training, each drawn in four versions
        seed: the same seed and numbers give the same bytes, whatever the number of workers
        evaluation: hands for evaluation, one picture each; a twentieth of `count`, at least 8, if not given
        viewpoints: "facing", mostly the palm or the back tilted by some 30 degrees, in any direction of the picture;
            "uniform", every orientation in space equally likely, which is much harder
        workers: processes; one a core if not given
        overwrite: replace a synthetic data set that is there
    """
    start = time.perf_counter()
    draw_freihand(out, count, seed, evaluation, workers, overwrite, viewpoints=viewpoints)
    held = evaluation_count(count, evaluation)
    seconds = time.perf_counter() - start
    print(f"{4 * count} training and {held} evaluation pictures in {out}, {seconds:.1f} s", flush=True)


def draw_freihand(
    out: Path,
    count: int,
    seed: int,
    evaluation: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    viewpoints: Viewpoints = "facing",
) -> None:
    """Write `count` training hands in four versions and `evaluation` others in one, with their annotations last.

    The pictures of a hand depend on the seed, its split and its number alone.
    """
    held = evaluation_count(count, evaluation)
    check(count, seed, held, workers)
    out = Path(out)
    make_room(out, overwrite)
    jobs = [Job(out, seed, TRAINING, i, count, viewpoints) for i in range(count)]
    jobs += [Job(out, seed, EVALUATION, i, held, viewpoints) for i in range(held)]
    try:
        drawn = list(tqdm(spread(jobs, workers), total=len(jobs), unit="hand", disable=None if progress else True))
        write_lists(out, "evaluation", drawn[count:])
        write_lists(out, "training", drawn[:count])
    except OSError as error:
        raise HgfastError(f"cannot write to {out}: {error}; free some space or choose another --out") from error


def evaluation_count(count: int, evaluation: int | None) -> int:
    """The number of evaluation hands, given or by default."""
    return max(8, count // 20) if evaluation is None else evaluation


def check(count: int, seed: int, evaluation: int, workers: int | None) -> None:
    """Refuse numbers that make no data set."""
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("evaluation", evaluation, 0), ("workers", workers, 1)):
        if value is not None and value < least:
            raise HgfastError(f"--{name} is {value}, but must be at least {least}")


def make_room(out: Path, overwrite: bool) -> None:
    """Make the folders of the layout; remove what an earlier run left in them if `overwrite`, or else refuse to."""
    try:
        old = list(leftovers(out))
        if old and not overwrite:
            raise HgfastError(f"{out} already holds a data set; choose another --out, or replace it with --overwrite")
        for file in old:
            file.unlink()
        for folder in ("training/rgb", "training/mask", "evaluation/rgb"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HgfastError(f"cannot write to {out}: {error}; choose another --out") from error
    if not os.access(out, os.W_OK):
        raise HgfastError(f"cannot write to {out}: no permission; choose another --out")


def leftovers(out: Path) -> Iterator[Path]:
    """Files of the layout in a folder, annotations first, so that an interrupted removal leaves no complete data set."""
    for split in ("training", "evaluation"):
        yield from (file for name in LISTS[::-1] if (file := out / f"{split}_{name}.json").is_file())
    for folder in ("training/rgb", "training/mask", "evaluation/rgb"):
        if (out / folder).is_dir():
            yield from (file for file in (out / folder).iterdir() if re.fullmatch(r"\d{8}\.jpg", file.name))


def spread(jobs: list[Job], workers: int | None) -> Iterator[Annotation]:
    """The annotations of all jobs in their order, drawn by this process or by several."""
    workers = min(workers or cores(), math.ceil(len(jobs) / CHUNK))
    if workers == 1:
        yield from map(perform, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(perform, jobs, chunksize=CHUNK)


def perform(job: Job) -> Annotation:
    """Draw one hand and write its pictures."""
    rng = np.random.default_rng([job.seed, job.split, job.number])
    training = job.split == TRAINING
    shot = photograph(rng, scratch(), VERSIONS if training else ("real",), job.viewpoints)
    folder = job.out / ("training" if training else "evaluation")
    for version, picture in enumerate(shot.pictures):
        number = job.number + version * job.count
        (folder / "rgb" / f"{number:08d}.jpg").write_bytes(jpeg(picture, int(rng.integers(70, 96))))
    if training:
        (folder / "mask" / f"{job.number:08d}.jpg").write_bytes(jpeg(shot.mask, 95))
    xyz = shot.hand.xyz
    scale = float(np.linalg.norm(xyz[SCALE_BONE[1]] - xyz[SCALE_BONE[0]]))
    return Annotation(shot.hand.K.tolist(), xyz.tolist(), scale)


@lru_cache(maxsize=1)
def scratch() -> Surface:
    """This process's drawing buffers."""
    return blank()


def jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """A picture (H, W, 3) BGR or (H, W) as a JPEG file."""
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def write_lists(out: Path, split: str, hands: list[Annotation]) -> None:
    """The annotation files of a split, each complete or absent."""
    for name in LISTS:
        file = out / f"{split}_{name}.json"
        partial = file.with_suffix(".json.partial")
        partial.write_text(json.dumps([getattr(hand, name) for hand in hands]))
        partial.replace(file)


if __name__ == "__main__":
    run(lambda: dispatch({"freihand": freihand}, description="Synthetic data sets in the layouts of the real ones."))
