"""Measure hgfast's training throughput from files to updated weights, compared with princeton's loop; also step and loader alone.

    python bench/train_step.py --json train_step.json
    python bench/train_step.py --presets [hg1,hg2,hg8] --batch-size 32 --threads 16 --device cuda
    python bench/train_step.py --layouts [freihand,mpii] --data-freihand DIR --data-mpii DIR
    python bench/train_step.py --loader none --presets [hg2] --batch-size 32 --device cuda

Both loops have the same images, network, batch size and cores; the input is 256 x 256, the only size of princeton's loader. Each
method runs in its own process, with one trial of every phase per round, in shuffled order. Results are medians over the rounds,
speedups are medians of the ratios within a round. The default data set is people, on which princeton's network was trained and
whose photographs are the most work for a loader. Without --data-* the images are synthetic, with the size and bytes per pixel
of real ones. With --loader none a random batch takes the place of images, and only the steps are measured.
"""

from __future__ import annotations

from hgfast.bench.harness.config import TrainStepConfig
from hgfast.cli import parse
from hgfast.entry_point import run_main


def main() -> None:
    config = parse(TrainStepConfig, description=__doc__ or "")
    config.validate()
    from hgfast.bench.measurements.train_step import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
