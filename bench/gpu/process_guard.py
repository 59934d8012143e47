"""Run a command of which no process outlives this script, nor the process that started this script.

    python -I -S process_guard.py PARENT_PID GRACE_S COMMAND...

The script adopts orphaned descendants (PR_SET_CHILD_SUBREAPER), so it also finds those in sessions of their own, which is how
torchrun starts its workers. On SIGTERM, or when its parent dies, even by SIGKILL (PR_SET_PDEATHSIG), it sends SIGTERM to its
process group, and SIGKILL to every descendant that is left after GRACE_S seconds. It does the same with descendants that the
command leaves behind. It exits as the command did: with the same exit code, or by the same signal. It needs Linux and the
standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
BLOCKED_SIGNALS = STOP_SIGNALS | {signal.SIGCHLD}
KILL_TIMEOUT_S = 10.0  # a process that waits for a driver survives SIGKILL for as long

LIBC = ctypes.CDLL(None, use_errno=True)


def descendants() -> list[int]:
    """Return the process ids of all descendants of this process, zombies excluded."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()[:2]
        except OSError:  # the process has ended
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(folder.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def reap(command_pid: int) -> int | None:
    """Reap all processes that have ended; return the wait status of the command if it is among them."""
    status = None
    while True:
        try:
            pid, pid_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == command_pid:
            status = pid_status


def end_descendants(command_pid: int, grace_s: float) -> None:
    """End all descendants: SIGTERM to the process group of this process, after `grace_s` seconds SIGKILL."""
    if descendants():
        os.killpg(0, signal.SIGTERM)  # blocked here
    start_time = time.monotonic()
    while (found := descendants()) and time.monotonic() < start_time + grace_s + KILL_TIMEOUT_S:
        if time.monotonic() > start_time + grace_s:
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.02)
        reap(command_pid)


def in_command() -> None:
    """Prepare the process of the command: it dies with this script."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)


def main() -> None:
    parent, grace_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        return
    process = subprocess.Popen(command, preexec_fn=in_command)  # this process has one thread
    status = None
    while status is None:
        if signal.sigwait(BLOCKED_SIGNALS) in STOP_SIGNALS:
            break
        status = reap(process.pid)
    end_descendants(process.pid, grace_s)
    code = 128 + signal.SIGTERM if status is None else os.waitstatus_to_exitcode(status)
    process.returncode = code  # reaped above
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
