"""Roofline of a network: its time at the measured matrix product and memory rates of the machine.

The roofline of inference is the longer of two times: the floating-point operations at the rate of torch's fastest matrix product,
and reading weights and input and writing the output, each once, at the rate at which a copy reads and writes memory. Real
runtimes also move the activations of each layer; a runtime whose convolutions are faster than torch's matrix product can be below
the roofline. A training step keeps its activations for the backward pass, so `step_traffic` counts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hgfast.architectures import STRIDE, Architecture
from hgfast.bench.harness.record import Row
from hgfast.model import StackedHourglass
from hgfast.system_info import cpu_features
from hgfast.training.throughput import forward_flops

MATRIX_SIZES = (512, 1024, 2048)  # side of the matrices; the fastest size depends on the caches
CUDA_MATRIX_SIZES = (2048, 4096, 8192)  # smaller ones do not occupy a large GPU
CUDA_REPEATS_PER_INTERVAL = 10  # operations between two CUDA events, so that launches take no part
COPY_BYTES = 1 << 28  # bytes
REPEATS = 5  # intervals of which the fastest counts
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class DeviceRates:
    """flops: operations per second by precision. bytes: read or written per second; a copy reads and writes each of its bytes."""

    flops: dict[str, float]
    bytes: float

    @property
    def row(self) -> Row:
        """The rates as keys of the record's machine; a copied byte counts once there."""
        return {
            **{f"matrix_tflops_{name}": round(rate / 1e12, 3) for name, rate in self.flops.items()},
            "copy_gb_per_s": round(self.bytes / 2 / 1e9, 1),
        }


def measure_rates(device: torch.device, threads: int) -> DeviceRates:
    """Measure the rates of a device; on a CPU without fp16, and without bf16 if the CPU only emulates it.

    tf32: of matrix products of float32 tensors in TF32, the default of torch's convolutions on GPUs from compute capability 8.0.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flops = {}
        for name in precisions(device):
            with tf32(name == "tf32"):
                sizes = CUDA_MATRIX_SIZES if device.type == "cuda" else MATRIX_SIZES
                flops[name] = max(2 * side**3 / matmul_seconds(side, DTYPES[name], device) for side in sizes)
        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return DeviceRates(flops, 2 * COPY_BYTES / min_seconds(lambda: target.copy_(source), device))
    finally:
        torch.set_num_threads(num_threads)


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the names of `DTYPES` that the device computes in hardware."""
    if device.type == "cuda":
        tensor_cores = torch.cuda.get_device_capability(device) >= (8, 0)
        return tuple(name for name in DTYPES if tensor_cores or name not in ("tf32", "bf16"))
    return ("fp32", "bf16") if cpu_features().bf16 else ("fp32",)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 in float32 matrix products on GPUs inside the block, or forbid it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def matmul_seconds(side: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return the seconds of a product of two random matrices (side, side)."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return min_seconds(lambda: torch.mm(a, b, out=out), device)


def min_seconds(operation: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of an operation in the fastest of `REPEATS` intervals, after one for warm-up: by CUDA events around
    several operations on a GPU, else by the host's clock."""
    time_once = partial(cuda_seconds, operation) if device.type == "cuda" else partial(host_seconds, operation)
    return min([time_once() for _ in range(REPEATS + 1)][1:])


def host_seconds(operation: Callable[[], object]) -> float:
    start_time = time.perf_counter()
    operation()
    return time.perf_counter() - start_time


def cuda_seconds(operation: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(CUDA_REPEATS_PER_INTERVAL):
        operation()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / CUDA_REPEATS_PER_INTERVAL


def roofline_ms(rates: DeviceRates, arch: Architecture, joints: int, batch: int, precision: str, size: int) -> float | None:
    """Return the roofline of a batch in milliseconds, or None for a precision without a measured rate (int8).

    Args:
        size: side of the input in pixels, which may differ from that of the architecture.
    """
    if precision not in rates.flops:
        return None
    bytes_per_value = DTYPES[precision].itemsize
    with torch.device("meta"):
        weights = sum(value.numel() for value in StackedHourglass(arch, joints).parameters())
    bytes_moved = bytes_per_value * weights + batch * (3 * size**2 + 12 * joints + 4 * joints * (size // STRIDE) ** 2)
    flops = batch * forward_flops(arch, joints) * (size / arch.input_size) ** 2
    return 1000 * max(flops / rates.flops[precision], bytes_moved / rates.bytes)


# ---- training steps ----


class StepTraffic(NamedTuple):
    """Bytes that a training step reads and writes. eager: of every operation of the network and its backward pass, one after the
    other. convolutions: of the convolutions alone, as if every other operation were fused into one."""

    eager: int
    convolutions: int

    def floors_ms(self, rates: DeviceRates) -> Row:
        """The milliseconds at the memory rate, as keys of a row."""
        return {
            "eager_memory_ms": round(1e3 * self.eager / rates.bytes, 3),
            "conv_memory_ms": round(1e3 * self.convolutions / rates.bytes, 3),
        }


@cache
def step_traffic(arch: Architecture, joints: int, batch: int, precision: str) -> StepTraffic:
    """Count the bytes of a forward and a backward pass on meta tensors, with activations and weights in this precision.

    Loss, optimizer and the casts of mixed precision are left out.
    """
    with torch.device("meta"):
        model = StackedHourglass(arch, joints).to(DTYPES[precision])
        images = torch.empty(batch, 3, arch.input_size, arch.input_size, dtype=DTYPES[precision])
    counter = TrafficCounter()
    with counter:
        heatmaps = model(images)
        heatmaps.backward(torch.empty_like(heatmaps))
    return StepTraffic(counter.total, counter.convolutions)


class TrafficCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that each operation reads and writes; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = self.convolutions = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = not func._schema.is_mutable and any(value.alias_info is not None for value in func._schema.returns)
        if not is_view and func not in (torch.ops.aten.empty_like.default, torch.ops.aten.empty.memory_format):
            moved = sum(
                value.numel() * value.itemsize for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor)
            )
            self.total += moved
            if "convolution" in func._schema.name:
                self.convolutions += moved
        return result
