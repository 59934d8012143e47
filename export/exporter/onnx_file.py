"""Export the module to an ONNX model, and edit and load ONNX models."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hgfast.errors import HgfastError
from hgfast.export.exporter.export_module import ExportModule
from hgfast.runtime.sidecar import HEATMAPS, INPUT_NAME, OUTPUT_NAMES, BatchRange

EXAMPLE_BATCH = 2  # torch.export specializes a batch size of one
NOISY_LOGGERS = ("torch.onnx._internal.exporter._registration", "torch.onnx._internal.exporter._core")
"""Loggers that report a missing torchvision."""


def export_onnx_model(graph: ExportModule, sizes: BatchRange) -> onnx.ModelProto:
    """Export the graph, which must have all `OUTPUT_NAMES`, with a free batch size unless `sizes` is a single number."""
    assert graph.spec.outputs == OUTPUT_NAMES
    dynamic = sizes.max > sizes.min
    example = torch.zeros(input_shape(graph, EXAMPLE_BATCH if dynamic else sizes.max), dtype=input_type(graph))
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


def input_shape(graph: ExportModule, number: int) -> tuple[int, int, int, int]:
    size = graph.meta.input_size
    return (number, 3, size, size) if graph.spec.normalized else (number, size, size, 3)


def input_type(graph: ExportModule) -> torch.dtype:
    return torch.float32 if graph.spec.normalized else torch.uint8


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


def load_onnx(path: Path) -> onnx.ModelProto:
    """Load an ONNX file. Raises `HgfastError` if it cannot be read or is truncated."""
    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise HgfastError(f"{path} cannot be read as ONNX ({' '.join(str(error).split())[:120]}): export it again") from error


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
