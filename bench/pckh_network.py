"""Keypoints of a checkpoint on the pictures of a ground truth, as if they had been read from a file of predictions.

What may enter: finding the pictures and running networks on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pckh_truth import Array, Truth, Whole, is_detections, is_mpii_h5

from hgfast.checkpoints import load_model
from hgfast.config import DataChoice
from hgfast.distributed import Ranks, pick_device
from hgfast.errors import HgfastError
from hgfast.evaluation import check_joints, predict, seen
from hgfast.precision import resolve
from pipelines.datasets import open_loader, usable_samples
from pipelines.mpii import as_samples
from pipelines.mpii_mat import DOWN, WIDER
from pipelines.samples import Samples


@dataclass(frozen=True)
class Running:
    """How to run a network; as hgfast/evaluate.py has them."""

    device: str
    batch_size: int
    loader: Literal["dali", "torch"]
    threads: int | None
    flip_test: bool
    decoder: Literal["argmax", "quarter", "dark"] | None = None


def open_pictures(choice: DataChoice, split: str, truth: Truth) -> Samples:
    """The samples of `truth` that have a picture: those of --annotations FILE.h5 (test.h5, say), else of the data set.

    Raises:
        HgfastError: pictures missing, or nothing said about where they are.
    """
    path = choice.annotations
    if path is None or not is_mpii_h5(path):
        if path is not None and is_detections(path):  # it names no pictures, but its people are those of valid.h5
            return usable_samples(replace(choice, dataset="mpii", annotations=None), "valid")
        return usable_samples(choice, split)
    images = choice.images or (choice.data and choice.data / "images")
    if images is None or not images.is_dir():
        raise HgfastError(
            f"the pictures that {path} names are missing: give their folder as --images DIR, or --data DIR with images/"
        )
    if truth.objpos is None or truth.scale is None or truth.files is None:
        raise HgfastError(f"{path} has no center and scale, without which there is nothing to crop; give the whole file")
    down = np.stack([np.zeros(len(truth)), DOWN * truth.scale], 1)
    return as_samples(
        images,
        truth.files.tolist(),
        centre=truth.objpos + down,
        scale=WIDER * truth.scale,
        points=truth.points,
        labelled=truth.labelled,
        reference=truth.reference,
        row=truth.rows,
        skip_missing=choice.skip_missing,
    )


def run_network(checkpoint: Path, samples: Samples, truth: Truth, how: Running) -> tuple[Array, Whole, str]:
    """Points (M, K, 2) in the pixel numbers of `truth`, which of its samples they are of, (M,), ascending, and the decoder used.

    Samples whose picture cannot be read are not among them. Points that are not finite are NaN.

    Raises:
        HgfastError: a network of other joints, or pictures that are not in `truth`.
    """
    ranks = Ranks(0, 1, 1, pick_device(how.device))
    model = load_model(checkpoint, ranks.device, how.decoder)
    meta = model.meta
    check_joints(checkpoint, meta.skeleton, truth.skeleton, f"the joints of {truth.source}", "choose another")
    loader = open_loader(
        samples, meta.input_size, how.batch_size, meta.preprocessing, ranks, threads=how.threads, kind=how.loader
    )
    predicted = predict(model, loader, ranks, resolve("off", ranks.device), checkpoint.name, how.flip_test)
    there = seen(predicted)
    points = np.where(np.isfinite(predicted), predicted, np.nan)
    numbers = dict(zip(truth.rows.tolist(), range(len(truth))))
    rows = samples.row[there].tolist()
    if strange := [row for row in rows if row not in numbers]:
        raise HgfastError(f"row {strange[0]} of the pictures is not in {truth.source}: give the annotations that belong to them")
    places = np.array([numbers[row] for row in rows], np.int64)
    order = np.argsort(places)
    return (points[there] - truth.pixel_offset)[order], places[order], meta.decoder
