"""Export a network as ONNX: one graph from a uint8 image to keypoints, verified against the checkpoint.

    python export/to_onnx.py exp/mpii/best.pt
    python export/to_onnx.py exp/mpii/best.pt --precision fp16 --batch 1:8:64 --flip-test --outputs keypoints,heatmaps

The file runs in onnxruntime and OpenVINO. Its sidecar is FILE.json; the file's metadata has the same content.
"""

from __future__ import annotations

from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.export.exporter.options import ExportConfig


def main() -> None:
    config = parse(ExportConfig, positional="checkpoint", description=__doc__ or "")
    from hgfast.export.exporter import artifact, onnx_export  # import torch

    artifact.export(config, "onnx", onnx_export.make_onnx)


if __name__ == "__main__":
    run_main(main)
