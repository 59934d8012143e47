"""Evaluate a checkpoint on one split of a data set: a table, a JSON file, a sheet of pictures.

python hgfast/evaluate.py exp/freihand/best.pt --dataset freihand --data DIR --json result.json
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.config import DataChoice
from hgfast.distributed import Ranks, pick_device
from hgfast.draw import Image, caption, draw_skeleton, read_image, sheet, write_image
from hgfast.errors import HgfastError, run
from hgfast.evaluation import predict
from hgfast.files import prepare_folder, to_json, write_text
from hgfast.geometry import move, square_matrices, warp
from hgfast.inference import check_flip_test
from hgfast.metrics import distances
from hgfast.precision import resolve
from pipelines.baselines import mean_pose, nearest_thumbnail
from pipelines.datasets import DATASETS, open_loader, usable_samples
from pipelines.samples import Samples

TILE = 224  # side of a picture on the contact sheet, pixels


@dataclass(kw_only=True)
class EvaluateConfig(DataChoice):
    """One evaluation."""

    checkpoint: Path
    """file written by training"""
    split: Literal["train", "valid", "test", "all", "evaluation"] | None = None
    """which samples; none: test for FreiHAND, valid for MPII and, where --valid-annotations names them, for COCO, else train"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """pictures at a time"""
    loader: Literal["dali", "torch"] = "dali"
    """what decodes and warps: NVIDIA DALI, or OpenCV in the worker processes of a torch DataLoader"""
    threads: int | None = None
    """decoding threads or worker processes; none: one a core"""
    amp: Literal["auto", "bf16", "fp16", "off"] = "off"
    """mixed precision"""
    flip_test: bool = False
    """average with the mirrored picture's heatmaps; for networks that were trained on mirrored pictures"""
    baselines: bool = False
    """also print what the mean pose and the nearest training picture reach"""
    json: Path | None = None
    """write the figures here"""
    predictions: Path | None = None
    """write every sample's keypoints here, as JSON, in the data set's own pixel numbers"""
    sheet: Path | None = None
    """write a contact sheet here: ground truth beside prediction, from the best sample to the worst"""


def check(config: EvaluateConfig) -> None:
    """Refuse what could only fail after the work is done."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise HgfastError("evaluate.py runs as one process: start it with python, not torchrun")
    if config.batch_size < 1 or (config.threads is not None and config.threads < 1):
        raise HgfastError("--batch-size and --threads must be at least 1")
    if config.sheet is not None and config.sheet.suffix.lower() not in (".jpg", ".png"):
        raise HgfastError(f"--sheet {config.sheet} must end in .jpg or .png")
    for path, flag in ((config.json, "--json"), (config.sheet, "--sheet"), (config.predictions, "--predictions")):
        if path is not None:
            prepare_folder(path.parent, flag)


def evaluate(config: EvaluateConfig) -> tuple[dict[str, Any], Samples, NDArray[np.float64]]:
    """The figures of a checkpoint on a split (`rows`: one for the network and one a baseline), and the samples and
    keypoints that they are made from."""
    check(config)
    name, split = config.dataset, config.split or DATASETS[config.dataset].held_out(config)
    ranks = Ranks(0, 1, 1, pick_device(config.device))
    model = load_model(config.checkpoint, ranks.device)
    expected = DATASETS[name].skeleton or model.meta.skeleton
    samples = usable_samples(config, split) if expected.joints == model.meta.skeleton.joints else None
    if samples is None or samples.skeleton.joints != model.meta.skeleton.joints:
        theirs = (samples.skeleton if samples else expected).name
        raise HgfastError(
            f"{config.checkpoint} predicts {model.meta.skeleton.name}, the data are {theirs}: choose another --dataset"
        )
    check_flip_test(model.meta.skeleton, config.flip_test)
    if not samples.labelled.any() and (config.predictions is None or config.sheet is not None):
        raise HgfastError(f"the split {split} has no annotations: only --predictions FILE can be had of it")
    train = usable_samples(config, "train") if config.baselines else None
    meta = model.meta
    loader = open_loader(
        samples, meta.input_size, config.batch_size, meta.preprocessing, ranks, threads=config.threads, kind=config.loader
    )
    predicted = predict(model, loader, ranks, resolve(config.amp, ranks.device), "evaluate", config.flip_test)
    count, seen = len(samples), np.isfinite(predicted).all(axis=(1, 2))
    samples, predicted = samples.take(seen), predicted[seen]
    table = DATASETS[name].table
    rows: list[dict[str, Any]] = []
    if samples.labelled.any():
        rows.append({"method": "network", **table(samples, predicted)})
    if rows and train is not None:
        rows.append({"method": "mean pose", **table(samples, mean_pose(train, samples))})
        rows.append({"method": "nearest 16 x 16 thumbnail", **table(samples, nearest_thumbnail(train, samples))})
    result = {
        "checkpoint": str(config.checkpoint),
        "dataset": config.dataset,
        "data": str(config.data),
        "split": split,
        "versions": config.versions,
        "flip_test": config.flip_test,
        "samples": len(samples),
        "skipped": samples.skipped,
        "unreadable": samples.unreadable + count - len(samples),
        "rows": rows,
    }
    return result, samples, predicted


def contact_sheet(samples: Samples, predicted: NDArray[np.float64], count: int = 24, columns: int = 8) -> Image:
    """`count` samples spread evenly from the smallest mean error to the largest: ground truth left, prediction
    right, labelled joints only."""
    labelled = samples.labelled
    errors = np.where(labelled, distances(predicted, samples.keypoints), 0).sum(1) / np.maximum(labelled.sum(1), 1)
    chosen = np.argsort(errors)[np.linspace(0, len(errors) - 1, min(count, len(errors))).round().astype(int)]
    matrices = square_matrices(samples.centre[chosen], samples.side[chosen], TILE)
    true, found = move(samples.keypoints[chosen], matrices), move(predicted[chosen], matrices)
    tiles = []
    for n, row in enumerate(chosen):
        crop = warp(read_image(samples.paths[row]), matrices[n], TILE)
        tiles.append(caption(draw_skeleton(crop, true[n], samples.skeleton, labelled[row]), "truth"))
        tiles.append(
            caption(draw_skeleton(crop, found[n], samples.skeleton, labelled[row]), f"predicted, {errors[row]:.1f} px off")
        )
    return sheet(tiles, columns)


def own_frame(samples: Samples, predicted: NDArray[np.float64]) -> str:
    """The keypoints as JSON, in the pixel numbers of the data set's files."""
    points = (predicted - samples.pixel_offset).round(3)
    rows = [{"file": Path(path).name, "keypoints": found.tolist()} for path, found in zip(samples.paths, points)]
    return to_json({"joints": samples.skeleton.joints, "pixel_offset": samples.pixel_offset, "samples": rows}) + "\n"


def main() -> None:
    config = parse(EvaluateConfig, positional="checkpoint", description=__doc__ or "")
    result, samples, predicted = evaluate(config)
    print(f"{samples.in_words} of {config.dataset}, split {result['split']}, at {config.data or config.annotations}")
    if more := result["unreadable"] - samples.unreadable:
        print(f"{more} more could not be read and do not count")
    if result["rows"]:
        print(tabulate(result["rows"], headers="keys", floatfmt=".3f"))
        print(DATASETS[config.dataset].note, flush=True)
    if config.json is not None:
        write_text(config.json, to_json(result, indent=2) + "\n", "--json")
        print(f"figures: {config.json}")
    if config.predictions is not None:
        write_text(config.predictions, own_frame(samples, predicted), "--predictions")
        print(f"keypoints: {config.predictions}")
    if config.sheet is not None:
        write_image(config.sheet, contact_sheet(samples, predicted))
        print(f"pictures: {config.sheet}")


if __name__ == "__main__":
    run(main)
