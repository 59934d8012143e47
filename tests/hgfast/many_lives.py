"""Run by test_lives.py: a training run whose process is killed again and again, at random moments, and each time started anew.

    python many_lives.py FOLDER KILLS SEED

A process forked for each life trains a tiny network on pictures made up in memory, saving after every second step to what
behaves as a slow disk; every third kill waits for a checkpoint that is being written. Prints one line of JSON.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch

from hgfast import checkpoints
from hgfast.batch import Batch
from hgfast.config import Config
from hgfast.costs import forward_flops
from hgfast.distributed import Ranks
from hgfast.logbook import Logbook
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import HAND21
from hgfast.training import Trainer

STEPS_AN_EPOCH, EPOCHS, SAMPLES = 7, 14, 4


class MadeUp:
    """Batches that depend on the epoch and the step alone."""

    count = STEPS_AN_EPOCH * SAMPLES

    def __len__(self) -> int:
        return STEPS_AN_EPOCH

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for step in range(start, STEPS_AN_EPOCH):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            images = torch.rand(SAMPLES, 3, 64, 64, generator=generator).to(memory_format=torch.channels_last)
            points = torch.rand(SAMPLES, 21, 2, generator=generator) * 64
            index = np.arange(step * SAMPLES, (step + 1) * SAMPLES)
            matrices = np.tile(np.eye(3), (SAMPLES, 1, 1))
            labelled = torch.ones(SAMPLES, 21, dtype=torch.bool)
            yield Batch(images, points, labelled, index, np.zeros(SAMPLES, bool), matrices, SAMPLES)


def slow_save(content: object, path: Path) -> None:
    """torch.save that takes a while between its first and its last byte."""
    buffer = io.BytesIO()
    torch_save(content, buffer)
    data = buffer.getvalue()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 10):
            file.write(data[start : start + len(data) // 10])
            time.sleep(0.01)


torch_save = torch.save


def live(folder: Path) -> None:
    """A life: from the checkpoint where there is one to the end of the schedule, if it gets there."""
    torch.set_num_threads(1)
    torch.save = slow_save  # type: ignore[assignment]
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(exp=folder.name)
    config.train.epochs, config.train.amp, config.train.save_steps, config.train.keep = EPOCHS, "off", 2, 3
    path = folder / "checkpoint.pt"
    content = checkpoints.read(path) if path.exists() else None
    if content is not None:
        model = checkpoints.restore(content, path, averaged=False)
    else:
        torch.manual_seed(0)
        model = checkpoints.build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0))
    ranks = Ranks(0, 1, 1, torch.device("cpu"))
    trainer = Trainer(config, model, MadeUp(), MadeUp(), lambda found: {"x": float(found.mean())}, "x", folder, ranks)
    if content is not None:
        trainer.resume(content, path)
    trainer.fit()


def outlive(folder: Path, seconds: float | None, writing: bool = False) -> bool:
    """Start a life and kill it after so many seconds, or then in the midst of writing. Did it end by itself?"""
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        live(folder)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        end = time.monotonic() + 10
        while writing and time.monotonic() < end and not list(folder.glob(".*.writing")):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a life ended with {os.WEXITSTATUS(status)}")
    return os.WIFEXITED(status)


def main() -> None:
    folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))  # noqa: S311
    forward_flops(PRESETS["tiny"], 21)  # what a life would have to import first
    Logbook(folder / "imports").steps(0, {"a": 0.0})
    start = time.perf_counter()
    outlive(folder / "whole", None)
    lifetime = time.perf_counter() - start
    killed = writing = 0
    ended = False
    while killed < kills and not ended:
        ended = outlive(folder / "parts", rng.uniform(0, 0.06 * lifetime), writing=killed % 3 == 0)
        killed += not ended
        writing += bool(list((folder / "parts").glob(".*.writing")))
        for left in (folder / "parts").glob(".*.writing"):
            left.unlink()
    if not ended:
        outlive(folder / "parts", None)
    print("RESULT " + json.dumps({"killed": killed, "writing": writing}), flush=True)


if __name__ == "__main__":
    main()
