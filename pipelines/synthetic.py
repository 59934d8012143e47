"""Synthetic data sets in the layouts of the real ones: `python pipelines/synthetic.py freihand|mpii|coco --out DIR --count N`.

What may enter: the commands. Files and folders of the layouts are `drawn.freihand`, `drawn.mpii` and
`drawn.five`; what the pictures show is in the other modules of `drawn`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hgfast.cli import dispatch
from hgfast.errors import run
from pipelines.drawn.camera import Viewpoints
from pipelines.drawn.five import draw_coco
from pipelines.drawn.freihand import draw_freihand, evaluation_count
from pipelines.drawn.mpii import draw_mpii, valid_count

__all__ = ["draw_coco", "draw_freihand", "draw_mpii"]


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


def mpii(
    out: Path,
    count: int = 3000,
    seed: int = 0,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Draw photographs of people into a folder laid out as MPII is for training: images/, annot/train.h5, annot/valid.h5.

    Args:
        out: folder to write, made if missing
        count: pictures for training, with one to four people each
        seed: the same seed and numbers give the same bytes, whatever the number of workers
        valid: pictures for validation; a tenth of `count`, at least 8, if not given
        workers: processes; one a core if not given
        overwrite: replace a synthetic data set that is there
    """
    start = time.perf_counter()
    say_people(draw_mpii(out, count, seed, valid, workers, overwrite), count, valid_count(count, valid), out, start)


def coco(
    out: Path,
    count: int = 300,
    seed: int = 0,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Draw photographs of people as somebody's own data set, COCO keypoints of five joints: images/, train.json, val.json.

    Args:
        out: folder to write, made if missing
        count: pictures for training, with one to four people each
        seed: the same seed and numbers give the same bytes, whatever the number of workers
        valid: pictures for validation; a tenth of `count`, at least 8, if not given
        workers: processes; one a core if not given
        overwrite: replace a synthetic data set that is there
    """
    start = time.perf_counter()
    say_people(draw_coco(out, count, seed, valid, workers, overwrite), count, valid_count(count, valid), out, start)


def say_people(people: tuple[int, int], count: int, held: int, out: Path, start: float) -> None:
    """How many pictures and people there are for training and validation, and since `start` how long it took."""
    of_training, of_validation = people
    drawn = f"{count} training pictures of {of_training} people and {held} validation pictures of {of_validation} in {out}"
    print(f"{drawn}, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"freihand": freihand, "mpii": mpii, "coco": coco}
    run(lambda: dispatch(commands, description="Synthetic data sets in the layouts of the real ones."))
