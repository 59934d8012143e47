"""Evaluate a checkpoint on one split of a data set and write a table, JSON files, charts and image grids.

python hgfast/evaluate.py exp/freihand/best.pt --dataset freihand --data DIR --json result.json
python hgfast/evaluate.py exp/mpii/best.pt --dataset mpii --data DIR --baselines --out report
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import check_distinct_paths, format_json, prepare_file, to_json, write_text
from hgfast.pipelines.baselines import mean_pose, nearest_thumbnail
from hgfast.pipelines.datasets import DATASETS, input_files, open_loader, usable_samples
from hgfast.pipelines.readers.base import image_folder
from hgfast.pipelines.samples import Samples
from hgfast.training.amp import resolve_amp, slow_precision
from hgfast.training.distributed import Ranks, select_device
from hgfast.training.evaluator import check_joints, count_non_finite, predict, seen
from hgfast.visualization.draw import write_image
from hgfast.visualization.gallery import evenly_spaced_grid, worst_samples_grid
from hgfast.visualization.overlays import accuracy_curves, joint_metrics

FloatArray = NDArray[np.float64]

IMAGE_SUFFIXES, CHART_SUFFIXES = (".jpg", ".png"), (".png", ".svg", ".pdf")


class Output(NamedTuple):
    """An output file: its name in --out, its description and, for images, which all need ground truth, the valid suffixes."""

    name: str
    description: str
    suffixes: tuple[str, ...] = ()


OUTPUTS = {
    "json": Output("metrics.json", "metrics"),
    "predictions": Output("predictions.json", "keypoints"),
    "bars": Output("joints.png", "chart of joints", CHART_SUFFIXES),
    "curve": Output("curve.png", "curve", CHART_SUFFIXES),
    "sheet": Output("sheet.jpg", "images", IMAGE_SUFFIXES),
    "worst": Output("worst.jpg", "worst samples, by mean error over reference length", IMAGE_SUFFIXES),
}
"""Output files by flag, in the order of writing."""


MAX_TABLE_WIDTH = 120  # characters of a terminal's line


@dataclass(kw_only=True)
class EvaluateConfig(DataConfig):
    """Evaluation."""

    checkpoint: Path
    """checkpoint written by training, or weights of princeton-vl or bearpaw"""
    split: Literal["train", "valid", "test", "all", "evaluation"] | None = None
    """split to evaluate; none: test for FreiHAND, valid for MPII and for COCO with --valid-annotations, else train"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """batch size"""
    loader: Literal["dali", "opencv"] = "dali"
    """data loader: dali, NVIDIA DALI; opencv, OpenCV in worker processes"""
    threads: int | None = None
    """decoding threads or worker processes; none: one per core"""
    amp: Literal["auto", "bf16", "fp16", "off"] = "off"
    """mixed precision"""
    flip_test: bool = False
    """average with the heatmaps of the mirrored image; for networks trained with mirrored images"""
    decoder: Literal["argmax", "quarter", "dark"] | None = None
    """method that turns heatmaps into points; none: the checkpoint's"""
    baselines: bool = False
    """also evaluate two baselines, the mean pose and the nearest training image"""
    json: Path | None = None
    """write the metrics, including those of every joint, to this file"""
    predictions: Path | None = None
    """write every sample's keypoints to this JSON file, with the data set's pixel coordinates and row numbers"""
    sheet: Path | None = None
    """write a contact sheet to this file: ground truth beside prediction, from the best sample to the worst"""
    worst: Path | None = None
    """write a contact sheet of the 24 worst samples to this file, the largest error relative to PCK's reference length first"""
    bars: Path | None = None
    """write a bar chart of every joint's accuracy and mean error to this PNG, SVG or PDF file; needs matplotlib"""
    curve: Path | None = None
    """write a chart of accuracy over threshold, also of --baselines, to this PNG, SVG or PDF file; needs matplotlib"""
    out: Path | None = None
    """folder for all of these files, under default names; needs matplotlib"""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    result: content of --json. samples: the N samples that could be read. predictions: (N, K, 2) keypoints in source pixels by
    method: "network" and, if requested, the baselines.
    """

    result: dict[str, Any]
    samples: Samples
    predictions: dict[str, FloatArray]


def output_paths(config: EvaluateConfig) -> dict[str, Path]:
    """Return the files to write by flag: the flag's value, else the default name in --out."""
    paths = {flag: getattr(config, flag) or (config.out and config.out / file.name) for flag, file in OUTPUTS.items()}
    return {flag: path for flag, path in paths.items() if path is not None}


def check_config(config: EvaluateConfig) -> None:
    """Check the configuration before the evaluation starts. Raises `HgfastError`."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise HgfastError("evaluate runs as one process: start it without torchrun")
    if config.batch_size < 1 or (config.threads is not None and config.threads < 1):
        raise HgfastError("--batch-size and --threads must be at least 1")
    files = output_paths(config)
    for flag, path in files.items():
        suffixes = OUTPUTS[flag].suffixes
        if suffixes and path.suffix.lower() not in suffixes:
            raise HgfastError(f"--{flag} {path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    check_distinct_paths(
        [("the checkpoint", config.checkpoint), *input_files(config)], {f"--{flag}": path for flag, path in files.items()}
    )
    if "bars" in files or "curve" in files:
        import hgfast.visualization.charts  # noqa: F401  # raises HgfastError without matplotlib
    for flag, path in files.items():
        prepare_file(path, f"--{flag}" if getattr(config, flag) else "--out")


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluate a checkpoint on a split; the result has a row for the network and each baseline, and one for each joint."""
    check_config(config)
    data_set = DATASETS[config.dataset]
    split = config.split or data_set.eval_split(config)
    ranks = Ranks(0, 1, 1, select_device(config.device))
    model = load_model(config.checkpoint, ranks.device, config.decoder)
    check_skeleton = partial(
        check_joints, config.checkpoint, model.meta.skeleton, data_name="the data", advice="choose another --dataset"
    )
    if data_set.skeleton is not None:  # before the files are read
        check_skeleton(data_set.skeleton)
    samples = usable_samples(config, split)
    check_skeleton(samples.skeleton)
    image_outputs = [flag for flag, file in OUTPUTS.items() if file.suffixes and getattr(config, flag)]
    if not samples.labeled.any() and (image_outputs or "predictions" not in output_paths(config)):
        raise HgfastError(f"the split {split} has no annotations: use --predictions FILE alone")
    train = usable_samples(config, "train") if config.baselines else None
    meta = model.meta
    loader = open_loader(
        samples, meta.input_size, config.batch_size, meta.normalization, ranks, threads=config.threads, loader=config.loader
    )
    amp = resolve_amp(config.amp, ranks.device)
    if warning := slow_precision(amp, ranks.device):
        print(f"warning: --amp {amp}: {warning}", file=sys.stderr, flush=True)
    predicted = predict(model, loader, ranks, amp, "evaluate", config.flip_test)
    count, predicted_mask = len(samples), seen(predicted)
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
        "checkpoint": str(config.checkpoint),
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


def predictions_to_json(config: EvaluateConfig, evaluation: Evaluation) -> str:
    """Format the network's keypoints as JSON in the data set's pixel coordinates, one sample per line; null if not finite."""
    result, samples = evaluation.result, evaluation.samples
    folder = image_folder(config, result["split"])  # FreiHAND's images are elsewhere and keep their plain names
    points = (evaluation.predictions["network"] - samples.pixel_offset).round(3)
    rows = [
        {"row": row, "file": relative_image_name(path, folder), "keypoints": keypoints.tolist()}
        for row, path, keypoints in zip(samples.row.tolist(), samples.paths.tolist(), points)
    ]
    header = {name: result[name] for name in ("dataset", "split", "checkpoint", "flip_test")}
    content = {**header, "joints": samples.skeleton.joints, "pixel_offset": samples.pixel_offset, "samples": rows}
    return format_json(content, ["samples"])


def relative_image_name(path: str, folder: Path | None) -> str:
    """Return an image's path relative to the folder of images, or its plain name if it is not in there."""
    is_inside = folder is not None and Path(path).is_relative_to(folder)
    return Path(path).relative_to(folder or "").as_posix() if is_inside else Path(path).name


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


def write_output(flag: str, path: Path, config: EvaluateConfig, evaluation: Evaluation) -> None:
    """Write one of `OUTPUTS`. Raises `HgfastError` if the file cannot be written."""
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


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format a table with a row per method, or with a column per method if that is too wide for a terminal."""
    table = tabulate(rows, headers="keys", floatfmt=".3f")
    if len(table.partition("\n")[0]) <= MAX_TABLE_WIDTH:
        return table
    names = [name for name in rows[0] if name != "method"]
    return tabulate(
        [[name, *(row[name] for row in rows)] for name in names], ["", *(row["method"] for row in rows)], floatfmt=".3f"
    )


def main() -> None:
    config = parse(EvaluateConfig, positional="checkpoint", description=__doc__ or "")
    evaluation = evaluate(config)
    result, samples = evaluation.result, evaluation.samples
    annotations_file = config.valid_annotations if result["split"] == "valid" else None
    split = f", split {result['split']}," if config.data or config.valid_annotations else ""
    print(f"{samples.summary} of {config.dataset}{split} at {config.data or annotations_file or config.annotations}")
    if num_unreadable := result["unreadable"] - samples.unreadable:
        print(f"{num_unreadable} more could not be read and do not count")
    if num_non_finite := result["not_finite"]:
        print(f"{num_non_finite} joints have a point that is not finite: a miss in PCK, ignored by EPE, null in --predictions")
    print(f"heatmaps decoded by {result['decoder']}")
    if result["rows"]:
        print(format_table(result["rows"]))
        print(DATASETS[config.dataset].metric.note, flush=True)
    for flag, path in output_paths(config).items():
        if result["rows"] or not OUTPUTS[flag].suffixes:
            write_output(flag, path, config, evaluation)
            print(f"{OUTPUTS[flag].description}: {path}", flush=True)
        else:
            print(f"{OUTPUTS[flag].description}: skipped, the split has no annotations")


if __name__ == "__main__":
    run_main(main)
