"""Functions that end badly in the child process of the self-test. They import torch only if they use it."""

from __future__ import annotations

import os
import signal
import time


def crash(device: str, load: float) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return ""


def hang(device: str, load: float) -> str:
    time.sleep(3600)
    return ""


def fail(device: str, load: float) -> str:
    raise RuntimeError("CUDA error: no kernel image\nis available")


def leave(device: str, load: float) -> str:
    os._exit(7)


def leave_quietly(device: str, load: float) -> str:
    os._exit(0)


def corrupt(device: str, load: float) -> str:
    """Overwrite a block of one crop in one of the batches."""
    from torch import Tensor

    from hgfast.pipelines.loaders import self_test
    from hgfast.pipelines.loaders.dali import DaliLoader

    self_test.NUM_IMAGES, self_test.ROUNDS = 2 * self_test.BATCH_SIZE, 2  # this process runs nothing else
    load_crops, batches = DaliLoader._run, iter(range(1000))

    def run(loader: DaliLoader, epoch: int, step: int) -> Tensor:
        crops = load_crops(loader, epoch, step)
        if next(batches) == 3:
            crops = crops.clone()
            crops[5, 40:48, 64:72] += 128  # wraps around
        return crops

    DaliLoader._run = run  # type: ignore[method-assign]
    return self_test.compare_with_opencv(device, load)
