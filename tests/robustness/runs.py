"""Run hgfast/train.py in tests, in this process or in others, and find and end its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from hgfast import checkpoints, train
from tests.conftest import ROOT
from tests.robustness.usage import children, command_line, process_tree

TIMEOUT_SECONDS = 600.0  # seconds after which a run counts as hung, on a busy machine too


def train_flags(hands: Path, out: Path) -> list[object]:
    """Return the flags of an experiment "run" of 40 steps: the tiny network, six steps per epoch, a checkpoint every 17 steps
    and every 3 epochs."""
    return [
        "--data", hands, "--out", out, "-e", "run", "--model.preset", "tiny", "--batch-size", 16, "--versions", "[gs,hom]",
        "--threads", 1, "--device", "cpu", "--train.amp", "off", "-m", "0.04", "--train.save-steps", 17,
        "--train.val-interval", 3,
    ]  # fmt: skip


def saved_step(out: Path) -> int:
    """Return the step of the run's checkpoint, which must be valid."""
    path = out / "run/checkpoint.pt"
    content = checkpoints.read(path)
    checkpoints.model_from_checkpoint(content, path)
    return int(content["training"]["step"])


def equal_content(one: Any, other: Any) -> bool:
    """Compare nested dicts and lists; tensors must be bitwise equal."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_content(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal_content(a, b) for a, b in zip(one, other))
    return bool(one == other)


def train_in_process(*words: object) -> None:
    """Run train.py with these flags in this process, on one thread as `TrainProcess` does."""
    torch.set_num_threads(1)
    with patch.object(sys, "argv", ["train.py", *map(str, words)]):
        train.main()


def resume(out: Path, step: int) -> None:
    """Resume the run up to a step, and check that its checkpoint is of that step."""
    train_in_process("-c", "run", "--out", out, "-m", step / 1000)
    assert saved_step(out) == step


class TrainProcess:
    """A training job: train.py alone (`ranks` 0), or ranks under torchrun with `restarts` restarts. `out`, `err`: its output.

    torchrun kills ranks that do not exit within ten seconds.
    """

    def __init__(self, folder: Path, *words: object, ranks: int = 0, restarts: int = 0, output: Path | None = None) -> None:
        launcher: list[object] = [sys.executable]
        if ranks:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
            launcher += ["--max-restarts", restarts]
        command = [str(word) for word in (*launcher, "hgfast/train.py", *words)]
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("out-*")))
        self._out, self._err = output or folder / f"out-{number}", folder / f"err-{number}"
        (folder / f"out-{number}").touch()
        quick = {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10", "GLOO_SOCKET_IFNAME": "lo"}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **quick}, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.is_file() else ""

    @property
    def err(self) -> str:
        return self._err.read_text()

    def errors(self) -> list[str]:
        """Return the error sentences."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def tracebacks(self) -> int:
        """Return the number of tracebacks before that of torchrun itself about failed ranks."""
        return self.err.partition("failed (exitcode: ")[0].count("Traceback")

    def workers(self) -> list[int]:
        """Return the worker processes of its loaders, which a fork server started."""
        servers = [pid for pid in children(self.process.pid) if "multiprocessing.forkserver" in command_line(pid)]
        return [worker for server in servers for worker in children(server)]

    def ranks(self) -> list[int]:
        """Return the processes of the ranks under torchrun."""
        return [pid for pid in process_tree(self.process.pid)[1:] if "hgfast/train.py" in command_line(pid)]

    def wait_until(self, condition: Callable[[], object], name: str) -> None:
        """Wait for a condition that must hold before the run ends."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"the run ended before {name}:\n{self.out}\n{self.err}"
            assert time.monotonic() < end, f"no {name} in {TIMEOUT_SECONDS:g} seconds:\n{self.out}\n{self.err}"
            time.sleep(0.01)

    def finish(self, seconds: float = TIMEOUT_SECONDS) -> int:
        """Wait for the run to end by itself and return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs after {seconds:g} seconds:\n{self.out}\n{self.err}") from None
        finally:
            self.end()

    def end(self) -> None:
        """Kill all of its processes."""
        if self.process.poll() is None:
            for pid in process_tree(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


def run_until_saved(out: Path, *words: object, ranks: int = 0, restarts: int = 0) -> TrainProcess:
    """Start a run that writes to `out` and return when it has saved its first checkpoint; it is still running."""
    run = TrainProcess(out, *words, ranks=ranks, restarts=restarts)
    run.wait_until((out / "run/checkpoint.pt").exists, "checkpoint")
    return run
