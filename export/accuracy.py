"""What an artefact's precision costs in PCK: the checkpoint and the artefact on the same pictures of the validation split.

What may enter: the gate that an inaccurate model does not pass.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray
from options import ExportConfig

from hgfast.batch import Batch
from hgfast.distributed import Ranks, pick_device
from hgfast.errors import HgfastError
from hgfast.evaluation import check_joints, feed, predict, predict_with
from hgfast.model import StackedHourglass
from hgfast.runtimes import Runner, in_parts
from hgfast.sidecar import KEYPOINTS, Sidecar
from pipelines import sample_crops
from pipelines.datasets import DATASETS, figures, open_loader, usable_samples
from pipelines.samples import Samples

PCK = "pck@0.2"  # of data sets that are not scored by PCKh


def open_split(config: ExportConfig, model: StackedHourglass, split: str) -> Samples:
    """The samples of a split with annotations. Raises `HgfastError` for other joints than the network's, or none labelled."""
    samples = usable_samples(config, split)
    check_joints(config.checkpoint, model.meta.skeleton, samples.skeleton, "the data", "choose another --dataset")
    if not samples.labelled.any():
        raise HgfastError(f"the split {split} has no annotations, without which accuracy cannot be judged: name others")
    return samples


def calibration(config: ExportConfig, model: StackedHourglass) -> NDArray[Any]:
    """Pictures of the training split, as the artefact takes them."""
    samples = open_split(config, model, "train")
    chosen = sample_crops.spread(samples, config.calibration)
    preprocessing = model.meta.preprocessing if config.wiring.normalised else None
    return sample_crops.images(chosen, model.meta.input_size, preprocessing, config.threads)


def judge(config: ExportConfig, model: StackedHourglass, run: Runner, sidecar: Sidecar, runtime: str) -> dict[str, Any]:
    """The checkpoint's and the artefact's PCK in points of 100, for the sidecar; `run` runs the artefact in `runtime`.

    Raises:
        HgfastError: the artefact loses more than --max-loss.
    """
    dataset = DATASETS[config.dataset]
    split = dataset.held_out(config)
    if split == "train":
        raise HgfastError("int8 is calibrated on the split train and must be judged on another: name --valid-annotations FILE")
    samples = open_split(config, model, split)
    metric, unit = (dataset.best, 1) if dataset.heads else (PCK, 100)
    ranks = Ranks(0, 1, 1, pick_device("cpu"))
    preprocessing, images_of = feed(sidecar)

    def find(batch: Batch) -> NDArray[np.floating]:
        return in_parts(run, sidecar.batch, images_of(batch))[KEYPOINTS]

    def points(found: NDArray[np.float64]) -> float:
        return unit * float(figures(config.dataset, samples, found)[metric])

    size, meta = model.meta.input_size, model.meta
    raw = open_loader(samples, size, 32, preprocessing, ranks, threads=config.threads)
    after = points(predict_with(find, len(meta.skeleton.joints), meta.shift, raw, ranks, "int8"))
    own = open_loader(samples, size, 32, meta.preprocessing, ranks, threads=config.threads)
    before = points(predict(model, own, ranks, "off", "fp32", config.flip_test))
    about = {"metric": metric, "split": split, "samples": len(samples), "checkpoint": before, "artefact": after}
    about |= {"runtime": runtime, "processor": platform.processor() or platform.machine()}
    print(f"{metric}, {config.dataset}, split {split}, {len(samples)} samples: checkpoint {before:.2f}, int8 {after:.2f} points")
    if before - after > config.max_loss:
        raise HgfastError(
            f"int8 loses {before - after:.2f} points of {metric}, --max-loss is {config.max_loss:g}: nothing was written; give "
            f"more --calibration pictures, stay with fp16, or allow the loss with --max-loss {np.ceil(before - after):g}"
        )
    return about
