"""Run by test_kill_and_resume.py: a training run that is killed at random moments and resumed each time.

    python -m tests.robustness.kill_and_resume FOLDER KILLS SEED

Each start forks a process that trains a tiny network on random images in memory and saves a checkpoint after every second step
with a slow writer; every third kill waits until a checkpoint is being written. Prints one line of JSON.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

import torch

from hgfast import checkpoints
from tests.factories import make_trainer


def slow_save(content: object, file: BinaryIO) -> None:
    """Save like torch.save, but take at least 0.1 s between the first and the last byte."""
    buffer = io.BytesIO()
    torch_save(content, buffer)
    data = buffer.getvalue()
    for start in range(0, len(data), len(data) // 10):
        file.write(data[start : start + len(data) // 10])
        file.flush()
        time.sleep(0.01)


torch_save = torch.save


def run_training(folder: Path) -> None:
    """Train to the end, from the checkpoint if it exists."""
    torch.set_num_threads(1)
    torch.save = slow_save  # type: ignore[assignment]
    path = folder / "checkpoint.pt"
    content = checkpoints.read(path) if path.exists() else None
    model = None if content is None else checkpoints.model_from_checkpoint(content, path, use_ema=False)
    trainer = make_trainer(folder, model=model, epochs=14, save_steps=2, keep_checkpoints=3)
    if content is not None:
        trainer.resume(content, path)
    trainer.fit()


def run_and_kill(folder: Path, seconds: float | None, writing: bool = False) -> bool:
    """Start a training process and kill it after `seconds`; with `writing` wait then for a write. Returns whether it finished."""
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        run_training(folder)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        end = time.monotonic() + 10
        while writing and time.monotonic() < end and not list(folder.glob(".*.writing*")):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"a training process ended with {os.WEXITSTATUS(status)}")
    return os.WIFEXITED(status)


def main() -> None:
    folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))  # noqa: S311
    make_trainer(folder / "imports").logger.log_scalars(0, {"a": 0.0})  # imports that every forked process would need
    start = time.perf_counter()
    run_and_kill(folder / "whole", None)
    duration = time.perf_counter() - start
    killed = writing = 0
    ended = False
    while killed < kills and not ended:
        ended = run_and_kill(folder / "parts", rng.uniform(0, 0.06 * duration), writing=killed % 3 == 0)
        killed += not ended
        writing += bool(list((folder / "parts").glob(".*.writing*")))
        for unfinished in (folder / "parts").glob(".*.writing*"):
            unfinished.unlink()
    if not ended:
        run_and_kill(folder / "parts", None)
    print("RESULT " + json.dumps({"killed": killed, "writing": writing}), flush=True)


if __name__ == "__main__":
    main()
