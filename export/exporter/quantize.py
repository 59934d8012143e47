"""Post-training quantization: convert an fp32 ONNX model to int8, calibrated on the user's images.

Uses onnxruntime's static quantization in QDQ format with per-channel weights. The output layers, the normalization and the
decoder stay in floating point. For CPUs, everything between the image and the output layers becomes int8, with unsigned
activations and a zero point; a BatchNorm before a residual, which cannot be fused into a convolution, becomes a depthwise
convolution, so that no operation there stays in floating point. TensorRT requires symmetric signed activations and no int8
biases; only the inputs of convolutions are quantized, and TensorRT fuses the rest.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.fileio.files import temporary_folder
from hgfast.runtime.sidecar import INPUT_NAME, BatchRange

OUTPUT_LAYERS = ".score."  # in the names of the weights that produce heatmaps
CPU_OP_TYPES = ("Conv", "Relu", "Add", "MaxPool", "Resize")
TENSORRT_OP_TYPES = ("Conv",)
CALIBRATION_BATCH = 8  # for a free batch size


class CalibrationReader:
    """Feeds images (n, …) to onnxruntime's calibration with a progress bar; an incomplete last batch is dropped."""

    def __init__(self, images: NDArray[Any], batch_size: int) -> None:
        starts = range(0, len(images) - batch_size + 1, batch_size)
        self._batches = iter(tqdm([images[s : s + batch_size] for s in starts], desc="calibrate", disable=None, leave=False))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def quantize(model: onnx.ModelProto, images: NDArray[Any], sizes: BatchRange, for_tensorrt: bool) -> onnx.ModelProto:
    """Return the model in int8.

    Args:
        model: fp32.
        images: (n, S, S, 3) uint8 or (n, 3, S, S) float32, as the model requires.
        for_tensorrt: quantize for TensorRT instead of for CPUs.

    Raises:
        HgfastError: there are fewer images than the model's batch size.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    part = sizes.max if sizes.min == sizes.max else min(max(CALIBRATION_BATCH, sizes.min), sizes.max, len(images))
    if len(images) < max(part, sizes.min):
        raise HgfastError(
            f"there are {len(images)} images to calibrate with, but the batch size is at least {sizes.min}: give more"
        )
    op_types = TENSORRT_OP_TYPES if for_tensorrt else CPU_OP_TYPES
    options = {"ActivationSymmetric": for_tensorrt, "WeightSymmetric": True, "QuantizeBias": not for_tensorrt}
    with temporary_folder() as folder, _suppress_warnings():
        fp32_path, prepared_path, int8_path = (folder / name for name in ("plain.onnx", "prepared.onnx", "done.onnx"))
        onnx.save(model, fp32_path)
        quant_pre_process(str(fp32_path), str(prepared_path), skip_symbolic_shape=True)  # fuses BatchNorm where possible
        prepared_model = onnx.load(prepared_path)
        if not for_tensorrt:
            replace_batch_norms(prepared_model)
            onnx.save(prepared_model, prepared_path)
        quantize_static(
            str(prepared_path),
            str(int8_path),
            CalibrationReader(images, part),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=select_nodes(prepared_model, op_types),
            op_types_to_quantize=list(op_types),
            extra_options={**options, "OpTypesToExcludeOutputQuantization": list(op_types)} if for_tensorrt else options,
        )
        return onnx.load(int8_path)


def replace_batch_norms(model: onnx.ModelProto) -> None:
    """Replace every BatchNorm by a depthwise convolution with a 1 x 1 kernel, in place."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        weight, bias, mean, variance = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        scale = weight / np.sqrt(variance + epsilon)
        names = [f"{node.name}.weight", f"{node.name}.bias"]
        values = [scale.reshape(-1, 1, 1, 1), bias - mean * scale]
        graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for v, name in zip(values, names))
        nodes.append(helper.make_node("Conv", [node.input[0], *names], list(node.output), name=node.name, group=len(scale)))
    del graph.node[:]
    graph.node.extend(nodes)
    inputs = {name for node in nodes for name in node.input}
    used_initializers = [tensor for tensor in graph.initializer if tensor.name in inputs]  # BatchNorms may share initializers
    del graph.initializer[:]
    graph.initializer.extend(used_initializers)


def select_nodes(model: onnx.ModelProto, op_types: tuple[str, ...]) -> list[str]:
    """Return the nodes of these types between the normalized image and the output layers, both excluded."""
    nodes = model.graph.node
    producers = {name: node for node in nodes for name in node.output}
    last = [node for node in nodes if node.op_type == "Conv" and OUTPUT_LAYERS in node.input[1]]
    if not last:
        raise RuntimeError(f"the model has no weights of an output layer ({OUTPUT_LAYERS})")
    first = next(node for node in nodes if node.op_type == "Conv")  # nodes are in topological order
    inside = _ancestors(last, producers) - _ancestors([first], producers) - {node.name for node in last}
    return [node.name for node in nodes if node.op_type in op_types and node.name in inside]


def _ancestors(ends: list[onnx.NodeProto], producers: dict[str, onnx.NodeProto]) -> set[str]:
    """Return the names of the nodes that `ends` depend on; `ends` themselves only if another one depends on them."""
    ancestors: set[str] = set()
    pending = [name for node in ends for name in node.input]
    while pending:
        producer = producers.get(pending.pop())
        if producer is not None and producer.name not in ancestors:
            ancestors.add(producer.name)
            pending += producer.input
    return ancestors


@contextlib.contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppress onnxruntime's advice to pre-process the model, which has been done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
