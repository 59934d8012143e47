"""Running one step of `gpu_check` or `all`: its output passed on, its time limited, and whether it left what it should.

What may enter: running a command and judging what came of it.
"""

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

from gpu_steps import Step
from record import Row

from hgfast.sidecar import place

ROOT = Path(__file__).resolve().parents[1]
GRACE = 60.0  # seconds for a step to end by itself once it was told to
State = Literal["ok", "failed", "not possible"]


@dataclass(frozen=True)
class Done:
    """What came of a step. why: of what failed or was not possible. said: its last line."""

    step: Step
    state: State
    seconds: float = 0.0
    why: str = ""
    said: str = ""


def carry_out(step: Step, limit: float) -> Done:
    """Run a step, printing what it prints, for at most `limit` seconds."""
    print(f"\n== {step.name}: {step.words}", flush=True)
    absent = [str(path) for path in step.needs if not (ROOT / path).is_file()]
    why = step.impossible or (f"there is no {absent[0]}, which an earlier step makes" if absent else "")
    if why:
        print(why, flush=True)
        return Done(step, "not possible", why=why)
    there = tuple(str(path) for path in step.if_there if (ROOT / path).is_file())
    if step.makes is not None:  # so that what an earlier run has left is not taken for this one's
        for path in (step.makes, place(step.makes)) if step.artefact else (step.makes,):
            (ROOT / path).unlink(missing_ok=True)
    before = stamp(step.result)
    print(f"$ {typed([*step.command, *there])}", flush=True)
    began = time.perf_counter()
    code, lines = stream([sys.executable, *step.command, *there], limit)
    seconds = time.perf_counter() - began
    said = lines[-1] if lines else ""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = errors[-1] if errors else said
    if code == 2 and step.missing and re.search(step.missing, last):
        return Done(step, "not possible", seconds, last, said)
    if code is None:
        return Done(step, "failed", seconds, f"it was ended after {limit / 60:.0f} minutes; its last words: {last}", said)
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Done(step, "failed", seconds, f"{how}: {last}" if last else how, said)
    if step.result is not None and stamp(step.result) == before:
        return Done(step, "failed", seconds, f"it has not written {step.result}", said)
    if step.makes is not None and not (ROOT / step.makes).is_file():
        return Done(step, "failed", seconds, f"it has not written {step.makes}", said)
    if step.artefact and not verification(step):
        return Done(step, "failed", seconds, f"{step.makes} was written and not verified", said)
    return Done(step, "ok", seconds, said=said)


def typed(words: Sequence[str]) -> str:
    """A command of Python's as one could type it."""
    return shlex.join(["python", *words])


def stamp(path: Path | None) -> int | None:
    """When a file was written, in nanoseconds; None where there is none."""
    return (ROOT / path).stat().st_mtime_ns if path is not None and (ROOT / path).is_file() else None


def stream(command: Sequence[str], limit: float) -> tuple[int | None, list[str]]:
    """Run a command and pass its output on; its exit code, None where it was ended, and its last lines."""
    kept = bytearray()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    ours, theirs = terminal() if sys.stdout.isatty() else os.pipe()
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=theirs, stderr=subprocess.STDOUT, start_new_session=True
        )
    finally:
        os.close(theirs)
    reader = threading.Thread(target=pass_on, args=(ours, kept), daemon=True)
    reader.start()
    code: int | None = None
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        end(process)
    except BaseException:
        end(process)
        raise
    reader.join(5)  # what it may have started and left behind can hold the pipe open
    text = kept[-20_000:].decode(errors="replace")
    return code, [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def terminal() -> tuple[int, int]:
    """Both ends of a terminal as wide as ours, in which commands show their progress; the first is to be read."""
    ours, theirs = os.openpty()
    size = shutil.get_terminal_size()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))
    return ours, theirs


def pass_on(end_to_read: int, kept: bytearray) -> None:
    """Copy what comes to stdout, progress bars as they move, and keep it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with suppress(OSError), os.fdopen(end_to_read, "rb"):  # a terminal that nobody writes to any more is an error to read
        while block := os.read(end_to_read, 65536):
            sys.stdout.write(decoder.decode(block))
            sys.stdout.flush()
            kept += block
            del kept[:-40_000]


def end(process: subprocess.Popen[bytes]) -> None:
    """Tell a command and all that it started to end, and end them where they do not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue


def verification(step: Step) -> list[Row]:
    """What the sidecar of the artefact that a step has made says of how far it is from the checkpoint."""
    if step.makes is None or not place(ROOT / step.makes).is_file():
        return []
    sidecar: dict[str, Any] = json.loads(place(ROOT / step.makes).read_text())
    builder, found = sidecar["builder"] or {}, sidecar["verification"] or {}
    same = {"step": step.name, "artefact": sidecar["artefact"], "kind": sidecar["kind"], "precision": sidecar["precision"]}
    same |= {"built_by": " ".join(str(builder[key]) for key in ("backend", "version") if key in builder) or None}
    accuracy = found.get("accuracy") or {}
    same |= {f"accuracy_{key}": accuracy.get(key) for key in ("metric", "checkpoint", "artefact")}
    return [{**same, **row} for row in found.get("rows", ()) if "batch" in row]  # else it says that nothing was run
