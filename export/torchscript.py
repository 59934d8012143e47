"""Export a network as TorchScript, for LibTorch in C++ and torch in Python, verified against the checkpoint.

    python export/torchscript.py exp/mpii/best.pt
    python export/torchscript.py exp/mpii/best.pt --precision fp16 --flip-test --outputs keypoints,heatmaps

The module is traced and frozen, accepts any batch size, and returns a tuple in the order of --outputs. Its sidecar is
FILE.json; the extra file hgfast.json in it has the same content. LibTorch of the same or a newer version reads the file. torch
has deprecated TorchScript since 2.13.
"""

from __future__ import annotations

from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.export.exporter.options import ExportConfig


def main() -> None:
    config = parse(ExportConfig, positional="checkpoint", description=__doc__ or "")
    if config.precision == "int8":
        raise HgfastError("int8 requires ONNX or TensorRT: use hgfast export onnx or tensorrt, or --precision fp16")
    from hgfast.export.exporter import artifact, torchscript_export  # import torch

    artifact.export(config, "torchscript", torchscript_export.make_torchscript)


if __name__ == "__main__":
    run_main(main)
