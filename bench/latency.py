"""Measure the latency and accuracy of a network in every installed runtime and precision.

    python bench/latency.py
    python bench/latency.py --checkpoint exp/mpii/best.pt --dataset mpii --data MPII --json latency.json
    python bench/latency.py exp/mpii/best.pt exp/mpii/best.fp32.onnx exp/mpii/best.int8.onnx --batch [1,8]

Without arguments, untrained hg1 and hg2 are exported and timed: eager as in princeton's code, faster variants of torch,
TorchScript, onnxruntime, OpenVINO and TensorRT engines, in all precisions; variants that cannot run here are listed with the
reason. --checkpoint exports and times your network; files are timed as they are. Times are from images in memory to keypoints;
--end-to-end adds rows from JPEG files and boxes. Every variant runs in its own process, in interleaved rounds; results are
medians over the rounds. The speedup is relative to the first row. Errors are distances from the keypoints of the first row in
input pixels, on 16 images, of a data set if its flags are given.
"""

from __future__ import annotations

from hgfast.bench.harness.config import LatencyConfig
from hgfast.cli import parse
from hgfast.entry_point import run_main


def main() -> None:
    config = parse(LatencyConfig, variadic="files", description=__doc__ or "")
    config.validate()
    from hgfast.bench.measurements.latency import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
