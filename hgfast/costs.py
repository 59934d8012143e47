"""What training costs: time by what it was spent on, floating-point operations, memory.

What may enter: counting and measuring; nothing that decides.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from hgfast.model import Architecture, StackedHourglass


@dataclass
class Clock:
    """Where time went since it was started: seconds in all and waiting for data, and samples of the whole job."""

    began: float
    waited: float = 0.0
    samples: int = 0

    @property
    def seconds(self) -> float:
        return max(time.perf_counter() - self.began, 1e-9)

    @property
    def images_per_s(self) -> float:
        return self.samples / self.seconds

    @property
    def network_images_per_s(self) -> float:
        """What there would be if data were always ready."""
        return self.samples / max(self.seconds - self.waited, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data."""
        return self.waited / self.seconds

    def figures(self, flops_per_image: float, device: torch.device) -> dict[str, float]:
        """Named figures for people and scripts. tflops: of the network's own arithmetic, 10^12 operations a second."""
        return {
            "images_per_s": round(self.images_per_s, 1),
            "network_images_per_s": round(self.network_images_per_s, 1),
            "data_wait": round(self.data_wait, 4),
            "tflops": round(flops_per_image * self.images_per_s / 1e12, 4),
            "memory_gb": round(memory(device) / 1e9, 3),
        }


def forward_flops(arch: Architecture, joints: int) -> int:
    """Floating-point operations of one picture through the network, a multiply-add being two. Training takes three times as
    many: one forward and, as the gradients of inputs and of weights, two backward."""
    with torch.device("meta"):
        model, picture = StackedHourglass(arch, joints).eval(), torch.empty(1, 3, arch.input_size, arch.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(picture)
    return int(counter.get_total_flops())


def memory(device: torch.device) -> int:
    """The most bytes this process has held so far: on a GPU of its memory, on a CPU of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_words(seconds: float) -> str:
    """A span of time to the minute, or to the second below two minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
