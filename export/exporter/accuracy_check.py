"""Compare the PCK of an int8 artifact with that of its checkpoint on the validation split, and refuse a larger loss."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.config import InferenceConfig
from hgfast.errors import HgfastError
from hgfast.export.exporter.options import ExportConfig
from hgfast.model import StackedHourglass
from hgfast.pipelines import sample_crops
from hgfast.pipelines.datasets import DATASETS, figures, open_loader, usable_samples
from hgfast.pipelines.samples import Samples
from hgfast.runtime.backends import RunFn, run_in_batches
from hgfast.runtime.sidecar import KEYPOINTS, Sidecar
from hgfast.training.batch import Batch
from hgfast.training.distributed import Ranks, select_device
from hgfast.training.evaluator import check_joints, collect_predictions, input_adapter, predict


def load_split(config: ExportConfig, model: StackedHourglass, split: str) -> Samples:
    """Return the annotated samples of a split. Raises `HgfastError` for other joints, or if none is labeled."""
    samples = usable_samples(config, split)
    check_joints(config.checkpoint, model.meta.skeleton, samples.skeleton, "the data", "choose another --dataset")
    if not samples.labeled.any():
        raise HgfastError(f"the split {split} has no annotations, which measuring accuracy requires: choose another split")
    return samples


def calibration_images(config: ExportConfig, model: StackedHourglass) -> NDArray[Any]:
    """Return images of the training split in the artifact's input format."""
    samples = load_split(config, model, "train")
    selected = sample_crops.evenly_spaced(samples, config.calibration)
    normalization = model.meta.normalization if config.spec.normalized else None
    return sample_crops.load_crops(selected, model.meta.input_size, normalization, config.threads, config.loader)


def check_accuracy(config: ExportConfig, model: StackedHourglass, run: RunFn, sidecar: Sidecar, runtime: str) -> dict[str, Any]:
    """Return the PCK of the checkpoint and of the artifact in percentage points, for the sidecar.

    Args:
        run: runs the artifact in `runtime`.

    Raises:
        HgfastError: the artifact loses more than --max-loss.
    """
    dataset = DATASETS[config.dataset]
    split = dataset.eval_split(config)
    if split == "train":
        raise HgfastError(
            "int8 is calibrated on the train split and must be evaluated on another one: give --valid-annotations FILE"
        )
    samples = load_split(config, model, split)
    metric, scale = dataset.metric.joint[0], 100 / dataset.metric.full
    ranks = Ranks.single(select_device("cpu"))
    inference = InferenceConfig(batch_size=32, loader=config.loader, threads=config.threads)
    normalization, input_images = input_adapter(sidecar)

    def predict_batch(batch: Batch) -> NDArray[np.floating]:
        return run_in_batches(run, sidecar.batch, input_images(batch))[KEYPOINTS]

    def percentage(predictions: NDArray[np.float64]) -> float:
        return scale * float(figures(config.dataset, samples, predictions)[metric])

    size, meta = model.meta.input_size, model.meta
    exported_loader = open_loader(samples, size, normalization, ranks, inference)
    exported_score = percentage(
        collect_predictions(predict_batch, len(meta.skeleton.joints), meta.shift, exported_loader, ranks, "int8")
    )
    checkpoint_loader = open_loader(samples, size, meta.normalization, ranks, inference)
    checkpoint_score = percentage(predict(model, checkpoint_loader, ranks, "off", "fp32", config.flip_test))
    record = {
        "metric": metric,
        "split": split,
        "samples": len(samples),
        "checkpoint": checkpoint_score,
        "artefact": exported_score,
    }
    record |= {"runtime": runtime, "processor": platform.processor() or platform.machine()}
    print(
        f"{metric}, {config.dataset}, split {split}, {len(samples)} samples: checkpoint {checkpoint_score:.2f}, "
        f"int8 {exported_score:.2f} points"
    )
    loss = checkpoint_score - exported_score
    if loss > config.max_loss:
        raise HgfastError(
            f"int8 loses {loss:.2f} points of {metric}, --max-loss is {config.max_loss:g}: nothing was written; give "
            f"more --calibration images, stay with fp16, or allow the loss with --max-loss {np.ceil(loss):g}"
        )
    return record
