"""Post-training quantisation: an fp32 ONNX model's convolutions in int8, calibrated on the user's pictures.

onnxruntime's static quantisation in QDQ form. Only convolutions are quantised, weights by channel: what flows between the
residuals, the output layers, the normalisation and the decoder stay as they are. onnxruntime and OpenVINO get unsigned
activations with a zero point, which CPUs multiply fastest; TensorRT takes signed ones around zero only, and no int8 biases.
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

import onnx
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.sidecar import INPUT, Batch

OUTPUT_LAYERS = ".score."  # part of the names of the weights that give heatmaps
PART = 8  # pictures calibrated on at once, where the batch is free


class Reader:
    """Pictures (n, …) as onnxruntime's calibration reads them, with a progress bar."""

    def __init__(self, images: NDArray[Any], part: int) -> None:
        starts = range(0, len(images) - part + 1, part)
        self._parts = iter(tqdm([images[s : s + part] for s in starts], desc="calibrate", disable=None, leave=False))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part}


def quantise(model: onnx.ModelProto, images: NDArray[Any], sizes: Batch, for_tensorrt: bool) -> onnx.ModelProto:
    """The model in int8.

    Args:
        model: fp32, with `HEATMAPS` among its outputs.
        images: (n, S, S, 3) uint8 or (n, 3, S, S) float32, as the model takes them.
        for_tensorrt: with what TensorRT can read.

    Raises:
        HgfastError: fewer pictures than the model takes at once.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    part = sizes.max if sizes.min == sizes.max else min(max(PART, sizes.min), sizes.max, len(images))
    if len(images) < part:
        raise HgfastError(f"there are {len(images)} pictures to calibrate on, and the model takes {part} at once: name more")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, done = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "done.onnx"))
        onnx.save(model, plain)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)  # BatchNorm is folded where it can be
        quantize_static(
            str(prepared),
            str(done),
            Reader(images, part),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=chosen(onnx.load(prepared)),
            op_types_to_quantize=["Conv"],
            extra_options={"ActivationSymmetric": for_tensorrt, "WeightSymmetric": True, "QuantizeBias": not for_tensorrt},
        )
        return onnx.load(done)


def chosen(model: onnx.ModelProto) -> list[str]:
    """The convolutions that become int8: all but the output layers of every stack."""
    return [node.name for node in model.graph.node if node.op_type == "Conv" and OUTPUT_LAYERS not in node.input[1]]


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
