"""hgfast's recipe against the seed's: accuracy on held-out samples after equal numbers of pictures seen.

    python bench/recipes.py --data FreiHAND --json recipes.json --chart recipes.png
    python bench/recipes.py --dataset coco --annotations train.json --images DIR --valid-annotations val.json --metric pck@0.2

Network, data, order and augmentation are the same; what differs is what a recipe says: loss, optimizer, rate, batch,
precision, moving average (`RECIPES`). Every run is hgfast/train.py in a process of its own; a run that is complete in --work
is not made again.
What may enter: the recipes as flags, the runs, their curves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast.cli import parse
from hgfast.config import DataChoice
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_file

ROOT = Path(__file__).resolve().parents[1]
RECIPES: dict[str, list[str]] = {
    "seed": [
        "--batch-size=16", "--loss.name=mse", "--loss.reduce=mean", "--loss.unlabelled=zero", "--train.optimizer=adam",
        "--train.lr=1e-3", "--train.schedule=steps", "--train.warmup=0", "--train.weight_decay=0", "--train.clip=0",
        "--train.ema=0", "--train.amp=off",
    ],
    "hgfast": [
        "--batch-size=32", "--loss.name=cross_entropy", "--train.optimizer=adamw", "--train.lr=5e-3", "--train.weight_decay=0.05",
        "--train.amp=auto",
    ],
}  # fmt: skip
"""As flags of train.py; what is not said is its default. "hgfast" has the rate and decay of configs/demo.yaml. The seed's
rate falls after 100 000 steps, which no run here has."""
VARIANTS = {"seed_summed": ["--loss.reduce=sum"], "hgfast_fp32": ["--train.amp=off"]}
"""Changes to the recipe that the name begins with."""


@dataclass(kw_only=True)
class RecipesConfig(DataChoice):
    """One comparison."""

    recipes: list[str] = field(default_factory=lambda: ["seed", "hgfast"])
    """seed, hgfast, seed_summed (squared errors summed over a map), hgfast_fp32"""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """a run of each recipe for every seed"""
    epochs: int = 6
    """passes over the training split, each with a validation"""
    preset: str = "small"
    """the network"""
    input_size: int = 128
    """side of its input, pixels"""
    flags: list[str] = field(default_factory=list)
    """more flags for every run, such as [--augment.rotation=180]"""
    metric: str = "pck@0.1"
    """figure of the validation split that is compared"""
    ranks: int = 2
    """processes of a run, on one thread each; one a core is best"""
    work: Path = Path("exp/recipes")
    """folder of the runs"""
    json: Path | None = None
    """write the record here"""
    chart: Path | None = None
    """write the curves here, a PNG file; needs matplotlib"""

    def validate(self) -> None:
        """Raise `HgfastError` for the first value that will not do."""
        for name in self.recipes:
            if name not in RECIPES and name not in VARIANTS:
                raise HgfastError(f"--recipes: {name!r} is unknown; choose from {', '.join([*RECIPES, *VARIANTS])}")
        if not self.recipes or not self.seeds or self.epochs < 1 or self.ranks < 1:
            raise HgfastError("--recipes and --seeds must not be empty, --epochs and --ranks at least 1")
        if self.chart is not None and self.chart.suffix.lower() != ".png":
            raise HgfastError(f"--chart {self.chart} must end in .png")
        if self.chart is not None and find_spec("matplotlib") is None:
            raise HgfastError("charts are drawn by matplotlib: pip install matplotlib, or leave out --chart")
        for flag, path in (("--json", self.json), ("--chart", self.chart)):
            if path is not None:
                prepare_file(path, flag)


def flags_of(recipe: str) -> list[str]:
    """A recipe's flags, or a variant's: those of the recipe before the underscore, and its own."""
    return RECIPES[recipe] if recipe in RECIPES else RECIPES[recipe.partition("_")[0]] + VARIANTS[recipe]


def train(config: RecipesConfig, recipe: str, seed: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a run, which is made or gone on with where it is not complete."""
    folder = config.work / f"{recipe}-{seed}"
    lines = read_lines(folder)
    if not lines or lines[-1]["epoch"] < config.epochs:
        choice = [
            f"--{name}={value}"
            for name in ("dataset", "data", "annotations", "valid_annotations", "images", "valid_images", "normalise", "padding")
            if (value := getattr(config, name)) is not None
        ]
        network = [
            f"--model.preset={config.preset}",
            f"--model.input_size={config.input_size}",
            f"--train.epochs={config.epochs}",
        ]
        new = [*choice, *network, *flags_of(recipe), *config.flags, f"--seed={seed}", f"--exp={folder.name}", "--overwrite"]
        words = ["-c", folder.name] if (folder / "checkpoint.pt").exists() and lines else new
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.ranks)]
        command = [*launcher, str(ROOT / "hgfast/train.py"), f"--out={config.work}", *words]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        if done.returncode != 0:
            raise HgfastError(f"the run {folder} ended with {done.returncode}, see above")
        lines = read_lines(folder)
    if config.metric not in lines[-1]["valid"]:
        raise HgfastError(f"--metric {config.metric} is none of {', '.join(lines[-1]['valid'])}")
    return lines


def read_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def batch_of(recipe: str) -> int:
    """Pictures a step, at most."""
    return int(next(flag for flag in flags_of(recipe) if flag.startswith("--batch-size")).partition("=")[2])


def to_reach(figure: float, curve: Sequence[tuple[int, float]]) -> int | None:
    """The first number of pictures seen after which a curve is at `figure` or above."""
    return next((seen for seen, value in curve if value >= figure), None)


def main() -> None:
    config = parse(RecipesConfig, description=__doc__ or "")
    config.validate()
    where = machine()
    rows: list[Row] = []
    curves: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for seed in config.seeds:
        for recipe in config.recipes:
            lines = train(config, recipe, seed)
            pictures = pictures_an_epoch(config, recipe, seed)
            curve = [(round(pictures * line["epoch"]), line["valid"][config.metric]) for line in lines]
            curves[recipe, seed] = curve
            rows += [
                {
                    "recipe": recipe, "seed": seed, "preset": config.preset, "size": config.input_size, "epoch": line["epoch"],
                    "images_seen": seen, "metric": config.metric, "value": value, "loss": line["loss"],
                    "images_per_s": line["images_per_s"],
                }
                for line, (seen, value) in zip(lines, curve)
            ]  # fmt: skip
    print(f"\n{tabulate(summary(config, curves), headers='keys', floatfmt='.4f')}")
    print(
        f"{config.metric} on the validation split; halfway: pictures seen when the mean curve is at the seed's final mean",
        flush=True,
    )
    if config.json is not None:
        write_record(make_record(rows, where), config.json)
        print(f"record: {config.json}")
    if config.chart is not None:
        draw(config, curves, config.chart)
        print(f"chart: {config.chart}")


def pictures_an_epoch(config: RecipesConfig, recipe: str, seed: int) -> int:
    """From a run's own checkpoint: steps an epoch times the batch, which nearly equal batches make exact to a batch."""
    from hgfast.checkpoints import read

    return int(read(config.work / f"{recipe}-{seed}" / "checkpoint.pt")["training"]["steps_an_epoch"]) * batch_of(recipe)


def summary(config: RecipesConfig, curves: dict[tuple[str, int], list[tuple[int, float]]]) -> list[Row]:
    """A row a recipe: final figures, and how soon the mean curve is where the first recipe's ends."""
    means = {
        recipe: [
            (column[0][0], mean(value for _, value in column))
            for column in zip(*(curves[recipe, seed] for seed in config.seeds), strict=True)
        ]
        for recipe in config.recipes
    }
    goal = means[config.recipes[0]][-1][1]
    table = []
    for recipe in config.recipes:
        finals = [curves[recipe, seed][-1][1] for seed in config.seeds]
        table.append(
            {
                "recipe": recipe,
                "pictures": means[recipe][-1][0],
                "final": mean(finals),
                "spread": stdev(finals) if len(finals) > 1 else float("nan"),
                "lowest": min(finals),
                "highest": max(finals),
                f"pictures to {goal:.3f}": to_reach(goal, means[recipe]),
            }
        )
    return table


def draw(config: RecipesConfig, curves: dict[tuple[str, int], list[tuple[int, float]]], path: Path) -> None:
    """A line for every run, a colour a recipe. Raises `HgfastError` where the file cannot be written."""
    from matplotlib.figure import Figure

    from hgfast.charts import write_figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for number, recipe in enumerate(config.recipes):
        for seed in config.seeds:
            seen, values = np.array(curves[recipe, seed]).T
            label = recipe if seed == config.seeds[0] else None
            panel.plot(seen, values, color=f"C{number}", alpha=0.8, marker=".", label=label)
    panel.set_xlabel("pictures seen")
    panel.set_ylabel(f"{config.metric}, validation split")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend()
    panel.set_title(f"{config.preset}, {config.input_size} px, {len(config.seeds)} seeds", fontsize=10)
    write_figure(figure, path, "--chart")


if __name__ == "__main__":
    run(main)
