"""Measure the speed and accuracy of hgfast's heatmap decoders, compared with princeton's.

    python bench/decode.py --json decode.json

The inputs are Gaussian heatmaps with a little noise, and ideal logits of the cross-entropy loss. Times are medians of
interleaved rounds. Errors are distances to the true points in heatmap cells, for heatmaps in float32, float16 and bfloat16.
"""

from __future__ import annotations

from hgfast.bench.harness.config import DecodeConfig
from hgfast.cli import parse
from hgfast.entry_point import run_main


def main() -> None:
    config = parse(DecodeConfig, description=__doc__ or "")
    config.validate()
    from hgfast.bench.measurements.decode import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
