"""Measure the throughput of hgfast's loaders compared with princeton's, on whole images and on cached crops.

    python bench/loader.py --json loader.json --chart loader.png
    python bench/loader.py --data-mpii DIR --layouts [mpii] --threads 8

Without --data-* the images are synthetic, with the size and bytes per pixel of real ones. Every loader runs on the same number
of cores, in interleaved rounds in shuffled order; results are medians over the rounds.
"""

from __future__ import annotations

from hgfast.bench.harness.config import LoaderConfig
from hgfast.cli import parse
from hgfast.entry_point import run_main


def main() -> None:
    config = parse(LoaderConfig, description=__doc__ or "")
    config.validate()
    from hgfast.bench.measurements.loader import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
