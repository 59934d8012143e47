"""Build a TensorRT engine with Torch-TensorRT, from the network in torch and without an ONNX file.

Torch-TensorRT names the engine's outputs output0, output1 and so on, which `hgfast.runtime.tensorrt_engine` handles.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hgfast.errors import HgfastError, one_line
from hgfast.export.exporter.options import BuildOptions
from hgfast.export.exporter.precision_check import ConvWeights
from hgfast.export.exporter.trt_builder import BuiltEngine, TrtBackend, check_plan, describe_build, engine_layer_info
from hgfast.fileio.files import atomic_write, temporary_folder
from hgfast.runtime.sidecar import BatchRange, Precision

LOGGER_NAMES = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")  # of Torch-TensorRT, and of TensorRT within it
PRECISION_OF_DTYPE: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.float16: "fp16", torch.int8: "int8"}


def build(module: nn.Module, example: Tensor, batch: BatchRange, options: BuildOptions, backend: TrtBackend) -> BuiltEngine:
    """Build an engine of a network, optimized for `batch`, in the precision of the module. The module moves to the GPU.

    Args:
        example: any number of images in the network's input format.
        backend: `trt_builder.find_backend("torch_tensorrt")`.

    Raises:
        HgfastError: there is no GPU, Torch-TensorRT does not support an option, or it cannot convert the network.
    """
    options.check("torch_tensorrt")
    if not torch.cuda.is_available():
        raise HgfastError("Torch-TensorRT needs an NVIDIA GPU, and torch finds none that it can use: build with tensorrt_rtx")
    torch_tensorrt = backend.module
    start_time = time.perf_counter()
    program = export_program(module.cuda(), example.cuda(), batch)
    parse_s = time.perf_counter() - start_time
    least, best, most = ((size, *example.shape[1:]) for size in (batch.min, batch.opt, batch.max))
    if batch.min == batch.max:
        images = torch_tensorrt.Input(shape=most, dtype=example.dtype)
    else:
        images = torch_tensorrt.Input(min_shape=least, opt_shape=best, max_shape=most, dtype=example.dtype)
    start_time = time.perf_counter()
    with temporary_folder() as folder, _collect_warnings() as lines:
        # the default path is shared by all users of the machine and is not written atomically
        timing_cache = folder / "times"
        if options.timing_cache is not None:
            _copy_timing_cache(options.timing_cache, timing_cache)
        try:
            plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[images],
                workspace_size=int((options.workspace_gb or 0) * (1 << 30)),
                optimization_level=options.optimization_level,
                hardware_compatible=options.hardware_compatible,
                disable_tf32=True,
                timing_cache_path=str(timing_cache),
            )
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            message = "; ".join([one_line(error), *lines[-3:]])
            raise HgfastError(f"Torch-TensorRT cannot convert the network ({message}): build from ONNX, with tensorrt") from error
        build_s = time.perf_counter() - start_time
        if options.timing_cache is not None:
            _copy_timing_cache(timing_cache, options.timing_cache)
    plan = bytes(plan)
    check_plan(plan, backend)
    builder_info = {**describe_build(backend, options), "torch_tensorrt": str(torch_tensorrt.__version__)}
    return BuiltEngine(plan, parse_s, build_s, tuple(dict.fromkeys(lines)), builder_info, engine_layer_info(plan, backend))


def export_program(module: nn.Module, example: Tensor, batch: BatchRange) -> torch.export.ExportedProgram:
    """Export the network for the batch sizes of `batch`. Raises `HgfastError` if torch cannot export it."""
    dynamic = batch.min < batch.max
    count = max(2, batch.opt) if dynamic else batch.max  # torch would specialize a batch size of one
    images = example[:1].expand(count, *example.shape[1:]).contiguous()
    shapes = ({0: torch.export.Dim("batch", min=batch.min, max=batch.max)},) if dynamic else None
    try:
        return torch.export.export(module, (images,), dynamic_shapes=shapes)
    except (RuntimeError, ValueError) as error:  # torch's own errors are RuntimeErrors
        raise HgfastError(f"torch cannot export the network ({one_line(error)}): build from ONNX, with tensorrt") from error


def module_conv_weights(module: nn.Module) -> ConvWeights:
    """Return a network's convolution weights, for `check_engine_precision`. Raises `HgfastError` for unsupported types."""
    counts: Counter[torch.dtype] = Counter()
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            counts[part.weight.dtype] += part.weight.numel()
    if not counts or counts.most_common(1)[0][0] not in PRECISION_OF_DTYPE:
        raise HgfastError(f"the network's convolutions are {', '.join(map(str, counts)) or 'none'}: use fp32 or fp16")
    return ConvWeights(PRECISION_OF_DTYPE[counts.most_common(1)[0][0]], sum(counts.values()))


def _copy_timing_cache(source: Path, target: Path) -> None:
    """Copy a timing cache if it exists."""
    if not source.is_file():
        return
    try:
        with atomic_write(target) as temp_path:
            shutil.copyfile(source, temp_path)
    except OSError as error:
        raise HgfastError(f"the timing cache {target} cannot be written ({error.strerror}): choose another path") from error


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect the warnings of Torch-TensorRT and TensorRT."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(one_line(record.getMessage()))

    handler: Any = Collector(logging.WARNING)
    loggers = [logging.getLogger(name) for name in LOGGER_NAMES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
