"""Throughput of training: time, waiting for data, floating-point operations and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from hgfast.architectures import Architecture
from hgfast.model import StackedHourglass


@dataclass
class ThroughputMeter:
    """Time and samples since `start_time`: seconds that the device waited for data (`DataWaitTimer`), and samples over all
    ranks."""

    start_time: float
    data_seconds: float = 0.0
    samples: int = 0

    @property
    def elapsed(self) -> float:
        return max(time.perf_counter() - self.start_time, 1e-9)

    @property
    def images_per_s(self) -> float:
        return self.samples / self.elapsed

    @property
    def network_images_per_s(self) -> float:
        """The throughput without waiting for data."""
        return self.samples / max(self.elapsed - self.data_seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """The fraction of the time spent waiting for data."""
        return self.data_seconds / self.elapsed

    def summary(self, flops_per_image: float, device: torch.device) -> dict[str, float]:
        """Return the figures for logs. tflops: 10^12 floating-point operations of the network per second."""
        return {
            "images_per_s": round(self.images_per_s, 1),
            "network_images_per_s": round(self.network_images_per_s, 1),
            "data_wait": round(self.data_wait, 4),
            "tflops": round(flops_per_image * self.images_per_s / 1e12, 4),
            "memory_gb": round(peak_memory(device) / 1e9, 3),
        }


class DataWaitTimer:
    """Measures the time that a device waits for batches.

    On a GPU, events in the current stream measure it on the device, from the end of a step to the arrival of the next batch:
    what the host waits for while the GPU still computes costs nothing. Work of the loader in that stream counts as waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time in which the block, which requests a batch, keeps the device waiting."""
        if not self._on_gpu:
            start_time = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start_time
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        yield
        end.record()
        self._events.append((start, end))

    def collect(self) -> float:
        """Return the seconds since the last call. Synchronizes with a GPU."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@cache
def forward_flops(arch: Architecture, num_joints: int) -> int:
    """Return the floating-point operations of a forward pass for one image; a multiply-add counts as two.

    Training takes three times as many: the backward pass computes gradients of inputs and of weights.
    """
    with torch.device("meta"):
        model, image = StackedHourglass(arch, num_joints).eval(), torch.empty(1, 3, arch.input_size, arch.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return int(counter.get_total_flops())


def peak_memory(device: torch.device) -> int:
    """Return this process's peak memory in bytes: GPU memory on a GPU, main memory on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def format_duration(seconds: float) -> str:
    """Format a duration to the minute, or to the second below two minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
