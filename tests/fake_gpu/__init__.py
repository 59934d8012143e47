"""Tests that run hgfast's device code on fake CUDA tensors, which have a device and a shape but no values; no GPU is needed.

In `fake_gpu()`, an operation on tensors of two devices is an error, and so is everything for which the host would wait for the
device: `.item()`, `.cpu()`, `bool(tensor)`. The tests of this folder run in child processes, see conftest.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, init_gpu_context
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
needs_backward = pytest.mark.skipif(
    torch.backends.cuda.is_built() and not torch.cuda.is_available(),
    reason="needs a CUDA device or a CPU build of torch: a build for CUDA asks the driver in the backward pass of fake tensors",
)


class SynchronizingCopy(RuntimeError):
    """A copy from the device to the host, for which the host waits."""


class _RefuseCopiesToHost(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to, torch.ops.aten.copy_):  # `to` in inference mode
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if source.device.type == "cuda" and result.device.type == "cpu":
                raise SynchronizingCopy(f"{func} copies {tuple(source.shape)} values from {source.device} to the host")
        return result


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Run the block on a fake GPU `GPU`: torch finds it, tensors have no values, and a wait of the host is an error."""
    found: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "a fake GPU",
    }
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by deepcopy
        init_gpu_context(GPU)  # once, on a machine with a GPU; here it would otherwise fail, as torch finds a GPU
        stack.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", True))
        mode = stack.enter_context(FakeTensorMode())
        for name, function in found.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        # a copied tensor, as in an EMA, stays in the mode
        stack.enter_context(mock.patch.object(FakeTensorMode, "__deepcopy__", lambda self, memo: self, create=True))
        stack.enter_context(_RefuseCopiesToHost())
        yield mode


def to_gpu(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace a real module's parameters and buffers by fake ones of the same strides on `GPU`."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = mode.from_tensor(parameter).detach().to(GPU)
            setattr(module, name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(buffer).to(GPU))
