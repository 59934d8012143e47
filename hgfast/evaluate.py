"""Evaluate a checkpoint on one split of a data set: a table, JSON files, charts and sheets of pictures.

python hgfast/evaluate.py exp/freihand/best.pt --dataset freihand --data DIR --json result.json
python hgfast/evaluate.py exp/mpii/best.pt --dataset mpii --data DIR --baselines --out report
What may enter: the flags, and what is written. Figures are `metrics`', running the network `evaluation`'s.
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
from hgfast.config import DataChoice
from hgfast.distributed import Ranks, pick_device
from hgfast.draw import write_image
from hgfast.errors import HgfastError, run
from hgfast.evaluation import check_joints, not_finite, predict, seen
from hgfast.files import check_apart, one_a_line, prepare_file, to_json, write_text
from hgfast.gallery import spread_sheet, worst_sheet
from hgfast.looks import accuracy_curves, joint_rows
from hgfast.precision import resolve, slow_precision
from pipelines.baselines import mean_pose, nearest_thumbnail
from pipelines.datasets import DATASETS, coco_files, input_files, open_loader, usable_samples
from pipelines.samples import Samples

Keypoints = NDArray[np.float64]

PICTURES, CHARTS = (".jpg", ".png"), (".png", ".svg", ".pdf")


class Output(NamedTuple):
    """A file that can be written: its name in --out, what it is, and, for pictures, which all need ground truth, the endings
    that its name may have."""

    name: str
    words: str
    endings: tuple[str, ...] = ()


OUTPUTS = {
    "json": Output("metrics.json", "figures"),
    "predictions": Output("predictions.json", "keypoints"),
    "bars": Output("joints.png", "chart of joints", CHARTS),
    "curve": Output("curve.png", "curve", CHARTS),
    "sheet": Output("sheet.jpg", "pictures", PICTURES),
    "worst": Output("worst.jpg", "worst samples, by mean error over reference length", PICTURES),
}
"""By flag, in the order in which they are written."""


WIDTH = 120  # letters of a terminal's line


@dataclass(kw_only=True)
class EvaluateConfig(DataChoice):
    """One evaluation."""

    checkpoint: Path
    """file written by training, or weights of princeton-vl's or bearpaw's"""
    split: Literal["train", "valid", "test", "all", "evaluation"] | None = None
    """which samples; none: test for FreiHAND, valid for MPII and, where --valid-annotations names them, for COCO, else train"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """pictures at a time"""
    loader: Literal["dali", "torch"] = "dali"
    """what decodes and warps: NVIDIA DALI, or, with torch, OpenCV in worker processes"""
    threads: int | None = None
    """decoding threads or worker processes; none: one a core"""
    amp: Literal["auto", "bf16", "fp16", "off"] = "off"
    """mixed precision"""
    flip_test: bool = False
    """average with the mirrored picture's heatmaps; for networks that were trained on mirrored pictures"""
    decoder: Literal["argmax", "quarter", "dark"] | None = None
    """from heatmaps to points; none: what the checkpoint names"""
    baselines: bool = False
    """also print what the mean pose and the nearest training picture reach"""
    json: Path | None = None
    """write the figures here, those of every joint included"""
    predictions: Path | None = None
    """write every sample's keypoints here, as JSON, in the data set's own pixel numbers and under its own row numbers"""
    sheet: Path | None = None
    """write a contact sheet here: ground truth beside prediction, from the best sample to the worst"""
    worst: Path | None = None
    """write a sheet of the 24 worst samples here, the worst first: those with the largest errors as a share of what PCK
    divides by"""
    bars: Path | None = None
    """write a bar chart of every joint's accuracy and mean error here, PNG, SVG or PDF; needs matplotlib"""
    curve: Path | None = None
    """write a chart of accuracy against its threshold here, with --baselines theirs too, PNG, SVG or PDF; needs matplotlib"""
    out: Path | None = None
    """folder for all of these files, under names of their own; needs matplotlib"""


@dataclass(frozen=True)
class Evaluation:
    """What was found out. result: for --json. samples: N of them, those that could be read. found: (N, K, 2) keypoints in
    source pixels by method, "network" and, where they were asked for, the baselines."""

    result: dict[str, Any]
    samples: Samples
    found: dict[str, Keypoints]


def outputs(config: EvaluateConfig) -> dict[str, Path]:
    """The files to write, by flag: where its own flag says, else in --out."""
    places = {flag: getattr(config, flag) or (config.out and config.out / file.name) for flag, file in OUTPUTS.items()}
    return {flag: path for flag, path in places.items() if path is not None}


def check(config: EvaluateConfig) -> None:
    """Refuse what could only fail after the work is done."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise HgfastError("evaluate.py runs as one process: start it with python, not torchrun")
    if config.batch_size < 1 or (config.threads is not None and config.threads < 1):
        raise HgfastError("--batch-size and --threads must be at least 1")
    files = outputs(config)
    for flag, path in files.items():
        endings = OUTPUTS[flag].endings
        if endings and path.suffix.lower() not in endings:
            raise HgfastError(f"--{flag} {path} must end in {', '.join(endings[:-1])} or {endings[-1]}")
    check_apart(
        [("the checkpoint", config.checkpoint), *input_files(config)], {f"--{flag}": path for flag, path in files.items()}
    )
    if "bars" in files or "curve" in files:
        import hgfast.charts  # noqa: F401  # says what is missing
    for flag, path in files.items():
        prepare_file(path, f"--{flag}" if getattr(config, flag) else "--out")


def evaluate(config: EvaluateConfig) -> Evaluation:
    """The figures of a checkpoint on a split: `rows`, one for the network and one a baseline, and `joints`, one a joint."""
    check(config)
    name, split = config.dataset, config.split or DATASETS[config.dataset].held_out(config)
    ranks = Ranks(0, 1, 1, pick_device(config.device))
    model = load_model(config.checkpoint, ranks.device, config.decoder)
    fits = partial(check_joints, config.checkpoint, model.meta.skeleton, where="the data", advice="choose another --dataset")
    if (expected := DATASETS[name].skeleton) is not None:  # before the files are read
        fits(expected)
    samples = usable_samples(config, split)
    fits(samples.skeleton)
    pictures = [flag for flag, file in OUTPUTS.items() if file.endings and getattr(config, flag)]
    if not samples.labelled.any() and (pictures or "predictions" not in outputs(config)):
        raise HgfastError(f"the split {split} has no annotations: only --predictions FILE can be had of it")
    train = usable_samples(config, "train") if config.baselines else None
    meta = model.meta
    loader = open_loader(
        samples, meta.input_size, config.batch_size, meta.preprocessing, ranks, threads=config.threads, kind=config.loader
    )
    amp = resolve(config.amp, ranks.device)
    if warning := slow_precision(amp, ranks.device):
        print(f"warning: --amp {amp}: {warning}", file=sys.stderr, flush=True)
    predicted = predict(model, loader, ranks, amp, "evaluate", config.flip_test)
    count, there = len(samples), seen(predicted)
    samples, found = samples.take(there), {"network": predicted[there]}
    annotated = bool(samples.labelled.any())
    if annotated and train is not None:
        found["mean pose"] = mean_pose(train, samples)
        found["nearest 16 x 16 thumbnail"] = nearest_thumbnail(train, samples)
    rows: list[dict[str, Any]] = []
    if annotated:
        rows = [{"method": method, **DATASETS[name].table(samples, points)} for method, points in found.items()]
    files = {"data": config.data, "annotations": config.annotations, "valid_annotations": config.valid_annotations}
    result = {
        "checkpoint": str(config.checkpoint),
        "dataset": config.dataset,
        **{name: path and str(path) for name, path in files.items()},
        "split": split,
        "versions": config.versions,
        "normalise": config.normalise if name == "coco" else None,
        "padding": config.padding if name == "coco" else None,
        "loader": config.loader,
        "decoder": meta.decoder,
        "flip_test": config.flip_test,
        "samples": len(samples),
        "skipped": samples.skipped,
        "unreadable": samples.unreadable + count - len(samples),
        "not_finite": not_finite(found["network"]),
        "rows": rows,
        "joints": joint_rows(samples, found["network"], DATASETS[name].heads) if annotated else [],
    }
    return Evaluation(result, samples, found)


def own_frame(config: EvaluateConfig, evaluation: Evaluation) -> str:
    """The network's keypoints as JSON, in the pixel numbers of the data set's files: a sample a line, null where not finite."""
    result, samples = evaluation.result, evaluation.samples
    folder = coco_files(config, result["split"])[1]  # FreiHAND's lie elsewhere, and have plain names
    points = (evaluation.found["network"] - samples.pixel_offset).round(3)
    rows = [
        {"row": row, "file": own_name(path, folder), "keypoints": found.tolist()}
        for row, path, found in zip(samples.row.tolist(), samples.paths.tolist(), points)
    ]
    about = {name: result[name] for name in ("dataset", "split", "checkpoint", "flip_test")}
    content = {**about, "joints": samples.skeleton.joints, "pixel_offset": samples.pixel_offset, "samples": rows}
    return one_a_line(content, ["samples"])


def own_name(path: str, folder: Path | None) -> str:
    """A picture's name from the folder of pictures on, or without any folder where it is not in there."""
    inside = folder is not None and Path(path).is_relative_to(folder)
    return Path(path).relative_to(folder or "").as_posix() if inside else Path(path).name


def write_chart(flag: str, path: Path, evaluation: Evaluation) -> None:
    """--bars or --curve."""
    from hgfast import charts  # needs matplotlib, which not everybody has

    result, samples = evaluation.result, evaluation.samples
    checkpoint = "/".join(Path(result["checkpoint"]).parts[-2:])
    title = f"{checkpoint}: {len(samples)} samples of {result['dataset']}, split {result['split']}"
    heads = DATASETS[result["dataset"]].heads
    if flag == "bars":
        charts.draw_bars(path, result["joints"], samples.skeleton, 100.0 if heads else 1.0, title)
        return
    charts.draw_curves(path, *accuracy_curves(samples, evaluation.found, heads), title)


def write(flag: str, path: Path, config: EvaluateConfig, evaluation: Evaluation) -> None:
    """One of `OUTPUTS`. Raises `HgfastError` where that fails."""
    if flag == "json":
        write_text(path, to_json(evaluation.result, indent=2) + "\n", "--json")
    elif flag == "predictions":
        write_text(path, own_frame(config, evaluation), "--predictions")
    elif flag == "sheet":
        write_image(path, spread_sheet(evaluation.samples, evaluation.found["network"]))
    elif flag == "worst":
        write_image(path, worst_sheet(evaluation.samples, evaluation.found["network"]))
    else:
        write_chart(flag, path, evaluation)


def in_columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a method, or where that is too wide for a terminal a column each."""
    lines = tabulate(rows, headers="keys", floatfmt=".3f")
    if len(lines.partition("\n")[0]) <= WIDTH:
        return lines
    figures = [name for name in rows[0] if name != "method"]
    return tabulate(
        [[name, *(row[name] for row in rows)] for name in figures], ["", *(row["method"] for row in rows)], floatfmt=".3f"
    )


def main() -> None:
    config = parse(EvaluateConfig, positional="checkpoint", description=__doc__ or "")
    evaluation = evaluate(config)
    result, samples = evaluation.result, evaluation.samples
    listed = config.valid_annotations if result["split"] == "valid" else None
    split = f", split {result['split']}," if config.data or config.valid_annotations else ""
    print(f"{samples.in_words} of {config.dataset}{split} at {config.data or listed or config.annotations}")
    if more := result["unreadable"] - samples.unreadable:
        print(f"{more} more could not be read and do not count")
    if lost := result["not_finite"]:
        print(f"{lost} joints have a point that is not finite: a miss for every share, left out of EPE, null in --predictions")
    print(f"heatmaps decoded by {result['decoder']}")
    if result["rows"]:
        print(in_columns(result["rows"]))
        print(DATASETS[config.dataset].note, flush=True)
    for flag, path in outputs(config).items():
        if result["rows"] or not OUTPUTS[flag].endings:
            write(flag, path, config, evaluation)
            print(f"{OUTPUTS[flag].words}: {path}", flush=True)
        else:
            print(f"{OUTPUTS[flag].words}: left out, for want of annotations")


if __name__ == "__main__":
    run(main)
