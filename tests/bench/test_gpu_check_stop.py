"""bench/gpu_check.py is stopped at any moment: the record has every finished step, and no process is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

STEP_NAMES = ["first", "second", "stubborn", "last"]
STEP = """
import os, pathlib, signal, subprocess, sys, time
name, log = sys.argv[1:]
if name == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-S", "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)  # as torchrun starts its workers
time.sleep(0.15 if name != "last" else 300)
with open(log, "a") as file:
    file.write(name + "\\n")
"""
"""A step that leaves two processes behind, one of them in another session, and then notes that it has finished."""
DRIVER = """
import sys
from pathlib import Path
from hgfast.bench import gpu_check
from hgfast.bench.gpu import step_runner
from hgfast.bench.gpu.steps import Step
from hgfast.entry_point import run_main

code, log, *names = sys.argv[1:7]
sys.argv[1:] = sys.argv[7:]
step_runner.GRACE_S = 0.1
card = {"gpu": "Fake GPU", "gpus": 1, "gpu_memory_gb": 80.0, "compute_capability": "9.0", "cuda": "13.0"}
gpu_check.gpu_info = lambda: card
gpu_check.machine_info = lambda: {}  # the real one imports torch, which takes seconds
gpu_check.gpu_check_steps = lambda _: [
    Step(name, "a step", ("-S", "-c", code, name, log), minutes=1.0 if name == "second" else 0.01) for name in names
]
print("ready", flush=True)
run_main(gpu_check.main)
"""


class FakeCheck:
    """A running gpu_check on a fake GPU. The environment of all its processes contains a token."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.token, self.log, self.out = f"token-{folder.name}-{random.random()}", folder / "log", folder / "out"  # noqa: S311
        self.record_path = self.out / "gpu-check-fake-gpu.json"
        words = [STEP, str(self.log), *STEP_NAMES, "--out", str(self.out), "--work", str(folder / "work"), *flags]
        environment = {**os.environ, "HGFAST_TEST_TOKEN": self.token}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a job in the background of a shell
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def wait_until_running(self) -> None:
        deadline = time.monotonic() + 20
        while not self.record_path.is_file():
            assert self.process.poll() is None and time.monotonic() < deadline, "there is no record of a running check"
            time.sleep(0.01)

    def finish(self) -> tuple[int, str]:
        """Return the exit code and the output."""
        assert self.process.stdout is not None
        with self.process.stdout:
            return self.process.wait(60), self.process.stdout.read()

    def rows(self) -> list[dict[str, Any]]:
        return list(json.loads(self.record_path.read_text())["rows"])

    def finished(self) -> list[str]:
        return self.log.read_text().split() if self.log.is_file() else []

    def processes(self) -> list[str]:
        """Return the command lines of all processes with the token."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.token.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except (OSError, ProcessLookupError):
                continue
        return found

    def wait_for_no_process(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while found := self.processes():
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


MOMENTS = [(number, 1.2 * random.Random(number).random()) for number in range(10)]  # noqa: S311


@pytest.mark.parametrize(("number", "delay"), MOMENTS)
def test_no_step_and_no_process_is_lost(number: int, delay: float, tmp_path: Path) -> None:
    signum = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[number % 3]
    check = FakeCheck(tmp_path)
    check.wait_until_running()
    time.sleep(delay)
    check.process.send_signal(signum)
    code, output = check.finish()
    assert code == (-signum if signum == signal.SIGKILL else 128 + signum), output
    check.wait_for_no_process(10 if signum == signal.SIGKILL else 0)
    rows, finished = check.rows(), check.finished()
    assert [row["step"] for row in rows] == STEP_NAMES
    states = [row["state"] for row in rows]
    done = states.count("ok")
    assert states[:done] == ["ok"] * done and set(states[done:]) <= {"failed", "not run"}
    assert done == len(finished) or (done == len(finished) - 1 and f"== {finished[-1]}" in output)  # ended while it was written
    if signum != signal.SIGKILL:
        assert set(states[done + 1 :]) <= {"not run"} and all(f"ended by {signum.name}" in row["why"] for row in rows[done:])


def test_a_time_budget_ends_the_running_step_and_omits_the_rest(tmp_path: Path) -> None:
    check = FakeCheck(tmp_path, "--minutes-in-all", "0.04", "--steps", "[first,second,last]")
    code, output = check.finish()
    assert code == 1, output
    check.wait_for_no_process(0)
    rows = check.rows()
    assert [row["state"] for row in rows] == ["ok", "not run", "failed"]
    assert rows[1]["why"].startswith("no time left: it takes about 1 minutes, 0.")
    assert "terminated after 0.0" in rows[2]["why"]


def test_a_later_run_keeps_the_rows_of_other_steps(tmp_path: Path) -> None:
    FakeCheck(tmp_path, "--steps", "[second]").finish()
    check = FakeCheck(tmp_path, "--steps", "[first]")
    code, output = check.finish()
    assert code == 0, output
    both = [("second", "ok"), ("first", "ok")]
    assert [(row["step"], row["state"]) for row in check.rows()] == both
    FakeCheck(tmp_path, "--steps", "[second]", "--minutes-in-all", "0.01").finish()  # has no time to run it again
    assert [(row["step"], row["state"]) for row in check.rows()] == both
    record = json.loads(check.record_path.read_text())
    check.record_path.write_text(json.dumps({**record, "revision": "another"}))
    FakeCheck(tmp_path, "--steps", "[first]").finish()
    assert [row["step"] for row in check.rows()] == ["first"]
