"""What a network would take at the machine's measured matrix and copy rates.

Its floor is the longer of two times: its floating-point operations at the rate of torch's fastest matrix product here, and the
bytes of its weights, its input and what it gives, each moved once, at the rate at which the machine copies. Real ways also move
every layer's activations; a runtime whose convolutions beat torch's matrix product can be below it.
What may enter: measuring those two rates, and the arithmetic.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from record import Row

from hgfast.costs import forward_flops
from hgfast.machine import cpu_features
from hgfast.model import STRIDE, Architecture, StackedHourglass

SIDES = (512, 1024, 2048)  # of the matrices; which is fastest depends on the caches
COPIED = 1 << 28  # bytes
TRIES = 5  # of which the fastest counts: a floor is what the machine can do
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Rates:
    """flops: operations a second by precision, where torch multiplies in it. bytes: copied a second, each read and written."""

    flops: dict[str, float]
    bytes: float

    @property
    def row(self) -> Row:
        """For the record's machine."""
        return {
            **{f"matrix_tflops_{name}": round(rate / 1e12, 3) for name, rate in self.flops.items()},
            "copy_gb_per_s": round(self.bytes / 1e9, 1),
        }


def measure_rates(device: torch.device, threads: int) -> Rates:
    """Measure the rates of the device. On a CPU fp16 is left out, and so is bf16 where it is only emulated."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        names = tuple(TYPES) if device.type == "cuda" else ("fp32", "bf16") if cpu_features().bf16 else ("fp32",)
        flops = {name: max(2 * side**3 / fastest(*multiplication(side, TYPES[name], device)) for side in SIDES) for name in names}
        source = torch.empty(COPIED, dtype=torch.uint8, device=device)
        return Rates(flops, COPIED / fastest(source, torch.empty_like(source)))
    finally:
        torch.set_num_threads(before)


def multiplication(side: int, kind: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where a product goes, and its factors."""
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return one, other, torch.empty_like(one)


def fastest(*tensors: torch.Tensor) -> float:
    """Seconds of the fastest product of two matrices into the third tensor, or copy of the first into the second."""
    *factors, out = tensors
    taken = []
    for _ in range(TRIES + 1):  # the first warms up
        began = time.perf_counter()
        if len(factors) == 2:
            torch.mm(*factors, out=out)
        else:
            out.copy_(factors[0])
        if out.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def floor_ms(rates: Rates, arch: Architecture, joints: int, batch: int, precision: str, size: int) -> float | None:
    """Milliseconds for a batch, or None in a precision whose rate is not known (int8).

    Args:
        size: side of the input, pixels, which may differ from the architecture's own.
    """
    if precision not in rates.flops:
        return None
    width = 4 if precision == "fp32" else 2
    with torch.device("meta"):
        weights = sum(value.numel() for value in StackedHourglass(arch, joints).parameters())
    moved = width * weights + batch * (3 * size**2 + 12 * joints + 4 * joints * (size // STRIDE) ** 2)
    flops = batch * forward_flops(arch, joints) * (size / arch.input_size) ** 2
    return 1000 * max(flops / rates.flops[precision], moved / rates.bytes)
