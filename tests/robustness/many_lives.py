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
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))  # where Python looks for the modules beside the tests

from made_up import trainer_of

from hgfast import checkpoints
from hgfast.costs import forward_flops
from hgfast.logbook import Logbook
from hgfast.model import PRESETS


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
    path = folder / "checkpoint.pt"
    content = checkpoints.read(path) if path.exists() else None
    model = None if content is None else checkpoints.restore(content, path, averaged=False)
    trainer = trainer_of(folder, model=model, epochs=14, save_steps=2, keep=3)
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
