"""Export a network as ONNX: one graph from a uint8 image to keypoints, verified against the checkpoint.

    python export/to_onnx.py exp/mpii/best.pt
    python export/to_onnx.py exp/mpii/best.pt --precision fp16 --batch 1:8:64 --flip-test --outputs keypoints,heatmaps

The file runs in onnxruntime and OpenVINO. Its sidecar is FILE.json; the file's metadata has the same content.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import onnx

from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.export.exporter import artifact, onnx_file
from hgfast.export.exporter.accuracy_check import calibration_images, check_accuracy
from hgfast.export.exporter.artifact import ExportedArtifact
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.exporter.precision_check import model_conv_weights
from hgfast.export.exporter.quantize import quantize
from hgfast.export.exporter.verify import Reference, Row, Tolerances, batch_sizes_to_check, compare
from hgfast.model import StackedHourglass
from hgfast.runtime.backends import RUNTIMES_BY_FORMAT, DeviceOptions, make_onnxruntime_fn, make_run_fn
from hgfast.runtime.sidecar import KEYPOINTS, OUTPUT_NAMES, Precision


def make_onnx(config: ExportConfig, model: StackedHourglass, out: Path, for_tensorrt: bool = False) -> ExportedArtifact:
    """Write the ONNX file and its sidecar.

    Raises:
        HgfastError: the model differs from the checkpoint, loses too much accuracy (int8), or cannot be written; then nothing is
            written.
    """
    spec = config.spec
    full_model = onnx_file.export_onnx_model(ExportModule(model, replace(spec, outputs=OUTPUT_NAMES)), config.batch_range)
    sidecar, accuracy = artifact.make_sidecar(config, model, "onnx"), None
    if config.precision == "int8":
        full_model = quantize(full_model, calibration_images(config, model), config.batch_range, for_tensorrt)
    check_precision(full_model, config.precision, out)
    onnx_file.add_metadata(full_model, sidecar.metadata)
    output_model = onnx_file.select_outputs(full_model, spec.outputs)
    if config.precision == "int8":
        scored_model = output_model if KEYPOINTS in spec.outputs else full_model
        runner = make_onnxruntime_fn(scored_model.SerializeToString(), DeviceOptions(config.threads))
        accuracy = check_accuracy(config, model, runner, sidecar, "onnxruntime")

    def check(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
        rows = []
        for runtime in RUNTIMES_BY_FORMAT["onnx"]:
            run = make_run_fn(path, sidecar, runtime, DeviceOptions(config.threads))
            heatmap_run = make_run_fn(full_model.SerializeToString(), sidecar, runtime, DeviceOptions(config.threads))
            for batch_size in batch_sizes_to_check(config.batch_range):
                row = compare(run, heatmap_run, reference, batch_size, limits, spec.outputs)
                rows.append({"runtime": runtime, **row})
        return rows

    return artifact.write_artifact(out, lambda path: onnx.save(output_model, path), sidecar, check, config, model, accuracy)


def check_precision(model: onnx.ModelProto, expected: Precision, out: Path) -> None:
    """Raise `HgfastError` unless the model computes in the expected precision."""
    if (actual := model_conv_weights(model, str(out)).precision) != expected:
        raise HgfastError(f"{out} is {actual} although {expected} was requested; nothing was written; please report this bug")


def main() -> None:
    start_time = time.perf_counter()
    config = parse(ExportConfig, positional="checkpoint", description=__doc__ or "")
    config.validate("onnx")
    exported = make_onnx(config, config.load_model(), config.output_path("onnx"))
    artifact.print_summary(exported, time.perf_counter() - start_time)


if __name__ == "__main__":
    run_main(main)
