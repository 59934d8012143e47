"""Compare hgfast's recipe with princeton's: accuracy on held-out samples after equal numbers of images.

    python bench/recipes.py --data FreiHAND --json recipes.json --chart recipes.png
    python bench/recipes.py --dataset coco --annotations train.json --images DIR --valid-annotations val.json --metric pck@0.2

Network, data, order and augmentation are equal; the recipes (`RECIPES`) differ in loss, optimizer, learning rate, batch size,
precision and EMA. Every run is hgfast/train.py in its own process; complete runs in --work are reused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from tabulate import tabulate

from hgfast.bench.harness.config import Positive, check_outputs
from hgfast.bench.harness.record import Row, machine_info, make_record, require_checkout, write_record
from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError

RECIPES: dict[str, list[str]] = {
    "princeton": [
        "--batch-size=16", "--loss.name=mse", "--loss.reduce=mean", "--loss.unlabeled=zero", "--train.optimizer=adam",
        "--train.lr=1e-3", "--train.schedule=steps", "--train.warmup=0", "--train.weight_decay=0", "--train.grad-clip=0",
        "--train.ema=0", "--train.amp=off",
    ],
    "hgfast": [
        "--batch-size=32", "--loss.name=cross_entropy", "--train.optimizer=adamw", "--train.lr=5e-3", "--train.weight_decay=0.05",
        "--train.amp=auto",
    ],
}  # fmt: skip
"""Flags of train.py, whose defaults hold otherwise. "hgfast" has the learning rate and weight decay of configs/demo.yaml. The
learning rate of "princeton" drops after 100 000 steps, which no run here reaches."""
VARIANTS = {"princeton_sum": ["--loss.reduce=sum"], "hgfast_fp32": ["--train.amp=off"]}
"""Flags in addition to those of the recipe before the underscore."""
Curves = dict[tuple[str, int], list[tuple[int, float]]]
"""Images seen and metric of each epoch, by recipe and seed."""


@dataclass(kw_only=True)
class RecipesConfig(DataConfig):
    """Settings of the comparison."""

    recipes: list[str] = field(default_factory=lambda: ["princeton", "hgfast"])
    """princeton, hgfast, princeton_sum (squared errors summed over a heatmap), hgfast_fp32"""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """random seeds, each of which is a run of every recipe"""
    epochs: Positive = 6
    """epochs, each with a validation"""
    preset: str = "small"
    """preset of the network"""
    input_size: int = 128
    """side of its input, pixels"""
    flags: list[str] = field(default_factory=list)
    """additional flags of train.py for every run, for example [--augment.rotation=180]"""
    metric: str = "pck@0.1"
    """metric of the validation split to compare"""
    ranks: Positive = 2
    """processes per run, with one thread each; one per core is best"""
    work: Path = Path("exp/recipes")
    """folder of the runs"""
    json: Path | None = None
    """write the record to this file"""
    chart: Path | None = None
    """write the curves to this PNG file; requires matplotlib"""

    def validate(self) -> None:
        """Raise `HgfastError` for the first invalid value, or outside a checkout."""
        require_checkout("recipes")
        for name in self.recipes:
            if name not in RECIPES and name not in VARIANTS:
                raise HgfastError(f"--recipes: {name!r} is unknown; choose from {', '.join([*RECIPES, *VARIANTS])}")
        if not self.recipes or not self.seeds:
            raise HgfastError("--recipes and --seeds must not be empty")
        check_outputs(json=self.json, chart=self.chart)


def recipe_flags(recipe: str) -> list[str]:
    """Return the flags of a recipe, or of a variant: those of the recipe before the underscore and its own."""
    return RECIPES[recipe] if recipe in RECIPES else RECIPES[recipe.partition("_")[0]] + VARIANTS[recipe]


def run_training(config: RecipesConfig, recipe: str, seed: int) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl of a run, which is started or resumed if it is not complete."""
    folder = config.work / f"{recipe}-{seed}"
    lines = read_metrics(folder)
    if not lines or lines[-1]["epoch"] < config.epochs:
        network = [f"--model.preset={config.preset}", f"--model.input_size={config.input_size}"]
        run_flags = [f"--train.epochs={config.epochs}", f"--seed={seed}", f"--exp={folder.name}", "--overwrite"]
        new = [*config.as_flags, *network, *recipe_flags(recipe), *config.flags, *run_flags]
        args = ["-c", folder.name] if (folder / "checkpoint.pt").exists() and lines else new
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.ranks)]
        command = [*torchrun, "-m", "hgfast.train", f"--out={config.work}", *args]
        process = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        if process.returncode != 0:
            raise HgfastError(f"the run {folder} ended with exit code {process.returncode}: see its output above")
        lines = read_metrics(folder)
    if config.metric not in lines[-1]["valid"]:
        raise HgfastError(f"--metric {config.metric} is unknown; choose from {', '.join(lines[-1]['valid'])}")
    return lines


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def main() -> None:
    config = parse(RecipesConfig, description=__doc__ or "")
    config.validate()
    machine = machine_info()
    rows: list[Row] = []
    curves: Curves = {}
    for seed in config.seeds:
        for recipe in config.recipes:
            lines = run_training(config, recipe, seed)
            images = images_per_epoch(config, recipe, seed)
            curve = [(round(images * line["epoch"]), line["valid"][config.metric]) for line in lines]
            curves[recipe, seed] = curve
            rows += [
                {
                    "recipe": recipe, "seed": seed, "preset": config.preset, "size": config.input_size, "epoch": line["epoch"],
                    "images_seen": images_seen, "metric": config.metric, "value": value, "loss": line["loss"],
                    "images_per_s": line["images_per_s"],
                }
                for line, (images_seen, value) in zip(lines, curve)
            ]  # fmt: skip
    print(f"\n{tabulate(summarize(config, curves), headers='keys', floatfmt='.4f')}")
    print(
        f"{config.metric} on the validation split; last column: images after which the mean curve reaches the final mean of "
        f"{config.recipes[0]}",
        flush=True,
    )
    write_record(make_record(rows, machine), config.json)
    if config.chart is not None:
        draw_chart(config, curves, config.chart)
        print(f"chart: {config.chart}")


def images_per_epoch(config: RecipesConfig, recipe: str, seed: int) -> int:
    """Return steps per epoch (from the checkpoint of the run) times batch size, which is exact to a batch."""
    from hgfast.checkpoints import read

    batch_size = [flag.partition("=")[2] for flag in recipe_flags(recipe) if flag.startswith("--batch-size=")][-1]
    return int(read(config.work / f"{recipe}-{seed}" / "checkpoint.pt")["training"]["steps_an_epoch"]) * int(batch_size)


def summarize(config: RecipesConfig, curves: Curves) -> list[Row]:
    """Return a row per recipe: final metrics, and the images after which the mean curve reaches the first recipe's final mean."""
    means = {}
    for recipe in config.recipes:
        epochs = zip(*(curves[recipe, seed] for seed in config.seeds), strict=True)
        means[recipe] = [(runs[0][0], mean(value for _, value in runs)) for runs in epochs]
    target = means[config.recipes[0]][-1][1]
    table = []
    for recipe in config.recipes:
        finals = [curves[recipe, seed][-1][1] for seed in config.seeds]
        table.append(
            {
                "recipe": recipe,
                "images": means[recipe][-1][0],
                "final": mean(finals),
                "spread": stdev(finals) if len(finals) > 1 else float("nan"),
                "lowest": min(finals),
                "highest": max(finals),
                f"images to {target:.3f}": next((images for images, value in means[recipe] if value >= target), None),
            }
        )
    return table


def draw_chart(config: RecipesConfig, curves: Curves, path: Path) -> None:
    """Draw a line per run and a color per recipe. Raises `HgfastError` if the file cannot be written."""
    from matplotlib.figure import Figure

    from hgfast.visualization.charts import write_figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for number, recipe in enumerate(config.recipes):
        for seed in config.seeds:
            images_seen, values = np.array(curves[recipe, seed]).T
            label = recipe if seed == config.seeds[0] else None
            panel.plot(images_seen, values, color=f"C{number}", alpha=0.8, marker=".", label=label)
    panel.set_xlabel("images seen")
    panel.set_ylabel(f"{config.metric}, validation split")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend()
    panel.set_title(f"{config.preset}, {config.input_size} px, {len(config.seeds)} seeds", fontsize=10)
    write_figure(figure, path, "--chart")


if __name__ == "__main__":
    run_main(main)
