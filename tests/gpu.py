"""What tests on a GPU share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda", 0), marks=pytest.mark.gpu)]
"""Parameters of a test whose body runs on the CPU everywhere and on a GPU where there is one."""


@contextmanager
def refuse_synchronization(device: torch.device) -> Iterator[None]:
    """Make every wait of the host for the GPU an error inside the block. Does nothing on a CPU, where the host computes."""
    if device.type == "cpu":
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")  # an error in pytest otherwise
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
