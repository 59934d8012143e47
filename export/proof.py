"""What proves the precision of an ONNX model or of an engine: the types of its weights, its layers, its size.

What may enter: reading precisions off files. Nothing is built or run here.
"""

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
from onnx_file import read_model

from hgfast.errors import HgfastError
from hgfast.sidecar import Precision

LEAST = {"fp32": 0.9, "fp16": 0.9, "int8": 0.5}  # share of an engine's convolutions that its inspector must call so
HALF, KERNELS = 0.55, 4_500_000
"""An engine in fp16 has at most this share of its weights' bytes in fp32, and so many bytes besides: of TensorRT-RTX's for hg1
half of them, and 3.2 MB of kernels and headers."""


@dataclass(frozen=True)
class Weights:
    """The weights of a network's convolutions: the precision that most of them compute in, and how many there are."""

    precision: Precision
    numbers: int


def onnx_weights(path: Path) -> Weights:
    """As `model_weights`, of a file. Raises `HgfastError` for what is no whole ONNX, besides."""
    return model_weights(read_model(path), str(path))


def model_weights(model: onnx.ModelProto, what: str) -> Weights:
    """The weights of an ONNX model's convolutions: int8 between QuantizeLinear and DequantizeLinear, else of their type.

    what: the model is, for messages. Raises `HgfastError` for one without convolutions, or of a precision that is none of ours.
    """
    graph = model.graph
    stored = {one.name: one for one in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    types = onnx.TensorProto
    kinds = {types.FLOAT: "fp32", types.FLOAT16: "fp16", types.INT8: "int8", types.UINT8: "int8"}
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        name, kind = node.input[1], None
        while name not in stored and name in makers:  # from the convolution back to where its weights are stored
            maker = makers[name]
            values = {one.name: one for one in maker.attribute}
            if maker.op_type == "Constant" and "value" in values:
                stored[name] = values["value"].t
                break
            if maker.op_type == "Cast" and kind is None:
                kind = values["to"].i
            if maker.op_type == "DequantizeLinear":
                point = stored.get(maker.input[2]) if len(maker.input) > 2 else None
                kind = point.data_type if point is not None else types.INT8
            if not maker.input:
                break
            name = maker.input[0]
        if name not in stored:
            raise HgfastError(f"the weights of {node.name} in {what} are not stored in it: export it again")
        kind = stored[name].data_type if kind is None else kind
        found[kinds.get(kind, types.DataType.Name(kind).lower())] += math.prod(stored[name].dims)
    if not found:
        raise HgfastError(f"{what} has no convolution, so it is no network of hgfast's: export it with export/to_onnx.py")
    precision: Any = found.most_common(1)[0][0]
    if precision not in kinds.values():
        raise HgfastError(f"{what} computes in {precision}, which is none of fp32, fp16 and int8: export it again")
    return Weights(precision, sum(found.values()))


def prove_precision(source: Path | Weights, plan_size: int, wanted: Precision, layers: str | None = None) -> str:
    """What shows that an engine is of the wanted precision, in a few words for a table.

    source: the ONNX file that it was built from, or what its convolutions have. plan_size: in bytes. layers: as
    `Built.layers`; where there are none, the plan's size must do.

    Raises:
        HgfastError: it is of another precision.
    """
    weights = onnx_weights(source) if isinstance(source, Path) else source
    what = source.name if isinstance(source, Path) else "the network"
    if weights.precision != wanted:
        raise HgfastError(
            f"{wanted} was asked for and the convolutions of {what} are {weights.precision}, which no builder changes: "
            f"export a network in {wanted}"
        )
    seen = layer_precisions(layers)
    if seen:
        total, fitting = sum(seen.values()), seen[wanted]
        told = f"{fitting} of the engine's {total} convolutions are {wanted}"
        if fitting < LEAST[wanted] * total:
            counts = ", ".join(f"{number} {name}" for name, number in seen.most_common())
            raise HgfastError(
                f"{wanted} was asked for and the engine's convolutions came out as {counts}: see the build's warnings"
            )
        return f"{told}, as its inspector says"
    size, single = f"{plan_size / 1e6:.1f} MB", 4 * weights.numbers
    least = {"fp32": 0.9, "fp16": 0.45, "int8": 0.2}[wanted] * single
    if plan_size < least:
        raise HgfastError(f"the engine has {size}, where its weights alone have {least / 1e6:.1f} MB in {wanted}: build it again")
    if wanted == "fp32":
        return f"weights {wanted} in {what}; the engine's {size} hold them"
    if wanted == "int8":
        return f"weights int8 in {what}; what the kernels make of them shows only on a GPU"
    most = HALF * single + KERNELS
    if most >= single:
        return f"weights {wanted} in {what}; it is too small for the engine's size of {size} to tell"
    if plan_size > most:
        raise HgfastError(
            f"{wanted} was asked for and the engine has {size}, where {most / 1e6:.1f} MB would be the most for weights of "
            f"{single / 1e6:.1f} MB in fp32, so it came out as fp32: see the build's warnings"
        )
    return f"weights {wanted} in {what}; the engine's {size} are {plan_size / single:.0%} of its weights in fp32"


def layer_precisions(layers: str | None) -> Counter[str]:
    """How many of an engine's convolutions are of each precision, going by its inspector's JSON; nothing where that is silent."""
    try:
        content = json.loads(layers or "{}")
    except ValueError as error:
        raise HgfastError(f"the engine's inspector gave no JSON ({error}): see whether a newer TensorRT does") from error
    found: Counter[str] = Counter()
    for layer in (content.get("Layers") or []) if isinstance(content, dict) else []:
        if isinstance(layer, dict) and "conv" in f"{layer.get('LayerType')} {layer.get('ParameterType')}".lower():
            weights, inputs = layer.get("Weights"), layer.get("Inputs")
            words = [str(weights.get("Type"))] if isinstance(weights, dict) else []
            words += [str(one.get("Format/Datatype")) for one in inputs or [] if isinstance(one, dict)]
            found.update(_first_precision(words))
    return found


def _first_precision(words: Iterable[str]) -> list[str]:
    """The precision that the first of some words that names one names: the inspector has Half and FP16 for the same."""
    for word in words:
        if match := re.search(r"\b(?:(half|fp16)|(float|fp32)|(int8))\b", word.lower()):
            return [("fp16", "fp32", "int8")[(match.lastindex or 1) - 1]]
    return []
