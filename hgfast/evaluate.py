"""Evaluate a checkpoint on one split of a data set: a table, a JSON file, a sheet of pictures.

python hgfast/evaluate.py exp/hands/best.pt --dataset freihand --data DIR --json result.json
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.distributed import Ranks, pick_device
from hgfast.draw import Image, caption, draw_skeleton, read_image, sheet, write_image
from hgfast.errors import HgfastError, run
from hgfast.evaluation import predict
from hgfast.metrics import distances
from hgfast.precision import resolve
from pipelines.baselines import mean_pose, nearest_thumbnail
from pipelines.datasets import open_loader, open_samples, score
from pipelines.freihand import VERSIONS
from pipelines.samples import Samples


@dataclass
class EvaluateConfig:
    """One evaluation."""

    checkpoint: Path
    """file written by training"""
    dataset: Literal["freihand"] = "freihand"
    """layout of the files under --data"""
    data: Path | None = None
    """the data set's root folder"""
    split: Literal["train", "valid", "test", "all", "evaluation"] = "test"
    """which hands"""
    versions: list[str] = field(default_factory=lambda: list(VERSIONS))
    """FreiHAND: which background versions of each hand to use"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """pictures at a time"""
    threads: int | None = None
    """decoding threads; none: one a core"""
    amp: Literal["auto", "bf16", "fp16", "off"] = "off"
    """mixed precision"""
    baselines: bool = False
    """also print what the mean pose and the nearest training picture reach"""
    json: Path | None = None
    """write the figures here"""
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


def evaluate(config: EvaluateConfig) -> tuple[dict[str, Any], Samples, NDArray[np.float64]]:
    """The figures of a checkpoint on a split (`rows`: one for the network and one a baseline), and the samples and
    keypoints that they are made from."""
    check(config)
    ranks = Ranks(0, 1, 1, pick_device(config.device))
    model = load_model(config.checkpoint, ranks.device)
    samples = open_samples(config.dataset, config.data, config.split, config.versions)
    if samples.skeleton.joints != model.meta.skeleton.joints:
        raise HgfastError(f"{config.checkpoint} predicts {model.meta.skeleton.name}, the data are {samples.skeleton.name}")
    meta = model.meta
    loader = open_loader(samples, meta.input_size, config.batch_size, meta.preprocessing, ranks, threads=config.threads)
    predicted = predict(model, loader, ranks, resolve(config.amp, ranks.device), "evaluate")
    rows: list[dict[str, Any]] = [{"method": "network", **score(samples, predicted)}]
    if config.baselines:
        train = open_samples(config.dataset, config.data, "train", config.versions)
        rows.append({"method": "mean pose", **score(samples, mean_pose(train, samples))})
        rows.append({"method": "nearest 16 x 16 thumbnail", **score(samples, nearest_thumbnail(train, samples))})
    result = {
        "checkpoint": str(config.checkpoint),
        "dataset": config.dataset,
        "data": str(config.data),
        "split": config.split,
        "versions": config.versions,
        "samples": len(samples),
        "rows": rows,
    }
    return result, samples, predicted


def contact_sheet(samples: Samples, predicted: NDArray[np.float64], count: int = 24, columns: int = 8) -> Image:
    """`count` samples spread evenly from the smallest mean error to the largest: ground truth left, prediction right."""
    labelled = samples.labelled
    errors = np.where(labelled, distances(predicted, samples.keypoints), 0).sum(1) / np.maximum(labelled.sum(1), 1)
    chosen = np.argsort(errors)[np.linspace(0, len(errors) - 1, min(count, len(errors))).round().astype(int)]
    tiles = []
    for row in chosen:
        image = read_image(samples.paths[row])
        tiles.append(caption(draw_skeleton(image, samples.keypoints[row], samples.skeleton, labelled[row]), "truth"))
        tiles.append(caption(draw_skeleton(image, predicted[row], samples.skeleton), f"predicted, {errors[row]:.1f} px off"))
    return sheet(tiles, columns)


def main() -> None:
    config = parse(EvaluateConfig, positional="checkpoint", description=__doc__ or "")
    result, samples, predicted = evaluate(config)
    print(f"{len(samples)} samples of {config.dataset}, split {config.split}, at {config.data}")
    print(tabulate(result["rows"], headers="keys", floatfmt=".3f"))
    print("PCK: of the longer side of the hand's box; AUC, EPE: source pixels", flush=True)
    if config.json is not None:
        try:
            config.json.parent.mkdir(parents=True, exist_ok=True)
            config.json.write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise HgfastError(f"cannot write {config.json} ({error.strerror}): choose another file") from error
        print(f"figures: {config.json}")
    if config.sheet is not None:
        write_image(config.sheet, contact_sheet(samples, predicted))
        print(f"pictures: {config.sheet}")


if __name__ == "__main__":
    run(main)
