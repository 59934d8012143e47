"""Run one step of `gpu_check` or `run_all`: stream its output, limit its time, and check the files that it must write."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hgfast.bench.gpu.steps import Step
from hgfast.bench.harness.record import ROOT, Row
from hgfast.runtime.sidecar import sidecar_path

TERMINATE_TIMEOUT = 60.0  # seconds between SIGTERM and SIGKILL
StepState = Literal["ok", "failed", "not possible"]


@dataclass(frozen=True)
class StepResult:
    """Result of a step. reason: of a failed or impossible step. last_line: of the output."""

    step: Step
    state: StepState
    seconds: float = 0.0
    reason: str = ""
    last_line: str = ""


def run_step(step: Step, limit: float) -> StepResult:
    """Run a step for at most `limit` seconds and forward its output."""
    print(f"\n== {step.name}: {step.description}", flush=True)
    missing_inputs = [str(path) for path in step.requires if not (ROOT / path).is_file()]
    reason = step.skip_reason or (f"there is no {missing_inputs[0]}: run the step that writes it" if missing_inputs else "")
    if reason:
        print(reason, flush=True)
        return StepResult(step, "not possible", reason=reason)
    optional_args = tuple(str(path) for path in step.optional_args if (ROOT / path).is_file())
    if step.produces is not None:  # so that a file of an earlier run does not count
        for path in (step.produces, sidecar_path(step.produces)) if step.is_artifact else (step.produces,):
            (ROOT / path).unlink(missing_ok=True)
    mtime_before = mtime_ns(step.record)
    print(f"$ {shell_command([*step.command, *optional_args])}", flush=True)
    start_time = time.perf_counter()
    code, lines = run_streamed([sys.executable, *step.command, *optional_args], limit)
    seconds = time.perf_counter() - start_time
    last_line = lines[-1] if lines else ""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last_error = errors[-1] if errors else last_line
    if code == 2 and step.missing_pattern and re.search(step.missing_pattern, last_error):
        return StepResult(step, "not possible", seconds, last_error, last_line)
    if code is None:
        return StepResult(
            step, "failed", seconds, f"terminated after {limit / 60:.0f} minutes; last output: {last_error}", last_line
        )
    if code:
        exit_text = f"signal {-code}" if code < 0 else f"exit code {code}"
        return StepResult(step, "failed", seconds, f"{exit_text}: {last_error}" if last_error else exit_text, last_line)
    if step.record is not None and mtime_ns(step.record) == mtime_before:
        return StepResult(step, "failed", seconds, f"did not write {step.record}", last_line)
    if step.produces is not None and not (ROOT / step.produces).is_file():
        return StepResult(step, "failed", seconds, f"did not write {step.produces}", last_line)
    if step.is_artifact and not verification_rows(step):
        return StepResult(step, "failed", seconds, f"{step.produces} was written but not verified", last_line)
    return StepResult(step, "ok", seconds, last_line=last_line)


def shell_command(args: Sequence[str]) -> str:
    """Return a Python command as a shell command line."""
    return shlex.join(["python", *args])


def mtime_ns(path: Path | None) -> int | None:
    """Return the modification time of a file in nanoseconds, or None if it does not exist."""
    return (ROOT / path).stat().st_mtime_ns if path is not None and (ROOT / path).is_file() else None


def run_streamed(command: Sequence[str], limit: float) -> tuple[int | None, list[str]]:
    """Run a command and forward its output. Returns the exit code, or None after a timeout, and the last lines."""
    tail = bytearray()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    read_fd, write_fd = open_pty() if sys.stdout.isatty() else os.pipe()
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=write_fd, stderr=subprocess.STDOUT, start_new_session=True
        )
    finally:
        os.close(write_fd)
    reader = threading.Thread(target=forward_output, args=(read_fd, tail), daemon=True)
    reader.start()
    code: int | None = None
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        terminate(process)
    except BaseException:
        terminate(process)
        raise
    reader.join(5)  # orphaned child processes can keep the pipe open
    text = tail[-20_000:].decode(errors="replace")
    return code, [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def open_pty() -> tuple[int, int]:
    """Open a pseudo-terminal of the size of ours, in which commands show progress bars. Returns the read and the write end."""
    read_fd, write_fd = os.openpty()
    size = shutil.get_terminal_size()
    fcntl.ioctl(write_fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    return read_fd, write_fd


def forward_output(read_fd: int, tail: bytearray) -> None:
    """Copy the output to stdout as it arrives, progress bars included, and store the end of it in `tail`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with suppress(OSError), os.fdopen(read_fd, "rb"):  # reading a pseudo-terminal without writers raises OSError
        while block := os.read(read_fd, 65536):
            sys.stdout.write(decoder.decode(block))
            sys.stdout.flush()
            tail += block
            del tail[:-40_000]


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the process group of a command, and SIGKILL if it does not exit in `TERMINATE_TIMEOUT`."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(TERMINATE_TIMEOUT)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue


def verification_rows(step: Step) -> list[Row]:
    """Return the verification rows in the sidecar of the artifact that a step wrote, with the accuracy in each row."""
    if step.produces is None or not sidecar_path(ROOT / step.produces).is_file():
        return []
    sidecar: dict[str, Any] = json.loads(sidecar_path(ROOT / step.produces).read_text())
    builder, verification = sidecar["builder"] or {}, sidecar["verification"] or {}
    common = {"step": step.name, "artefact": sidecar["artefact"], "kind": sidecar["kind"], "precision": sidecar["precision"]}
    common |= {"built_by": " ".join(str(builder[key]) for key in ("backend", "version") if key in builder) or None}
    accuracy = verification.get("accuracy") or {}
    common |= {f"accuracy_{key}": accuracy.get(key) for key in ("metric", "checkpoint", "artefact")}
    return [{**common, **row} for row in verification.get("rows", ()) if "batch" in row]  # other rows were not run
