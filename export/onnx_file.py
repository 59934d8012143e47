"""From the deployed graph to an ONNX model, and what can be said of one without running it.

What may enter: ONNX as a format. Running it is `hgfast.runtimes`, TensorRT is elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from graph import Deployed

from hgfast.errors import HgfastError
from hgfast.sidecar import HEATMAPS, INPUT, OUTPUTS, Batch

EXAMPLE = 2  # torch.export takes a batch of one for a constant
NOISY = ("torch.onnx._internal.exporter._registration", "torch.onnx._internal.exporter._core")
"""Loggers that tell everybody without torchvision what torchvision could do."""


def trace(graph: Deployed, sizes: Batch) -> onnx.ModelProto:
    """The graph as ONNX, with a free batch unless `sizes` is a single number. The graph must have all `OUTPUTS`."""
    assert graph.wiring.outputs == OUTPUTS
    free = sizes.max > sizes.min
    example = torch.zeros(input_shape(graph, EXAMPLE if free else sizes.max), dtype=input_type(graph))
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    with quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=shapes,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def input_shape(graph: Deployed, number: int) -> tuple[int, int, int, int]:
    size = graph.meta.input_size
    return (number, 3, size, size) if graph.wiring.normalised else (number, size, size, 3)


def input_type(graph: Deployed) -> torch.dtype:
    return torch.float32 if graph.wiring.normalised else torch.uint8


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with only these of its outputs, and without the nodes that no other needs."""
    from onnxscript import optimizer

    chosen = onnx.ModelProto()
    chosen.CopyFrom(model)
    kept = [output for output in chosen.graph.output if output.name in names]
    del chosen.graph.output[:]
    chosen.graph.output.extend(kept)
    if set(names) == {HEATMAPS}:
        optimizer.remove_unused_nodes(chosen)
    return chosen


def add_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Write what travels within the file, in the place of what the exporter wrote, which names this machine's folders."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name = "hgfast"
    onnx.helper.set_model_props(model, metadata)


def read_model(path: Path) -> onnx.ModelProto:
    """An ONNX file. Raises `HgfastError` for one that cannot be read, or was cut short."""
    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise HgfastError(f"{path} cannot be read as ONNX ({' '.join(str(error).split())[:120]}): export it again") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter says to its own authors."""
    loggers = [logging.getLogger(name) for name in NOISY]
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
