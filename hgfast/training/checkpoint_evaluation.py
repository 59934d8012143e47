"""Evaluation of a checkpoint on one split of a data set, and the files that hgfast/evaluate.py writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hgfast.checkpoints import load_model
from hgfast.config import DataConfig, InferenceConfig
from hgfast.errors import HgfastError, print_warning
from hgfast.fileio.files import format_json, to_json, write_text
from hgfast.geometry import FloatArray
from hgfast.pipelines.baselines import mean_pose, nearest_thumbnail
from hgfast.pipelines.datasets import DATASETS, open_loader, usable_samples
from hgfast.pipelines.readers.base import image_folder
from hgfast.pipelines.samples import Samples
from hgfast.training.amp import resolve_amp, slow_precision
from hgfast.training.distributed import Ranks, configure_cudnn, select_device
from hgfast.training.evaluator import check_joints, count_non_finite, has_prediction, predict
from hgfast.visualization.draw import write_image
from hgfast.visualization.gallery import evenly_spaced_grid, worst_samples_grid
from hgfast.visualization.overlays import accuracy_curves, joint_metrics


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    result: content of --json. samples: the N samples that could be read. predictions: (N, K, 2) keypoints in source pixels by
    method: "network" and, if requested, the baselines.
    """

    result: dict[str, Any]
    samples: Samples
    predictions: dict[str, FloatArray]


def evaluate(
    config: InferenceConfig, checkpoint: Path, amp: str = "off", baselines: bool = False, needs_truth: bool = True
) -> Evaluation:
    """Evaluate a checkpoint on a split; the result has a row for the network and each baseline, and one for each joint.

    Args:
        amp: mixed precision; auto, bf16, fp16 or off.
        baselines: also evaluate the mean pose and the nearest training image.
        needs_truth: raise `HgfastError` for a split without annotations.
    """
    data_set = DATASETS[config.dataset]
    split = config.split or data_set.eval_split(config)
    ranks = Ranks.single(select_device(config.device))
    configure_cudnn(deterministic=False, device=ranks.device)
    model = load_model(checkpoint, ranks.device, config.decoder)
    check_skeleton = partial(
        check_joints, checkpoint, model.meta.skeleton, data_name="the data", advice="choose another --dataset"
    )
    if data_set.skeleton is not None:  # before the files are read
        check_skeleton(data_set.skeleton)
    samples = usable_samples(config, split)
    for note in samples.notes:
        print_warning(note)
    check_skeleton(samples.skeleton)
    if needs_truth and not samples.labeled.any():
        raise HgfastError(f"the split {split} has no annotations: use --predictions FILE alone")
    train = usable_samples(config, "train") if baselines else None
    meta, mode = model.meta, resolve_amp(amp, ranks.device)
    loader = open_loader(samples, meta.input_size, meta.normalization, ranks, config)
    if warning := slow_precision(mode, ranks.device):
        print_warning(f"--amp {mode}: {warning}")
    predicted = predict(model, loader, ranks, mode, "evaluate", config.flip_test)
    count, predicted_mask = len(samples), has_prediction(predicted)
    samples, predictions = samples.take(predicted_mask), {"network": predicted[predicted_mask]}
    annotated = bool(samples.labeled.any())
    if annotated and train is not None:
        predictions["mean pose"] = mean_pose(train, samples)
        predictions["nearest 16 x 16 thumbnail"] = nearest_thumbnail(train, samples)
    rows: list[dict[str, Any]] = []
    if annotated:
        rows = [{"method": method, **data_set.metrics(samples, points)} for method, points in predictions.items()]
    files = {"data": config.data, "annotations": config.annotations, "valid_annotations": config.valid_annotations}
    result = {
        "checkpoint": str(checkpoint),
        "dataset": config.dataset,
        **{name: path and str(path) for name, path in files.items()},
        "split": split,
        "versions": config.versions,
        "normalise": config.normalize if data_set.has_box_flags else None,
        "padding": config.padding if data_set.has_box_flags else None,
        "loader": config.loader,
        "decoder": meta.decoder,
        "flip_test": config.flip_test,
        "samples": len(samples),
        "skipped": samples.skipped,
        "unreadable": samples.unreadable + count - len(samples),
        "not_finite": count_non_finite(predictions["network"]),
        "rows": rows,
        "joints": joint_metrics(samples, predictions["network"], data_set.metric) if annotated else [],
    }
    return Evaluation(result, samples, predictions)


def predictions_to_json(config: DataConfig, evaluation: Evaluation) -> str:
    """Format the network's keypoints as JSON in the data set's pixel coordinates, one sample per line; null if not finite."""
    result, samples = evaluation.result, evaluation.samples
    folder = image_folder(config, result["split"])  # FreiHAND's images are elsewhere and keep their plain names
    points = (evaluation.predictions["network"] - samples.pixel_offset).round(3)
    rows = [
        {
            "row": row,
            "file": path.relative_to(folder).as_posix() if folder and path.is_relative_to(folder) else path.name,
            "keypoints": keypoints.tolist(),
        }
        for row, path, keypoints in zip(samples.row.tolist(), map(Path, samples.paths.tolist()), points)
    ]
    header = {name: result[name] for name in ("dataset", "split", "checkpoint", "flip_test")}
    content = {**header, "joints": samples.skeleton.joints, "pixel_offset": samples.pixel_offset, "samples": rows}
    return format_json(content, ["samples"])


def write_chart(flag: str, path: Path, evaluation: Evaluation) -> None:
    """Write the chart of --bars or --curve."""
    from hgfast.visualization import charts  # needs matplotlib

    result, samples = evaluation.result, evaluation.samples
    checkpoint = "/".join(Path(result["checkpoint"]).parts[-2:])
    title = f"{checkpoint}: {len(samples)} samples of {result['dataset']}, split {result['split']}"
    metric = DATASETS[result["dataset"]].metric
    if flag == "bars":
        charts.draw_bars(path, result["joints"], samples.skeleton, metric.full, title)
    else:
        charts.draw_curves(path, *accuracy_curves(samples, evaluation.predictions, metric), title)


def write_output(flag: str, path: Path, config: DataConfig, evaluation: Evaluation) -> None:
    """Write one of evaluate.py's output files, named by its flag. Raises `HgfastError` if the file cannot be written."""
    if flag == "json":
        write_text(path, to_json(evaluation.result, indent=2) + "\n", "--json")
    elif flag == "predictions":
        write_text(path, predictions_to_json(config, evaluation), "--predictions")
    elif flag == "sheet":
        write_image(path, evenly_spaced_grid(evaluation.samples, evaluation.predictions["network"]))
    elif flag == "worst":
        write_image(path, worst_samples_grid(evaluation.samples, evaluation.predictions["network"]))
    else:
        write_chart(flag, path, evaluation)
