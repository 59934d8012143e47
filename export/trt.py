"""Export a network as a TensorRT engine, from an ONNX file that is verified against the checkpoint first.

    python export/trt.py exp/mpii/best.pt --precision fp16
    python export/trt.py exp/mpii/best.pt --precision fp16 --batch 1:8:64 --backend tensorrt_rtx --compute-capabilities [SM86]

TensorRT builds for the GPU of the machine. TensorRT-RTX needs no GPU and builds for several GPU architectures. With a GPU, the
engine is verified too. The ONNX file stays in the engine's folder, even if no installed library builds engines.
"""

from __future__ import annotations

from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.export.exporter.options import TensorRTConfig


def main() -> None:
    config = parse(TensorRTConfig, positional="checkpoint", description=__doc__ or "")
    from hgfast.export.exporter import artifact, tensorrt_export  # import torch

    artifact.export(config, "engine", tensorrt_export.export_engine)


if __name__ == "__main__":
    run_main(main)
