"""Torch-TensorRT: an engine straight from the network in torch, without an ONNX file, for the same runner as the others.

Torch-TensorRT names the engine's outputs output0, output1 and so on; `hgfast.engine` knows.
What may enter: what is Torch-TensorRT's own.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from engines import Backend, Built, EngineOptions, check_batch, check_plan, hardware, inspect
from proof import Weights
from torch import Tensor, nn

from hgfast.engine import one_line
from hgfast.errors import HgfastError
from hgfast.files import complete, prepare_file
from hgfast.sidecar import Batch, Precision

HEARD = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")  # where it logs, and where TensorRT's words go
PRECISIONS: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.float16: "fp16", torch.int8: "int8"}


def build(module: nn.Module, example: Tensor, batch: Batch, options: EngineOptions, backend: Backend) -> Built:
    """An engine of a network, tuned for `batch`; its precision is the module's. The module moves to the GPU.

    example: images as the network takes them, any number of them. backend: `engines.find_backend("torch_tensorrt")`.

    Raises:
        HgfastError: no GPU, an option that Torch-TensorRT does not have, or a network that it cannot convert.
    """
    options.check("torch_tensorrt")
    check_batch(batch)
    if not torch.cuda.is_available():
        raise HgfastError("Torch-TensorRT needs an NVIDIA GPU, and torch finds none that it can use: build with tensorrt_rtx")
    if options.timing_cache is not None:
        prepare_file(options.timing_cache, "--timing-cache")
    torch_tensorrt = backend.module
    began = time.perf_counter()
    program = export_program(module.cuda(), example.cuda(), batch)
    parse_s = time.perf_counter() - began
    sizes = {name: (size, *example.shape[1:]) for name, size in (("min", batch.min), ("opt", batch.opt), ("max", batch.max))}
    if batch.min == batch.max:
        images = torch_tensorrt.Input(shape=sizes["max"], dtype=example.dtype)
    else:
        images = torch_tensorrt.Input(min_shape=sizes["min"], opt_shape=sizes["opt"], max_shape=sizes["max"], dtype=example.dtype)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _listening() as lines:
        # without a path of our own it keeps times where all users of the machine do, and it does not write whole files
        times = Path(folder) / "times"
        if options.timing_cache is not None:
            _copy(options.timing_cache, times)
        try:
            plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[images],
                workspace_size=int((options.workspace_gb or 0) * (1 << 30)),
                optimization_level=options.optimization_level,
                hardware_compatible=options.hardware_compatible,
                disable_tf32=True,
                timing_cache_path=str(times),
            )
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            told = "; ".join([one_line(str(error)), *lines[-3:]])
            raise HgfastError(f"Torch-TensorRT cannot convert the network ({told}): build from ONNX, with tensorrt") from error
        build_s = time.perf_counter() - began
        if options.timing_cache is not None:
            _copy(times, options.timing_cache)
    plan = bytes(plan)
    check_plan(plan, backend)
    about = {
        "backend": "torch_tensorrt",
        "version": backend.version,
        "torch_tensorrt": str(torch_tensorrt.__version__),
        **options.plain,
        "hardware": hardware(options),
    }
    return Built(plan, parse_s, build_s, tuple(dict.fromkeys(lines)), about, inspect(plan, backend))


def export_program(module: nn.Module, example: Tensor, batch: Batch) -> torch.export.ExportedProgram:
    """The network as a graph that takes the batch sizes of `batch`. Raises `HgfastError` where torch cannot make one."""
    free = batch.min < batch.max
    count = max(2, batch.opt) if free else batch.max  # torch takes an example of one image for a network of one image
    images = example[:1].expand(count, *example.shape[1:]).contiguous()
    shapes = ({0: torch.export.Dim("batch", min=batch.min, max=batch.max)},) if free else None
    try:
        return torch.export.export(module, (images,), dynamic_shapes=shapes)
    except (RuntimeError, ValueError) as error:  # torch's own errors are RuntimeErrors
        raise HgfastError(f"torch cannot export the network ({one_line(str(error))}): build from ONNX, with tensorrt") from error


def module_weights(module: nn.Module) -> Weights:
    """The weights of a network's convolutions, for `engines.prove_precision`. Raises `HgfastError` for other types than ours."""
    found: Counter[torch.dtype] = Counter()
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            found[part.weight.dtype] += part.weight.numel()
    if not found or found.most_common(1)[0][0] not in PRECISIONS:
        raise HgfastError(f"the network's convolutions are {', '.join(map(str, found)) or 'none'}: use fp32 or fp16")
    return Weights(PRECISIONS[found.most_common(1)[0][0]], sum(found.values()))


def _copy(source: Path, target: Path) -> None:
    """Copy a timing cache, where there is one."""
    if not source.is_file():
        return
    try:
        with complete(target) as beside:
            shutil.copyfile(source, beside)
    except OSError as error:
        raise HgfastError(f"the timing cache {target} cannot be kept ({error.strerror}): choose another place") from error


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What Torch-TensorRT and TensorRT warn of meanwhile."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(one_line(record.getMessage()))

    handler: Any = Collector(logging.WARNING)
    loggers = [logging.getLogger(name) for name in HEARD]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
