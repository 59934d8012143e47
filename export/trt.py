"""Export a network as a TensorRT engine, from an ONNX file that is verified against the checkpoint first.

    python export/trt.py exp/mpii/best.pt --precision fp16
    python export/trt.py exp/mpii/best.pt --precision fp16 --batch 1:8:64 --backend tensorrt_rtx --compute-capabilities [SM86]

TensorRT builds for the GPU of the machine. TensorRT-RTX needs no GPU and builds for several GPU architectures. With a GPU, the
engine is verified too. The ONNX file stays in the engine's folder, even if no installed library builds engines.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.export.exporter import artifact, trt_builder
from hgfast.export.exporter.accuracy_check import check_accuracy
from hgfast.export.exporter.artifact import NOT_RUN, ExportedArtifact
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.onnx_file import input_shape, input_type
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.exporter.precision_check import check_engine_precision
from hgfast.export.exporter.trt_builder import BuildOptions, BuiltEngine, TrtBackend
from hgfast.export.exporter.verify import Reference, Row, Tolerances, batch_sizes_to_check, compare
from hgfast.export.to_onnx import make_onnx
from hgfast.fileio.files import check_distinct_paths, prepare_file
from hgfast.model import StackedHourglass
from hgfast.pipelines.datasets import input_files
from hgfast.runtime.sidecar import KEYPOINTS, OUTPUT_NAMES, Sidecar, sha256_of, sidecar_path
from hgfast.runtime.tensorrt_engine import Engine, LibraryNotFound


@dataclass(kw_only=True)
class TensorRTConfig(ExportConfig):
    """Options of an export to TensorRT."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "torch_tensorrt"] = "auto"
    """library that builds; auto: TensorRT or Torch-TensorRT if there is a GPU, else TensorRT-RTX"""
    timing_cache: Path | None = None
    """TensorRT: file of kernel timings, which makes the next build faster"""
    hardware_compatible: bool = False
    """build for all GPUs from Ampere on, possibly slower; TensorRT-RTX always does"""
    version_compatible: bool = False
    """TensorRT: build an engine that later versions run too, possibly slower"""
    workspace_gb: float | None = None
    """maximum workspace of a layer in gigabytes"""
    optimization_level: int | None = None
    """0 (fast build) to 5 (fast engine)"""
    compute_capabilities: list[str] = field(default_factory=list)
    """TensorRT-RTX: GPUs to build for, such as [SM86,SM120]; none: 8.0, 8.6, 8.9, 12.0 and later"""

    def validate(self, suffix: str) -> None:
        """Also validate the path of the ONNX file."""
        super().validate(suffix)
        out = self.output_path(suffix)
        if out.suffix == ".onnx":
            raise HgfastError(f"--out {out} is the engine and must not end in .onnx: the ONNX file will be {onnx_path(out)}")
        onnx = onnx_path(out)
        check_distinct_paths(
            [("the checkpoint", self.checkpoint), *input_files(self)], {"the ONNX": onnx, "its sidecar": sidecar_path(onnx)}
        )
        prepare_file(onnx, "--out")

    @property
    def build_options(self) -> BuildOptions:
        return BuildOptions(
            self.timing_cache,
            self.hardware_compatible,
            self.version_compatible,
            self.workspace_gb,
            self.optimization_level,
            tuple(self.compute_capabilities),
        )


def make_engine(config: TensorRTConfig, model: StackedHourglass, out: Path, backend: TrtBackend) -> ExportedArtifact:
    """Write the engine and its sidecar, from an ONNX file in the same folder or, with Torch-TensorRT, from the network itself.

    Raises:
        HgfastError: the engine cannot be built, has another precision or differs from the checkpoint; then only the ONNX file is
            written.
    """
    sizes = config.batch_range
    if backend.name == "torch_tensorrt":
        from hgfast.export.exporter import torch_trt  # imported here because it requires a GPU

        graph = ExportModule(model, config.spec)
        weights = torch_trt.module_conv_weights(graph)
        example = torch.zeros(input_shape(graph, 1), dtype=input_type(graph))
        built = torch_trt.build(graph, example, sizes, config.build_options, backend)
        onnx, precision_summary = None, check_engine_precision(weights, len(built.plan), config.precision, built.layer_info)
    else:
        onnx = write_onnx(config, model, out)
        print(f"building with {backend.reason}", flush=True)
        built = trt_builder.build(onnx.path, sizes, backend, config.build_options)
        precision_summary = check_engine_precision(onnx.path, len(built.plan), config.precision, built.layer_info)
    for warning in built.warnings:
        print(f"{backend.name}: {warning}")
    print(f"{config.precision}: {precision_summary}; parsed in {built.parse_s:.2f} s, built in {built.build_s:.1f} s", flush=True)
    names = [name for name in OUTPUT_NAMES if name in config.spec.outputs]
    uses_positional_names = backend.name == "torch_tensorrt"
    tensor_names = {name: f"output{index}" if uses_positional_names else name for index, name in enumerate(names)}
    sidecar = replace(
        artifact.make_sidecar(
            config, model, built.library, ("tensorrt", "tensorrt_cu13", "tensorrt-rtx-cu13-libs", "torch-tensorrt")
        ),
        onnx_sha256=sha256_of(onnx.path) if onnx is not None else None,
        builder={**built.builder_info, "precision": precision_summary, "warnings": list(built.warnings), "tensors": tensor_names},
    )

    accuracy = None if onnx is None else (onnx.sidecar.verification or {}).get("accuracy")  # of the ONNX file, in onnxruntime
    if config.precision == "int8" and backend.has_gpu and KEYPOINTS in config.spec.outputs:
        accuracy = check_engine_accuracy(built, sidecar, config, model)

    def check(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
        if not backend.has_gpu:
            return [{"runtime": built.library, "verdict": NOT_RUN}]
        return verify_engine(path, sidecar, config, reference, limits)

    return artifact.write_artifact(out, lambda path: path.write_bytes(built.plan), sidecar, check, config, model, accuracy)


def check_engine_accuracy(
    built: BuiltEngine, sidecar: Sidecar, config: TensorRTConfig, model: StackedHourglass
) -> dict[str, Any]:
    """Like `accuracy_check.check_accuracy`, for an engine on the GPU that is not written yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine"
        path.write_bytes(built.plan)
        with Engine(path, sidecar) as engine:
            return check_accuracy(config, model, engine, sidecar, sidecar.export_format)


def verify_engine(
    path: Path, sidecar: Sidecar, config: TensorRTConfig, reference: Reference, limits: Tolerances | None
) -> list[Row]:
    """Return the rows of an engine on a GPU, with heatmaps if the engine has that output."""
    with Engine(path, sidecar) as engine:
        return [
            {"runtime": sidecar.export_format, **compare(engine, None, reference, batch_size, limits, config.spec.outputs)}
            for batch_size in batch_sizes_to_check(config.batch_range)
        ]


def onnx_path(out: Path) -> Path:
    """Return the path of an engine's ONNX file, which no other export uses."""
    return out.with_name(f"{out.name}.onnx")


def write_onnx(config: TensorRTConfig, model: StackedHourglass, out: Path) -> ExportedArtifact:
    """Write and verify the ONNX file that an engine is built from."""
    start_time = time.perf_counter()
    exported = make_onnx(config, model, onnx_path(out), for_tensorrt=True)
    artifact.print_summary(exported, time.perf_counter() - start_time)
    return exported


def find_backend(config: TensorRTConfig) -> TrtBackend | HgfastError:
    """Return the library that builds, or the error if none is installed."""
    try:
        backend = trt_builder.find_backend(config.backend)
        config.build_options.check(backend.name)
    except (trt_builder.BuilderNotFound, LibraryNotFound) as error:
        return error
    if backend.name == "torch_tensorrt" and config.precision == "int8":
        raise HgfastError("Torch-TensorRT gets fp32 and fp16 here: build int8 with --backend tensorrt or tensorrt_rtx")
    return backend


def main() -> None:
    start_time = time.perf_counter()
    config = parse(TensorRTConfig, positional="checkpoint", description=__doc__ or "")
    config.validate("engine")
    backend, model, out = find_backend(config), config.load_model(), config.output_path("engine")
    if isinstance(backend, HgfastError):
        onnx = write_onnx(config, model, out)
        raise HgfastError(f"{onnx.path} is written, the engine is not: {backend}") from backend
    exported = make_engine(config, model, out, backend)
    artifact.print_summary(exported, time.perf_counter() - start_time)


if __name__ == "__main__":
    run_main(main)
