"""Export the network to ONNX: export, quantize for int8, select the outputs, verify, write."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from hgfast.errors import HgfastError
from hgfast.export.exporter import artifact
from hgfast.export.exporter.accuracy_check import calibration_images, check_accuracy
from hgfast.export.exporter.artifact import NOT_INSTALLED, ExportedArtifact
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.exporter.precision_check import model_conv_weights
from hgfast.export.exporter.quantize import quantize
from hgfast.export.exporter.verify import Reference, Row, Tolerances, compare_batches
from hgfast.model import StackedHourglass
from hgfast.runtime.backends import (
    CUDA_PROVIDER,
    RUNTIMES_BY_FORMAT,
    DeviceOptions,
    import_or_explain,
    is_installed,
    make_onnxruntime_fn,
    make_run_fn,
)
from hgfast.runtime.sidecar import HEATMAPS, INPUT_NAME, KEYPOINTS, OUTPUT_NAMES, BatchRange

EXAMPLE_BATCH = 2  # torch.export specializes a batch size of one
NOISY_LOGGERS = ("torch.onnx._internal.exporter._registration", "torch.onnx._internal.exporter._core")
"""Loggers that report a missing torchvision."""


def make_onnx(config: ExportConfig, model: StackedHourglass, out: Path, for_tensorrt: bool = False) -> ExportedArtifact:
    """Write the ONNX file and its sidecar.

    A runtime that is not installed is left out of the verification.

    Raises:
        HgfastError: the model differs from the checkpoint, loses too much accuracy (int8), cannot be written, or no runtime to
            verify it is installed; then nothing is written.
    """
    spec, options = config.spec, DeviceOptions(config.threads)
    full_model = export_onnx_model(ExportModule(model, replace(spec, outputs=OUTPUT_NAMES)), config.batch_range)
    sidecar, accuracy = artifact.make_sidecar(config, model, "onnx"), None
    if config.precision == "int8":
        full_model = quantize(full_model, calibration_images(config, model), config.batch_range, for_tensorrt)
    if (precision := model_conv_weights(full_model, str(out)).precision) != config.precision:
        raise HgfastError(
            f"{out} is {precision} although {config.precision} was requested; nothing was written; please report this bug"
        )
    add_metadata(full_model, sidecar.metadata)
    output_model = select_outputs(full_model, spec.outputs)
    if config.precision == "int8":
        scored_model = output_model if KEYPOINTS in spec.outputs else full_model
        runner = make_onnxruntime_fn(scored_model.SerializeToString(), options)
        accuracy = check_accuracy(config, model, runner, sidecar, "onnxruntime")

    def check(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
        rows: list[Row] = []
        runtimes = RUNTIMES_BY_FORMAT["onnx"]
        if not any(map(is_installed, runtimes)):
            raise HgfastError(
                f"nothing here can verify {out}, because {' and '.join(runtimes)} are not installed: pip install "
                f"{runtimes[0]}, or write it without verification with --no-verify"
            )
        for runtime in runtimes:
            if not is_installed(runtime):
                rows.append({"runtime": runtime, "verdict": NOT_INSTALLED})
                continue
            run = make_run_fn(path, sidecar, runtime, options)
            probe = make_run_fn(full_model.SerializeToString(), sidecar, runtime, options)
            on_gpu = runtime == "onnxruntime" and onnxruntime_finds_gpu()
            rows += compare_batches(runtime, run, probe, reference, config.batch_range, limits, spec.outputs, on_gpu)
        return rows

    return artifact.write_artifact(out, lambda path: onnx.save(output_model, path), sidecar, check, config, model, accuracy)


def onnxruntime_finds_gpu() -> bool:
    """Whether onnxruntime is built for CUDA and torch finds a GPU."""
    ort = import_or_explain("onnxruntime", "onnxruntime")
    return torch.cuda.is_available() and CUDA_PROVIDER in ort.get_available_providers()


def export_onnx_model(graph: ExportModule, sizes: BatchRange) -> onnx.ModelProto:
    """Export the graph, which must have all `OUTPUT_NAMES`, with a free batch size unless `sizes` is a single number."""
    assert graph.spec.outputs == OUTPUT_NAMES
    dynamic = sizes.max > sizes.min
    example = graph.example(EXAMPLE_BATCH if dynamic else sizes.max)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with suppress_exporter_warnings():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes=shapes,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def select_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of the model with only the outputs `names` and the nodes that they need."""
    from onnxscript import optimizer

    selected = onnx.ModelProto()
    selected.CopyFrom(model)
    outputs = [output for output in selected.graph.output if output.name in names]
    del selected.graph.output[:]
    selected.graph.output.extend(outputs)
    if set(names) == {HEATMAPS}:
        optimizer.remove_unused_nodes(selected)
    return selected


def add_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Replace the exporter's metadata, which contains paths of this machine, by `metadata`."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name = "hgfast"
    onnx.helper.set_model_props(model, metadata)


@contextlib.contextmanager
def suppress_exporter_warnings() -> Iterator[None]:
    """Suppress warnings of the exporter that users cannot act on."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\..*|copyreg|onnxscript\..*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\..*|onnxscript\..*|onnx_ir\..*|onnx\..*")
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
