"""Keypoints of a checkpoint or an exported network on the pictures of a ground truth, as if they had been read from a file of
predictions.

What may enter: finding the pictures and running networks on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pckh_truth import Array, Truth, Whole, is_detections, is_mpii_h5

from hgfast.batch import Batch
from hgfast.checkpoints import load_model
from hgfast.config import DataChoice
from hgfast.distributed import Ranks, pick_device
from hgfast.errors import HgfastError
from hgfast.evaluation import check_joints, feed, predict, predict_with, seen
from hgfast.precision import resolve
from hgfast.runtimes import Artefact, Place, Runtime
from hgfast.sidecar import KEYPOINTS, is_artefact
from pipelines.datasets import open_loader, usable_samples
from pipelines.mpii import as_samples
from pipelines.mpii_mat import DOWN, WIDER
from pipelines.pictures import Bounds
from pipelines.samples import Samples

Within = Literal["onnxruntime", "openvino", "openvino-bf16"]
"""What to run an ONNX in; the last is OpenVINO's own choice for fp32 on CPUs that have bf16."""


@dataclass(frozen=True)
class Running:
    """How to run a network; as hgfast/evaluate.py has them. within: of an ONNX; None is what is taken first."""

    device: str
    batch_size: int
    loader: Literal["dali", "torch"]
    threads: int | None
    flip_test: bool
    decoder: Literal["argmax", "quarter", "dark"] | None = None
    within: Within | None = None


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
        bounds=Bounds(choice.data if choice.images is None else None, choice.data_outside),
    )


@dataclass(frozen=True)
class Ran:
    """What a network found in the pictures.

    points: (M, K, 2) in the pixel numbers of the ground truth, NaN where not finite. places: (M,) which of its samples they
    are of, ascending. unit: (M,) source pixels that a pixel of the network's input was. what: "checkpoint", or the runtime
    and precision of an artefact.
    """

    points: Array
    places: Whole
    unit: Array
    decoder: str
    what: str


def run_network(path: Path, samples: Samples, truth: Truth, how: Running) -> Ran:
    """The keypoints that a checkpoint or an artefact finds; samples whose picture cannot be read are left out.

    Raises:
        NoGpu: an engine, where there is no GPU to run it on.
        HgfastError: a network of other joints, flags that an artefact was not exported with, pictures not in `truth`.
    """
    run = _run_artefact if is_artefact(path) else _run_checkpoint
    predicted, size, decoder, what = run(path, samples, truth, how)
    there = seen(predicted)
    points = np.where(np.isfinite(predicted), predicted, np.nan)
    numbers = dict(zip(truth.rows.tolist(), range(len(truth))))
    rows = samples.row[there].tolist()
    if strange := [row for row in rows if row not in numbers]:
        raise HgfastError(f"row {strange[0]} of the pictures is not in {truth.source}: give the annotations that belong to them")
    places = np.array([numbers[row] for row in rows], np.int64)
    order = np.argsort(places)
    unit = samples.side[there][order] / size
    return Ran((points[there] - truth.pixel_offset)[order], places[order], unit, decoder, what)


def _run_checkpoint(checkpoint: Path, samples: Samples, truth: Truth, how: Running) -> tuple[Array, int, str, str]:
    """A checkpoint: points (N, K, 2) in source pixels, the input's side, the decoder, and what it was."""
    ranks = Ranks(0, 1, 1, pick_device(how.device))
    model = load_model(checkpoint, ranks.device, how.decoder)
    meta = model.meta
    check_joints(checkpoint, meta.skeleton, truth.skeleton, f"the joints of {truth.source}", "choose another")
    loader = open_loader(
        samples, meta.input_size, how.batch_size, meta.preprocessing, ranks, threads=how.threads, kind=how.loader
    )
    predicted = predict(model, loader, ranks, resolve("off", ranks.device), checkpoint.name, how.flip_test)
    return predicted, meta.input_size, meta.decoder, "checkpoint"


def _run_artefact(path: Path, samples: Samples, truth: Truth, how: Running) -> tuple[Array, int, str, str]:
    """An exported network, likewise."""
    bf16 = how.within == "openvino-bf16"
    runtime: Runtime | None = "openvino" if how.within == "openvino-bf16" else how.within
    artefact = Artefact(path, runtime, Place(how.threads, bf16=bf16))
    sidecar = artefact.sidecar
    check_joints(path, sidecar.skeleton, truth.skeleton, f"the joints of {truth.source}", "choose another")
    if KEYPOINTS not in [port.name for port in sidecar.outputs]:
        raise HgfastError(f"{path} gives no keypoints: export it with --outputs keypoints,heatmaps")
    if how.flip_test != sidecar.flip_test or (how.decoder or sidecar.decoder) != sidecar.decoder:
        raise HgfastError(
            f"{path} was exported {'with' if sidecar.flip_test else 'without'} a flip test and decodes by {sidecar.decoder}: "
            "give --flip-test and --decoder accordingly, or export it again"
        )
    preprocessing, images_of = feed(sidecar)
    ranks = Ranks(0, 1, 1, pick_device("cpu"))
    loader = open_loader(samples, sidecar.input_size, how.batch_size, preprocessing, ranks, threads=how.threads, kind=how.loader)

    def find(batch: Batch) -> NDArray[np.floating]:
        return artefact.all(images_of(batch))[KEYPOINTS]

    predicted = predict_with(find, len(sidecar.skeleton.joints), sidecar.shift, loader, ranks, path.name)
    return predicted, sidecar.input_size, sidecar.decoder, f"{artefact.runtime} {'bf16' if bf16 else sidecar.precision}"
