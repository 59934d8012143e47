"""Synthetic hands in FreiHAND's layout.

What may enter: which files and folders make the data set, and what is written about a hand. What the pictures show is
`drawn.scene`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hgfast.files import complete
from pipelines.drawn.camera import PICTURE, Viewpoints
from pipelines.drawn.files import at_least, jpeg, make_room, writing
from pipelines.drawn.render import Surface, blank
from pipelines.drawn.scene import photograph
from pipelines.freihand import VERSIONS
from pipelines.processes import spread

TRAINING, EVALUATION = 0, 1
LISTS = ("scale", "xyz", "K")
"""Annotation files of a split in the order they are written: a folder with `training_K.json` is complete."""
SCALE_BONE = (9, 10)
"""The joints whose distance is a hand's scale: the first phalanx of the middle finger."""
FOLDERS = ("training/rgb", "training/mask", "evaluation/rgb")


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
    at_least(count=(count, 1), seed=(seed, 0), evaluation=(held, 0), workers=(workers, 1))
    out = Path(out)
    make_room(out, FOLDERS, leftovers, overwrite)
    jobs = [Job(out, seed, TRAINING, i, count, viewpoints) for i in range(count)]
    jobs += [Job(out, seed, EVALUATION, i, held, viewpoints) for i in range(held)]
    with writing(out):
        drawn = list(spread(perform, jobs, workers, "hand", progress))
        write_lists(out, "evaluation", drawn[count:])
        write_lists(out, "training", drawn[:count])


def evaluation_count(count: int, evaluation: int | None) -> int:
    """The number of evaluation hands, given or by default."""
    return max(8, count // 20) if evaluation is None else evaluation


def leftovers(out: Path) -> Iterator[Path]:
    """Files of the layout in a folder, annotations first, so that an interrupted removal leaves no complete data set."""
    for split in ("training", "evaluation"):
        yield from (file for name in LISTS[::-1] if (file := out / f"{split}_{name}.json").is_file())
    for folder in FOLDERS:
        if (out / folder).is_dir():
            yield from (file for file in (out / folder).iterdir() if re.fullmatch(r"\d{8}\.jpg", file.name))


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
    return blank((PICTURE, PICTURE))


def write_lists(out: Path, split: str, hands: list[Annotation]) -> None:
    """The annotation files of a split, each complete or absent."""
    for name in LISTS:
        with complete(out / f"{split}_{name}.json") as file:
            file.write_text(json.dumps([getattr(hand, name) for hand in hands]))
