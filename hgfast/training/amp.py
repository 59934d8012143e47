"""Mixed precision: selection for a device, and its autocast context."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import torch

from hgfast.errors import HgfastError
from hgfast.system_info import cpu_features

AmpMode = Literal["bf16", "fp16", "off"]
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


def resolve_amp(amp: str, device: torch.device) -> AmpMode:
    """Resolve `auto` for a device. Raises `HgfastError` for fp16 on a CPU, where it is slower than fp32."""
    if amp == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if cpu_features().bf16 else "off"
    if amp == "fp16" and device.type == "cpu":
        raise HgfastError("fp16 needs a GPU (on a CPU it is far slower than fp32): use bf16 or off")
    if amp not in ("bf16", "fp16", "off"):
        raise ValueError(f"unknown precision {amp!r}")
    return cast(AmpMode, amp)


def autocast(amp: AmpMode, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the network runs."""
    return nullcontext() if amp == "off" else torch.autocast(device.type, AMP_DTYPES[amp])


def slow_precision(amp: AmpMode, device: torch.device) -> str | None:
    """Return a warning if the device only emulates this precision, else None."""
    if amp != "bf16" or device.type != "cpu" or cpu_features().bf16:
        return None
    return "this CPU has no bf16 in hardware: it is emulated, many times slower than fp32; use amp off or auto"
