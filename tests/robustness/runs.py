"""Training runs in processes of their own, which tests start, hinder and end.

What may enter: starting hgfast/train.py, and finding and ending its processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from usage import children, command_line, family

from hgfast import checkpoints

ROOT = Path(__file__).parents[2]
WAIT = 600.0  # seconds after which a run counts as hung, on a busy machine too


def words(hands: Path, out: Path) -> list[object]:
    """The flags of a run called "run": the tiny network, six steps an epoch, a checkpoint every 17 steps and every 3 epochs."""
    return [
        "--data", hands, "--out", out, "-e", "run", "--model.preset", "tiny", "--batch-size", 16, "--versions", "[gs,hom]",
        "--threads", 1, "--device", "cpu", "--train.amp", "off", "-m", "0.04", "--train.save-steps", 17, "--train.valid-every", 3,
    ]  # fmt: skip


def saved_step(out: Path) -> int:
    """The step of the run's checkpoint, which must be whole."""
    path = out / "run/checkpoint.pt"
    content = checkpoints.read(path)
    checkpoints.restore(content, path)
    return int(content["training"]["step"])


class Run:
    """One job: train.py alone (`ranks` 0), or so many ranks under torchrun, which starts them again after `restarts` failures.
    What it prints is in the files `out` and `err`.

    torchrun gives ranks that do not end by themselves ten seconds.
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
        """The sentences of what ended with exit code 2."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def tracebacks(self) -> int:
        """How many there are, before torchrun says which of its ranks failed, with one of its own."""
        return self.err.partition("failed (exitcode: ")[0].count("Traceback")

    def workers(self) -> list[int]:
        """Processes that its loader, or what starts them for it, has started."""
        helpers = [pid for pid in children(self.process.pid) if "multiprocessing.forkserver" in command_line(pid)]
        return [worker for helper in helpers for worker in children(helper)]

    def processes(self, mark: str) -> list[int]:
        """Those of its processes, itself aside, whose command has these words."""
        return [pid for pid in family(self.process.pid)[1:] if mark in command_line(pid)]

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for something that must come while the run goes on."""
        end = time.monotonic() + WAIT
        while not holds():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.out}\n{self.err}"
            assert time.monotonic() < end, f"no {what} in {WAIT:g} seconds:\n{self.out}\n{self.err}"
            time.sleep(0.01)

    def finish(self, seconds: float = WAIT) -> int:
        """The exit code, once it has ended by itself, as it must in that time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs after {seconds:g} seconds:\n{self.out}\n{self.err}") from None
        finally:
            self.end()

    def end(self) -> None:
        """Whatever is left of it."""
        if self.process.poll() is None:
            for pid in family(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
