"""Write synthetic data sets in the layouts of real ones.

python pipelines/synthetic.py freihand|mpii|coco --out DIR --count N
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hgfast.cli import dispatch
from hgfast.errors import run_main
from hgfast.pipelines.synthetic_data.hand.freihand_layout import evaluation_count, generate_freihand
from hgfast.pipelines.synthetic_data.people.coco_layout import generate_coco
from hgfast.pipelines.synthetic_data.people.mpii_layout import default_valid_count, generate_mpii
from hgfast.pipelines.synthetic_data.render.camera import Viewpoints

__all__ = ["generate_coco", "generate_freihand", "generate_mpii"]


def freihand(
    out: Path,
    count: int = 3000,
    seed: int = 0,
    evaluation: int | None = None,
    viewpoints: Viewpoints = "facing",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Render right hands into a folder with the layout of FreiHAND_pub_v2.

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
    start = time.perf_counter()
    generate_freihand(out, count, seed, evaluation, workers, overwrite, viewpoints=viewpoints)
    num_evaluation = evaluation_count(count, evaluation)
    seconds = time.perf_counter() - start
    print(f"{4 * count} training and {num_evaluation} evaluation images in {out}, {seconds:.1f} s", flush=True)


def mpii(
    out: Path,
    count: int = 3000,
    seed: int = 0,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Render photographs of people into a folder with the layout of MPII for training: images/, annot/train.h5, annot/valid.h5.

    Args:
        out: folder to write; created if missing
        count: images for training, with one to four people each
        seed: the same seed and counts give the same bytes, for any number of workers
        valid: images for validation; if not given, a tenth of `count`, at least 8
        workers: processes; if not given, one per core
        overwrite: replace an existing synthetic data set
    """
    start = time.perf_counter()
    print_summary(
        generate_mpii(out, count, seed, valid, workers, overwrite), count, default_valid_count(count, valid), out, start
    )


def coco(
    out: Path,
    count: int = 300,
    seed: int = 0,
    valid: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Render photographs of people as a custom data set, COCO keypoints with five joints: images/, train.json, val.json.

    Args:
        out: folder to write; created if missing
        count: images for training, with one to four people each
        seed: the same seed and counts give the same bytes, for any number of workers
        valid: images for validation; if not given, a tenth of `count`, at least 8
        workers: processes; if not given, one per core
        overwrite: replace an existing synthetic data set
    """
    start = time.perf_counter()
    print_summary(
        generate_coco(out, count, seed, valid, workers, overwrite), count, default_valid_count(count, valid), out, start
    )


def print_summary(people: tuple[int, int], count: int, num_valid: int, out: Path, start: float) -> None:
    """Print the numbers of images and people for training and validation, and the time since `start`."""
    training, validation = f"{count} training images of {people[0]} people", f"{num_valid} validation images of {people[1]}"
    print(f"{training} and {validation} in {out}, {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    commands: dict[str, Callable[..., None]] = {"freihand": freihand, "mpii": mpii, "coco": coco}
    dispatch(commands, description="Synthetic data sets in the layouts of the real ones.")


if __name__ == "__main__":
    run_main(main)
