"""Evaluate predictions, checkpoints and exported networks as papers do: PCKh of bodies by the official rule; PCK, AUC and EPE of
hands.

    python bench/pckh.py --predictions preds.h5 --annotations valid.h5 --json pckh.json --chart pckh.png
    python bench/pckh.py exp/mpii/best.pt --dataset mpii --data MPII --flip-test
    python bench/pckh.py exp/mpii/best.pt exp/mpii/best.fp16.onnx exp/mpii/best.int8.onnx --dataset mpii --data MPII
    python bench/pckh.py best.pt best.fp32.onnx --runtimes [onnxruntime,openvino,openvino-bf16] --dataset mpii --data MPII
    python bench/pckh.py exp/mpii/best.pt --annotations test.h5 --images MPII/images --submission pred_keypoints_mpii.mat

Several checkpoints and exported networks, or --predictions [a.h5,b.mat], are rows of one table; the distances of the others are
from the keypoints of the first. `bench/scoring/` describes the formats of annotations and predictions, `hgfast/metrics.py`
defines the metrics.
"""

from __future__ import annotations

from hgfast.bench.scoring.config import PckhConfig
from hgfast.cli import parse
from hgfast.entry_point import run_main


def main() -> None:
    config = parse(PckhConfig, variadic="checkpoints", description=__doc__ or "")
    config.validate()
    from hgfast.bench.scoring.score import run  # imports torch

    run(config)


if __name__ == "__main__":
    run_main(main)
