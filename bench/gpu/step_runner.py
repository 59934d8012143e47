"""Run the steps of `gpu_check` and `run_all`: stream the output, limit the time, and check the files that a step must write."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple

from tabulate import tabulate

from hgfast.bench.gpu.steps import Step
from hgfast.bench.harness.record import ROOT, Row
from hgfast.errors import HgfastError
from hgfast.runtime.sidecar import sidecar_path
from hgfast.validation import Range

GRACE_S = 5.0  # seconds between SIGTERM and SIGKILL
GUARD_TIMEOUT_S = 30.0  # seconds after `GRACE_S` in which the guard must have ended a step
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GUARD = Path(__file__).with_name("process_guard.py")
POLL_S = 0.05  # seconds between checks whether a step has ended
StepState = Literal["ok", "rehearsed", "failed", "not possible", "not run"]
StepNames = list[str]  # `list` is a flag inside StepsConfig


@dataclass(kw_only=True)
class StepsConfig:
    """Steps."""

    steps: StepNames = field(default_factory=lambda: [])
    """run only these steps, for example [loader,latency]; none: all; --list prints their names"""
    quick: bool = False
    """use small sizes, for a smoke test; the results are not meaningful and do not go to bench/results"""
    limit: Annotated[float, Range(gt=0)] = 4.0
    """time limit of a step in minutes, after which it is terminated and fails; the rows that it has written remain"""
    list: bool = False
    """print the commands without running them"""

    def select(self, names: Sequence[str]) -> StepNames:
        """Return the names that --steps selects, in their original order. Raises `HgfastError` for an unknown one."""
        if unknown := [name for name in self.steps if name not in names]:
            raise HgfastError(f"--steps: {unknown[0]!r} is unknown; choose from {', '.join(names)}")
        return [name for name in names if not self.steps or name in self.steps]


class StepResult(NamedTuple):
    """Result of a step. reason: of a step that is not ok. last_line: of the output. has_output: whether it wrote its file, which
    contains the results so far if the step failed."""

    step: Step
    state: StepState
    seconds: float = 0.0
    reason: str = ""
    last_line: str = ""
    has_output: bool = False


class StopSignal:
    """Records the first SIGTERM, SIGINT or SIGHUP inside the block, where `run_step` then ends its step.

    It raises no exception, so that a record that is being written is completed. Signals that are ignored stay ignored.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> StopSignal:
        handled = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
        self._previous = {signum: signal.signal(signum, self._handle) for signum in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(signum)


def run_step(step: Step, limit: float, stop: StopSignal | None = None, log: Path | None = None) -> StepResult:
    """Run a step for at most `limit` seconds, or until a signal, and forward its output, to the file `log` too."""
    print(f"\n== {step.name}: {step.description}", flush=True)
    missing_inputs = [str(path) for path in step.requires if not (ROOT / path).is_file()]
    reason = step.skip_reason or (f"there is no {missing_inputs[0]}: run the step that writes it" if missing_inputs else "")
    if reason:
        print(reason, flush=True)
        return StepResult(step, "not possible", reason=reason)
    command = [*step.command, *(str(path) for path in step.optional_args if (ROOT / path).is_file())]
    if step.produces is not None:  # so that a file of an earlier run does not count
        for path in (step.produces, sidecar_path(step.produces)) if step.is_artifact else (step.produces,):
            (ROOT / path).unlink(missing_ok=True)
    mtime_before = mtime_ns(step.record)
    print(f"$ {shell_command(command)}", flush=True)
    start_time = time.perf_counter()
    code, lines = run_streamed([sys.executable, *command], limit, stop, log)
    seconds, last_line = time.perf_counter() - start_time, lines[-1] if lines else ""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last_error = errors[-1] if errors else last_line
    has_record = step.record is not None and mtime_ns(step.record) != mtime_before
    if code == 2 and step.missing_pattern and re.search(step.missing_pattern, last_error):
        return StepResult(step, "not possible", seconds, last_error, last_line, has_record)
    if code is None and stop is not None and stop.received:
        reason = f"ended by {stop.received.name} after {seconds:.0f} s; last output: {last_error}"
    elif code is None:
        reason = f"terminated after {round(limit / 60, 2):g} minutes; last output: {last_error}"
    elif code:
        reason = ": ".join(filter(None, [f"signal {-code}" if code < 0 else f"exit code {code}", last_error]))
    elif step.record is not None and not has_record:
        reason = f"did not write {step.record}"
    elif step.produces is not None and not (ROOT / step.produces).is_file():
        reason = f"did not write {step.produces}"
    elif step.is_artifact and not verification_rows(step):
        reason = f"{step.produces} was written but not verified"
    has_output = has_record or (not reason and step.produces is not None)
    return StepResult(step, "failed" if reason else "ok", seconds, reason, last_line, has_output)


def results_table(results: Sequence[StepResult], title: str, cells: Sequence[object]) -> str:
    """Format the results for the terminal, with a column of the given title and cells."""
    rows = [
        [done.step.name, done.state, f"{done.seconds:.0f}", cell, done.reason or done.step.description]
        for done, cell in zip(results, cells)
    ]
    return tabulate(rows, ["step", "", "s", title, ""], disable_numparse=True, maxcolwidths=[None] * 4 + [80])


def describe_step(step: Step) -> str:
    """Return the lines of --list."""
    command = shell_command([*step.command, *map(str, step.optional_args)])
    return f"# {step.name}: {step.description}\n{command}"


def slug(name: str) -> str:
    """Return a name as part of a file name: "nvidia-h200" for "NVIDIA H200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def relative_to_root(path: Path) -> Path:
    """Return a path relative to the repository root, where the steps run; symbolic links are not resolved."""
    path = Path(os.path.normpath(path.absolute()))
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def shell_command(args: Sequence[str]) -> str:
    """Return a Python command as a shell command line."""
    return shlex.join(["python", *args])


def mtime_ns(path: Path | None) -> int | None:
    """Return the modification time of a file in nanoseconds, or None if it does not exist."""
    return (ROOT / path).stat().st_mtime_ns if path is not None and (ROOT / path).is_file() else None


def run_streamed(
    command: Sequence[str], limit: float, stop: StopSignal | None = None, log: Path | None = None
) -> tuple[int | None, list[str]]:
    """Run a command and forward its output. Returns the exit code, or None after a timeout or a signal, and the last lines.

    No process of the command outlives this call or this process: see `process_guard.py`.
    """
    tail = bytearray()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(GRACE_S)]
    read_fd, write_fd = open_pty() if sys.stdout.isatty() else os.pipe()
    try:
        process = subprocess.Popen(
            [*guard, *command], cwd=ROOT, env=environment, stdout=write_fd, stderr=subprocess.STDOUT, start_new_session=True
        )
    finally:
        os.close(write_fd)
    reader = threading.Thread(target=forward_output, args=(read_fd, tail, log), daemon=True)
    reader.start()
    deadline = time.monotonic() + limit
    try:
        while process.poll() is None and time.monotonic() < deadline and not (stop and stop.received):
            time.sleep(POLL_S)
    finally:
        code = process.poll()
        if code is None:
            terminate(process)
    reader.join(5)  # a descendant that survived SIGKILL keeps the pipe open
    text = tail[-20_000:].decode(errors="replace")
    return code, [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def open_pty() -> tuple[int, int]:
    """Open a pseudo-terminal of the size of ours, in which commands show progress bars. Returns the read and the write end."""
    read_fd, write_fd = os.openpty()
    size = shutil.get_terminal_size()
    fcntl.ioctl(write_fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    return read_fd, write_fd


def forward_output(read_fd: int, tail: bytearray, log: Path | None) -> None:
    """Copy the output to stdout as it arrives, progress bars included, and to `log`; store the end of it in `tail`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with suppress(OSError), os.fdopen(read_fd, "rb"), open(log or os.devnull, "wb", buffering=0) as file:  # noqa: PTH123
        while block := os.read(read_fd, 65536):  # raises OSError for a pseudo-terminal without writers
            sys.stdout.write(decoder.decode(block))
            sys.stdout.flush()
            file.write(block)
            tail += block
            del tail[:-40_000]


def terminate(guard: subprocess.Popen[bytes]) -> None:
    """Let the guard end its command, which takes at most `GRACE_S` seconds unless processes survive SIGKILL."""
    guard.terminate()
    try:
        guard.wait(GRACE_S + GUARD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        guard.kill()


def verification_rows(step: Step) -> list[Row]:
    """Return the verification rows in the sidecar of the artifact that a step wrote, with the accuracy in each row."""
    if step.produces is None or not sidecar_path(ROOT / step.produces).is_file():
        return []
    sidecar: dict[str, Any] = json.loads(sidecar_path(ROOT / step.produces).read_text("utf-8"))
    builder, verification = sidecar["builder"] or {}, sidecar["verification"] or {}
    common = {"step": step.name, "artefact": sidecar["artefact"], "kind": sidecar["kind"], "precision": sidecar["precision"]}
    common |= {"built_by": " ".join(str(builder[key]) for key in ("backend", "version") if key in builder) or None}
    accuracy = verification.get("accuracy") or {}
    common |= {f"accuracy_{key}": accuracy.get(key) for key in ("metric", "checkpoint", "artefact")}
    return [{**common, **row} for row in verification.get("rows", ()) if "batch" in row]  # other rows were not run
