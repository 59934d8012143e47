"""Export the network to a TensorRT engine: write the ONNX file, build, verify, write."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from hgfast.errors import HgfastError
from hgfast.export.exporter import artifact, trt_builder
from hgfast.export.exporter.accuracy_check import check_accuracy
from hgfast.export.exporter.artifact import NOT_RUN, ExportedArtifact
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import TensorRTConfig, onnx_path
from hgfast.export.exporter.precision_check import ConvWeights, check_engine_precision
from hgfast.export.exporter.trt_builder import TrtBackend
from hgfast.export.exporter.verify import Reference, Row, Tolerances, compare_batches
from hgfast.fileio.files import temporary_folder
from hgfast.model import StackedHourglass
from hgfast.runtime.sidecar import KEYPOINTS, sha256_of
from hgfast.runtime.tensorrt_engine import Engine, LibraryNotFound

PACKAGES = ("tensorrt", "tensorrt_cu13", "tensorrt-rtx-cu13-libs", "torch-tensorrt")


def export_engine(config: TensorRTConfig, model: StackedHourglass, out: Path) -> ExportedArtifact:
    """Like `make_engine` with the library of --backend. If none is installed, write the ONNX file and raise `HgfastError`."""
    backend = find_backend(config)
    if isinstance(backend, HgfastError):
        onnx = write_onnx(config, model, out)
        raise HgfastError(f"{onnx.path} is written, the engine is not: {backend}") from backend
    return make_engine(config, model, out, backend)


def find_backend(config: TensorRTConfig) -> TrtBackend | HgfastError:
    """Return the library that builds, or the error if none is installed that supports the GPU."""
    try:
        backend = trt_builder.find_backend(config.backend, compute_capabilities=config.compute_capabilities)
    except (trt_builder.BuilderNotFound, LibraryNotFound) as error:
        return error
    config.check(backend.name)
    if backend.name == "torch_tensorrt" and config.precision == "int8":
        raise HgfastError("Torch-TensorRT gets fp32 and fp16 here: build int8 with --backend tensorrt or tensorrt_rtx")
    return backend


def make_engine(config: TensorRTConfig, model: StackedHourglass, out: Path, backend: TrtBackend) -> ExportedArtifact:
    """Write the engine and its sidecar, from an ONNX file in the same folder or, with Torch-TensorRT, from the network itself.

    Raises:
        HgfastError: the engine cannot be built, has another precision or differs from the checkpoint; then only the ONNX file is
            written.
    """
    sizes, spec = config.batch_range, config.spec
    source: Path | ConvWeights
    if backend.name == "torch_tensorrt":
        from hgfast.export.exporter import torch_trt  # imported here because it requires a GPU

        graph = ExportModule(model, spec)
        onnx, source = None, torch_trt.module_conv_weights(graph)
        built = torch_trt.build(graph, graph.example(1), sizes, config, backend)
    else:
        onnx = write_onnx(config, model, out)
        source = onnx.path
        print(f"building with {backend.reason}", flush=True)
        with trt_builder.explain_undocumented_gpu(backend):
            built = trt_builder.build(onnx.path, sizes, backend, config)
    precision_summary = check_engine_precision(source, built.library, len(built.plan), config.precision, built.layer_info)
    for warning in built.warnings:
        print(f"{backend.name}: {warning}")
    print(f"{config.precision}: {precision_summary}; parsed in {built.parse_s:.2f} s, built in {built.build_s:.1f} s", flush=True)
    uses_positional_names = backend.name == "torch_tensorrt"
    tensor_names = {name: f"output{i}" if uses_positional_names else name for i, name in enumerate(spec.outputs)}
    sidecar = replace(
        artifact.make_sidecar(config, model, built.library, PACKAGES),
        onnx_sha256=sha256_of(onnx.path) if onnx is not None else None,
        builder={**built.builder_info, "precision": precision_summary, "warnings": list(built.warnings), "tensors": tensor_names},
    )

    accuracy = None if onnx is None else (onnx.sidecar.verification or {}).get("accuracy")  # of the ONNX file, in onnxruntime
    if config.precision == "int8" and backend.has_gpu and KEYPOINTS in spec.outputs:
        with temporary_folder() as folder:
            path = folder / "engine"
            path.write_bytes(built.plan)
            with trt_builder.explain_undocumented_gpu(backend), Engine(path, sidecar) as engine:
                accuracy = check_accuracy(config, model, engine, sidecar, sidecar.export_format)

    def check(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
        if not backend.has_gpu:
            return [{"runtime": built.library, "verdict": NOT_RUN}]
        with trt_builder.explain_undocumented_gpu(backend), Engine(path, sidecar) as engine:
            return compare_batches(sidecar.export_format, engine, None, reference, sizes, limits, spec.outputs, on_gpu=True)

    return artifact.write_artifact(out, lambda path: path.write_bytes(built.plan), sidecar, check, config, model, accuracy)


def write_onnx(config: TensorRTConfig, model: StackedHourglass, out: Path) -> ExportedArtifact:
    """Write and verify the ONNX file that an engine is built from."""
    start_time = time.perf_counter()
    exported = make_onnx(config, model, onnx_path(out), for_tensorrt=True)
    artifact.print_summary(exported, time.perf_counter() - start_time)
    return exported
