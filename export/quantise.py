"""Post-training quantisation: an fp32 ONNX model's network in int8, calibrated on the user's pictures.

onnxruntime's static quantisation in QDQ form, weights by channel, the output layers, the normalisation and the decoder left as
they are. For CPUs everything between the image and the output layers becomes int8, activations unsigned with a zero point; a
BatchNorm before a residual, which no convolution can take up, becomes a convolution of every channel by itself, so that nothing
there is a float (hg1 in onnxruntime: from 1.8 to 2.7 times as fast as fp32). TensorRT takes signed activations around zero and
no int8 biases, and gets the convolutions' inputs only: it fuses the rest by itself.
What may enter: which nodes are quantised and how. What it costs in accuracy is measured elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.sidecar import INPUT, Batch

OUTPUT_LAYERS = ".score."  # part of the names of the weights that give heatmaps
FOR_CPUS = ("Conv", "Relu", "Add", "MaxPool", "Resize")
FOR_TENSORRT = ("Conv",)
PART = 8  # pictures calibrated on at once, where the batch is free


class Reader:
    """Pictures (n, …) as onnxruntime's calibration reads them, with a progress bar; a last part that is not full is left out."""

    def __init__(self, images: NDArray[Any], part: int) -> None:
        starts = range(0, len(images) - part + 1, part)
        self._parts = iter(tqdm([images[s : s + part] for s in starts], desc="calibrate", disable=None, leave=False))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part}


def quantise(model: onnx.ModelProto, images: NDArray[Any], sizes: Batch, for_tensorrt: bool) -> onnx.ModelProto:
    """The model in int8.

    Args:
        model: fp32.
        images: (n, S, S, 3) uint8 or (n, 3, S, S) float32, as the model takes them.
        for_tensorrt: as TensorRT reads it, instead of as CPUs run it fastest.

    Raises:
        HgfastError: fewer pictures than the model takes at once.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    part = sizes.max if sizes.min == sizes.max else min(max(PART, sizes.min), sizes.max, len(images))
    if len(images) < max(part, sizes.min):
        raise HgfastError(f"there are {len(images)} pictures to calibrate on, and the model takes {sizes.min} at once: name more")
    kinds = FOR_TENSORRT if for_tensorrt else FOR_CPUS
    options = {"ActivationSymmetric": for_tensorrt, "WeightSymmetric": True, "QuantizeBias": not for_tensorrt}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, done = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "done.onnx"))
        onnx.save(model, plain)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)  # BatchNorm is folded where it can be
        before = onnx.load(prepared)
        if not for_tensorrt:
            turn_into_convolutions(before)
            onnx.save(before, prepared)
        quantize_static(
            str(prepared),
            str(done),
            Reader(images, part),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=chosen(before, kinds),
            op_types_to_quantize=list(kinds),
            extra_options={**options, "OpTypesToExcludeOutputQuantization": list(kinds)} if for_tensorrt else options,
        )
        return onnx.load(done)


def turn_into_convolutions(model: onnx.ModelProto) -> None:
    """Every BatchNorm as a convolution with a kernel of one cell and as many groups as channels, in place."""
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
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]  # BatchNorms may have shared theirs
    del graph.initializer[:]
    graph.initializer.extend(kept)


def chosen(model: onnx.ModelProto, kinds: tuple[str, ...]) -> list[str]:
    """The nodes of these kinds between the normalised image and the output layers, which are not among them."""
    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    last = [node for node in nodes if node.op_type == "Conv" and OUTPUT_LAYERS in node.input[1]]
    if not last:
        raise RuntimeError(f"no weights of an output layer ({OUTPUT_LAYERS}) are among the model's")
    first = next(node for node in nodes if node.op_type == "Conv")  # nodes are in the order of computation
    inside = _before(last, makers) - _before([first], makers) - {node.name for node in last}
    return [node.name for node in nodes if node.op_type in kinds and node.name in inside]


def _before(ends: list[onnx.NodeProto], makers: dict[str, onnx.NodeProto]) -> set[str]:
    """The names of the nodes that `ends` depend on, without them unless one depends on another."""
    found: set[str] = set()
    waiting = [name for node in ends for name in node.input]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker.name not in found:
            found.add(maker.name)
            waiting += maker.input
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice to do what has been done (the root logger's warning about pre-processing)."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
