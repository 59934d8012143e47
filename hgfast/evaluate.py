"""Evaluate a checkpoint on one split of a data set and write a table, JSON files, charts and image grids.

python hgfast/evaluate.py exp/freihand/best.pt --dataset freihand --data DIR --json result.json
python hgfast/evaluate.py exp/mpii/best.pt --dataset mpii --data DIR --baselines --out report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from hgfast.cli import parse
from hgfast.config import AmpSetting, InferenceConfig
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError, printable
from hgfast.fileio.files import check_distinct_paths, prepare_file
from hgfast.system_info import rank_variables

IMAGE_SUFFIXES, CHART_SUFFIXES = (".jpg", ".png"), (".png", ".svg", ".pdf")
MAX_TABLE_WIDTH = 120  # characters of a terminal's line


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


@dataclass(kw_only=True)
class EvaluateConfig(InferenceConfig):
    """Evaluation."""

    checkpoint: Path
    """checkpoint written by training, or weights of princeton-vl, bearpaw or anibali"""
    amp: AmpSetting = "off"
    """mixed precision"""
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


def output_paths(config: EvaluateConfig) -> dict[str, Path]:
    """Return the files to write by flag: the flag's value, else the default name in --out."""
    paths = {flag: getattr(config, flag) or (config.out and config.out / file.name) for flag, file in OUTPUTS.items()}
    return {flag: path for flag, path in paths.items() if path is not None}


def check_config(config: EvaluateConfig) -> None:
    """Check the configuration before the evaluation starts. Raises `HgfastError`."""
    from hgfast.pipelines.datasets import input_files

    if rank_variables().world_size > 1:
        raise HgfastError("evaluate runs as one process: start it without torchrun")
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
    check_config(config)
    from hgfast.pipelines.datasets import DATASETS  # imports torch, as the next line
    from hgfast.training.checkpoint_evaluation import evaluate, write_output

    files = output_paths(config)
    needs_truth = "predictions" not in files or any(getattr(config, flag) for flag, file in OUTPUTS.items() if file.suffixes)
    evaluation = evaluate(config, config.checkpoint, config.amp, config.baselines, needs_truth)
    result, samples = evaluation.result, evaluation.samples
    written = {flag: path for flag, path in files.items() if result["rows"] or not OUTPUTS[flag].suffixes}
    for flag, path in written.items():  # before anything is printed: the reader of a pipe may be gone
        write_output(flag, path, config, evaluation)
    annotations_file = config.valid_annotations if result["split"] == "valid" else None
    split = f", split {result['split']}," if config.data or config.valid_annotations else ""
    print(f"{samples.summary} of {config.dataset}{split} at {printable(config.data or annotations_file or config.annotations)}")
    if num_unreadable := result["unreadable"] - samples.unreadable:
        print(f"{num_unreadable} more could not be read and do not count")
    if num_non_finite := result["not_finite"]:
        print(f"{num_non_finite} joints have a point that is not finite: a miss in PCK, ignored by EPE, null in --predictions")
    print(f"heatmaps decoded by {result['decoder']}")
    if result["rows"]:
        print(format_table(result["rows"]))
        print(DATASETS[config.dataset].metric.note, flush=True)
    for flag, path in files.items():
        print(
            f"{OUTPUTS[flag].description}: {printable(path) if flag in written else 'skipped, the split has no annotations'}",
            flush=True,
        )


if __name__ == "__main__":
    run_main(main)
