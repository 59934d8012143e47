"""Roofline of a network: its time at the measured matrix product and copy rates of the machine.

The roofline is the longer of two times: the floating-point operations at the rate of torch's fastest matrix product, and one
transfer of weights, input and output at the copy rate. Real runtimes also transfer the activations of each layer; a runtime whose
convolutions are faster than torch's matrix product can be below the roofline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hgfast.architectures import STRIDE, Architecture
from hgfast.bench.harness.record import Row
from hgfast.model import StackedHourglass
from hgfast.system_info import cpu_features
from hgfast.training.throughput import forward_flops

MATRIX_SIZES = (512, 1024, 2048)  # side of the matrices; the fastest size depends on the caches
COPY_BYTES = 1 << 28  # bytes
REPEATS = 5  # the fastest counts
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class DeviceRates:
    """flops: operations per second by precision. bytes: bytes copied per second, each read and written."""

    flops: dict[str, float]
    bytes: float

    @property
    def row(self) -> Row:
        """The rates as keys of the record's machine."""
        return {
            **{f"matrix_tflops_{name}": round(rate / 1e12, 3) for name, rate in self.flops.items()},
            "copy_gb_per_s": round(self.bytes / 1e9, 1),
        }


def measure_rates(device: torch.device, threads: int) -> DeviceRates:
    """Measure the rates of a device; on a CPU without fp16, and without bf16 if the CPU only emulates it."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        names = tuple(DTYPES) if device.type == "cuda" else ("fp32", "bf16") if cpu_features().bf16 else ("fp32",)
        flops = {
            name: max(2 * side**3 / min_seconds(*matmul_operands(side, DTYPES[name], device)) for side in MATRIX_SIZES)
            for name in names
        }
        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
        return DeviceRates(flops, COPY_BYTES / min_seconds(source, torch.empty_like(source)))
    finally:
        torch.set_num_threads(num_threads)


def matmul_operands(side: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return two random matrices and a matrix for their product."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return a, b, torch.empty_like(a)


def min_seconds(*tensors: torch.Tensor) -> float:
    """Return the seconds of the fastest matrix product of two tensors into a third, or copy of one tensor into a second."""
    *factors, out = tensors
    seconds = []
    for _ in range(REPEATS + 1):  # the first is the warm-up
        start_time = time.perf_counter()
        if len(factors) == 2:
            torch.mm(*factors, out=out)
        else:
            out.copy_(factors[0])
        if out.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start_time)
    return min(seconds[1:])


def roofline_ms(rates: DeviceRates, arch: Architecture, joints: int, batch: int, precision: str, size: int) -> float | None:
    """Return the roofline of a batch in milliseconds, or None for a precision without a measured rate (int8).

    Args:
        size: side of the input in pixels, which may differ from that of the architecture.
    """
    if precision not in rates.flops:
        return None
    bytes_per_value = 4 if precision == "fp32" else 2
    with torch.device("meta"):
        weights = sum(value.numel() for value in StackedHourglass(arch, joints).parameters())
    bytes_moved = bytes_per_value * weights + batch * (3 * size**2 + 12 * joints + 4 * joints * (size // STRIDE) ** 2)
    flops = batch * forward_flops(arch, joints) * (size / arch.input_size) ** 2
    return 1000 * max(flops / rates.flops[precision], bytes_moved / rates.bytes)
