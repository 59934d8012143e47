"""Run a checkpoint or an exported network on the images of a ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.bench.harness.config import OnnxRuntime
from hgfast.bench.scoring.ground_truth import FloatArray, GroundTruth, IntArray, is_detections, is_mpii_h5
from hgfast.checkpoints import load_model
from hgfast.config import DataConfig, InferenceConfig
from hgfast.errors import HgfastError
from hgfast.pipelines.datasets import open_loader, usable_samples
from hgfast.pipelines.readers.image_paths import AllowedRoots
from hgfast.pipelines.readers.mpii_h5 import build_samples
from hgfast.pipelines.readers.mpii_mat import CENTER_OFFSET_Y, SCALE_FACTOR
from hgfast.pipelines.samples import Samples
from hgfast.runtime.backends import Artifact, DeviceOptions, RuntimeName
from hgfast.runtime.sidecar import KEYPOINTS, is_exported
from hgfast.training.amp import resolve_amp
from hgfast.training.batch import Batch
from hgfast.training.distributed import Ranks, select_device
from hgfast.training.evaluator import check_joints, collect_predictions, has_prediction, input_adapter, predict


def open_images(choice: DataConfig, split: str, truth: GroundTruth) -> Samples:
    """Return the samples of `truth` that have an image, from --annotations FILE.h5 (for example test.h5) or the data set.

    Raises:
        HgfastError: images are missing, or no flag specifies their folder.
    """
    path = choice.annotations
    if path is None or not is_mpii_h5(path):
        if path is not None and is_detections(path):  # it contains no image names, but the people of valid.h5
            return usable_samples(replace(choice, dataset="mpii", annotations=None), "valid")
        return usable_samples(choice, split)
    images = choice.images or (choice.data and choice.data / "images")
    if images is None or not images.is_dir():
        raise HgfastError(f"the images of {path} are missing: give their folder as --images DIR, or --data DIR with images/")
    if truth.objpos is None or truth.scale is None or truth.files is None:
        raise HgfastError(f"{path} has no center and scale, which are needed to crop people: give the complete file")
    center_offset = np.stack([np.zeros(len(truth)), CENTER_OFFSET_Y * truth.scale], 1)
    return build_samples(
        images,
        truth.files.tolist(),
        center=truth.objpos + center_offset,
        scale=SCALE_FACTOR * truth.scale,
        points=truth.points,
        labeled=truth.labeled,
        reference=truth.reference,
        row=truth.rows,
        skip_missing=choice.skip_missing,
        bounds=AllowedRoots(choice.data if choice.images is None else None, choice.data_outside),
    )


@dataclass(frozen=True)
class NetworkPredictions:
    """Keypoints that a network predicted.

    points: (M, K, 2) in the pixel coordinates of the ground truth, NaN if not finite. sample_indices: (M,) their samples in the
    ground truth, ascending. source_px_per_input_px: (M,) source pixels per pixel of the network's input. description:
    "checkpoint", or runtime and precision of an artifact.
    """

    points: FloatArray
    sample_indices: IntArray
    source_px_per_input_px: FloatArray
    decoder: str
    description: str


def run_network(
    path: Path, samples: Samples, truth: GroundTruth, config: InferenceConfig, onnx_runtime: OnnxRuntime | None = None
) -> NetworkPredictions:
    """Run a checkpoint or an artifact; samples whose image cannot be read are omitted.

    onnx_runtime: None for the first installed one.

    Raises:
        GpuNotFound: an engine without a GPU.
        HgfastError: the network has other joints, the artifact was exported with other flags, or images are not in `truth`.
    """
    if is_exported(path):
        predicted, size, decoder, description = _run_artifact(path, samples, truth, config, onnx_runtime)
    else:
        predicted, size, decoder, description = _run_checkpoint(path, samples, truth, config)
    predicted_mask = has_prediction(predicted)
    keypoints = np.where(np.isfinite(predicted), predicted, np.nan)
    index_by_row = dict(zip(truth.rows.tolist(), range(len(truth))))
    rows = samples.row[predicted_mask].tolist()
    if unknown_rows := [row for row in rows if row not in index_by_row]:
        raise HgfastError(f"row {unknown_rows[0]} of the images is not in {truth.source}: give the annotations of these images")
    sample_indices = np.array([index_by_row[row] for row in rows], np.int64)
    order = np.argsort(sample_indices)
    source_px_per_input_px = samples.side[predicted_mask][order] / size
    return NetworkPredictions(
        (keypoints[predicted_mask] - truth.pixel_offset)[order],
        sample_indices[order],
        source_px_per_input_px,
        decoder,
        description,
    )


def _run_checkpoint(
    checkpoint: Path, samples: Samples, truth: GroundTruth, config: InferenceConfig
) -> tuple[FloatArray, int, str, str]:
    """Run a checkpoint; return points (N, K, 2) in source pixels, the side of the input, the decoder and the description."""
    ranks = Ranks.single(select_device(config.device))
    model = load_model(checkpoint, ranks.device, config.decoder)
    meta = model.meta
    check_joints(checkpoint, meta.skeleton, truth.skeleton, f"the joints of {truth.source}", "choose another")
    loader = open_loader(samples, meta.input_size, meta.normalization, ranks, config)
    predicted = predict(model, loader, ranks, resolve_amp("off", ranks.device), checkpoint.name, config.flip_test)
    return predicted, meta.input_size, meta.decoder, "checkpoint"


def _run_artifact(
    path: Path, samples: Samples, truth: GroundTruth, config: InferenceConfig, onnx_runtime: OnnxRuntime | None
) -> tuple[FloatArray, int, str, str]:
    """Run an exported network; return the same as `_run_checkpoint`."""
    bf16 = onnx_runtime == "openvino-bf16"
    runtime: RuntimeName | None = "openvino" if onnx_runtime == "openvino-bf16" else onnx_runtime
    artifact = Artifact(path, runtime, DeviceOptions(config.threads, bf16=bf16))
    sidecar = artifact.sidecar
    check_joints(path, sidecar.skeleton, truth.skeleton, f"the joints of {truth.source}", "choose another")
    if KEYPOINTS not in [port.name for port in sidecar.outputs]:
        raise HgfastError(f"{path} does not return keypoints: export it with --outputs keypoints,heatmaps")
    if config.flip_test != sidecar.flip_test or (config.decoder or sidecar.decoder) != sidecar.decoder:
        raise HgfastError(
            f"{path} was exported {'with' if sidecar.flip_test else 'without'} a flip test and decodes by {sidecar.decoder}: "
            "give --flip-test and --decoder accordingly, or export it again"
        )
    normalization, input_images = input_adapter(sidecar)
    ranks = Ranks.single(select_device("cpu"))
    loader = open_loader(samples, sidecar.input_size, normalization, ranks, config)

    def predict_batch(batch: Batch) -> NDArray[np.floating]:
        return artifact.all(input_images(batch))[KEYPOINTS]

    predicted = collect_predictions(predict_batch, len(sidecar.skeleton.joints), sidecar.result_offset, loader, ranks, path.name)
    return predicted, sidecar.input_size, sidecar.decoder, f"{artifact.runtime} {'bf16' if bf16 else sidecar.precision}"
