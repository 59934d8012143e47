"""Verify the precision of an ONNX model or a TensorRT engine by its weights, layers and size, without running it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hgfast.errors import HgfastError, one_line
from hgfast.fileio.onnx_file import check_onnx
from hgfast.runtime.sidecar import Precision
from hgfast.runtime.tensorrt_engine import TrtLibrary

MIN_LAYER_SHARE = {
    "fp32": 0.9,
    "fp16": 0.9,
    "int8": 0.5,
}  # minimum fraction of an engine's convolutions that must have this precision according to its inspector
MAX_FP32_FRACTION, KERNEL_BYTES = 0.55, 4_500_000
"""Maximum size of an fp16 engine of TensorRT-RTX: this fraction of its weights in fp32, plus the bytes of kernels and headers.
That of hg1 has half of the weights and 3.2 MB. Plans of TensorRT differ: they may store weights in a kernel's own layout and
contain a lean runtime."""


@dataclass(frozen=True)
class ConvWeights:
    """Convolution weights of a network: the precision that most have, and their number."""

    precision: Precision
    count: int


def onnx_conv_weights(path: Path) -> ConvWeights:
    """Like `model_conv_weights`, for a file. Also raises `HgfastError` if the file is not a complete ONNX model."""
    try:
        content = path.read_bytes()
        check_onnx(content)
        model = onnx.load_model_from_string(content)
    except (OSError, DecodeError, ValueError) as error:
        raise HgfastError(f"{path} cannot be read as ONNX ({one_line(error)}): export it again") from error
    return model_conv_weights(model, str(path))


def model_conv_weights(model: onnx.ModelProto, what: str) -> ConvWeights:
    """Return the convolution weights of an ONNX model. Weights before a DequantizeLinear count as int8, others by their type.

    what: name of the model, for messages. Raises `HgfastError` if the model has no convolutions or an unsupported precision.
    """
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    types = onnx.TensorProto
    precisions = {types.FLOAT: "fp32", types.FLOAT16: "fp16", types.INT8: "int8", types.UINT8: "int8"}
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        name, data_type = node.input[1], None
        while name not in initializers and name in producers:  # trace back to the stored weights
            producer = producers[name]
            values = {attribute.name: attribute for attribute in producer.attribute}
            if producer.op_type == "Constant" and "value" in values:
                initializers[name] = values["value"].t
                break
            if producer.op_type == "Cast" and data_type is None:
                data_type = values["to"].i
            if producer.op_type == "DequantizeLinear":
                zero_point = initializers.get(producer.input[2]) if len(producer.input) > 2 else None
                data_type = zero_point.data_type if zero_point is not None else types.INT8
            if not producer.input:
                break
            name = producer.input[0]
        if name not in initializers:
            raise HgfastError(f"the weights of {node.name} in {what} are not stored in it: export it again")
        data_type = initializers[name].data_type if data_type is None else data_type
        counts[precisions.get(data_type, types.DataType.Name(data_type).lower())] += math.prod(initializers[name].dims)
    if not counts:
        raise HgfastError(f"{what} has no convolution and is not a network of hgfast: export it with hgfast export onnx")
    precision: Any = counts.most_common(1)[0][0]
    if precision not in precisions.values():
        raise HgfastError(f"{what} computes in {precision}, not in fp32, fp16 or int8: export it again")
    return ConvWeights(precision, sum(counts.values()))


def check_engine_precision(
    source: Path | ConvWeights, library: TrtLibrary, plan_size: int, expected: Precision, layers: str | None = None
) -> str:
    """Verify that an engine has the expected precision and return a short description of the evidence, or that there is none.

    Args:
        source: the ONNX file that the engine was built from, or the weights of its convolutions.
        library: runs the engine.
        plan_size: bytes.
        layers: `BuiltEngine.layer_info`; without it, the size of the plan is the evidence, for TensorRT-RTX only.

    Raises:
        HgfastError: the engine has another precision.
    """
    weights = onnx_conv_weights(source) if isinstance(source, Path) else source
    what = source.name if isinstance(source, Path) else "the network"
    if weights.precision != expected:
        raise HgfastError(
            f"{expected} was requested, but the convolutions of {what} are {weights.precision}, which no builder changes: "
            f"export a network in {expected}"
        )
    layer_counts = layer_precisions(layers)
    if layer_counts:
        total, matching = sum(layer_counts.values()), layer_counts[expected]
        summary = f"{matching} of the engine's {total} convolutions are {expected}"
        if matching < MIN_LAYER_SHARE[expected] * total:
            counts = ", ".join(f"{number} {name}" for name, number in layer_counts.most_common())
            raise HgfastError(
                f"{expected} was requested, but the engine's convolutions are {counts}: see the warnings of the build"
            )
        return f"{summary}, according to its inspector"
    unproved = f"weights {expected} in {what}; the precision of the kernels is not proved, because"
    if library != "tensorrt_rtx":
        return f"{unproved} the engine's inspector does not show it"
    size, fp32_bytes = f"{plan_size / 1e6:.1f} MB", 4 * weights.count
    min_bytes = {"fp32": 0.9, "fp16": 0.45, "int8": 0.2}[expected] * fp32_bytes
    if plan_size < min_bytes:
        raise HgfastError(
            f"the engine has {size}, but its weights alone have {min_bytes / 1e6:.1f} MB in {expected}: build it again"
        )
    if expected == "fp32":
        return f"weights {expected} in {what}; the engine's {size} hold them"
    if expected == "int8":
        return f"{unproved} only the engine's inspector shows it, on a GPU"
    max_bytes = MAX_FP32_FRACTION * fp32_bytes + KERNEL_BYTES
    if max_bytes >= fp32_bytes:
        return f"{unproved} the network is too small to verify by the engine's size of {size}"
    if plan_size > max_bytes:
        raise HgfastError(
            f"{expected} was requested, but the engine has {size}, more than {max_bytes / 1e6:.1f} MB for weights of "
            f"{fp32_bytes / 1e6:.1f} MB in fp32, so it is fp32: see the warnings of the build"
        )
    return f"weights {expected} in {what}; the engine's {size} are {plan_size / fp32_bytes:.0%} of its weights in fp32"


def layer_precisions(layers: str | None) -> Counter[str]:
    """Count an engine's convolutions by precision in its inspector's JSON; empty if that has no such information."""
    try:
        content = json.loads(layers or "{}")
    except ValueError as error:
        raise HgfastError(f"the engine's inspector returned invalid JSON ({error}): try a newer TensorRT") from error
    counts: Counter[str] = Counter()
    for layer in (content.get("Layers") or []) if isinstance(content, dict) else []:
        if isinstance(layer, dict) and "conv" in f"{layer.get('LayerType')} {layer.get('ParameterType')}".lower():
            weights, inputs = layer.get("Weights"), layer.get("Inputs")
            descriptions = [str(weights.get("Type"))] if isinstance(weights, dict) else []
            descriptions += [str(tensor.get("Format/Datatype")) for tensor in inputs or [] if isinstance(tensor, dict)]
            counts.update(_first_precision(descriptions))
    return counts


def _first_precision(descriptions: Iterable[str]) -> list[str]:
    """Return the precision in the first description that contains one. The inspector uses Half and FP16 for the same."""
    for description in descriptions:
        if match := re.search(r"\b(?:(half|fp16)|(float|fp32)|(int8))\b", description.lower()):
            return [("fp16", "fp32", "int8")[(match.lastindex or 1) - 1]]
    return []
