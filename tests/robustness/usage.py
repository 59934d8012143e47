"""Measure the resources of a process and its descendants from /proc: memory, open files, threads and /dev/shm."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108  # only read


@dataclass(frozen=True)
class Usage:
    """Totals over all processes. own_kb: anonymous memory, in which shared pages count once (Pss_Anon); file-backed pages are
    excluded because their share depends on other processes of the machine. rss_kb: resident memory, in which shared pages count
    for each process. shm_kb: all files in /dev/shm, of any process."""

    processes: int
    own_kb: int
    rss_kb: int
    descriptors: int
    threads: int
    shm_kb: int


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants that are alive."""
    pids = [pid]
    for parent in pids:
        pids += children(parent)
    return [member for member in pids if _state(member) not in ("Z", "X", "")]


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    try:
        return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    except OSError:
        return []


def command_line(pid: int) -> str:
    """Return the command line of a process, separated by spaces; "" if it does not exist."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def measure_usage(pid: int) -> Usage:
    """Measure a process and its descendants; processes that end meanwhile do not count."""
    own = rss = descriptors = threads = processes = 0
    for one in process_tree(pid):
        try:
            memory = _numbers(Path(f"/proc/{one}/smaps_rollup"))
            tasks = _numbers(Path(f"/proc/{one}/status"))["Threads"]
            files = sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
        except (OSError, KeyError):
            continue
        processes += 1
        own += memory.get("Pss_Anon", 0)
        rss += memory.get("Rss", 0)
        descriptors += files
        threads += tasks
    return Usage(processes, own, rss, descriptors, threads, shared_memory())


def shared_memory() -> int:
    """Return the kB of all files in /dev/shm, deleted ones included."""
    try:
        stats = os.statvfs(SHM)
    except OSError:
        return 0
    return (stats.f_blocks - stats.f_bfree) * stats.f_frsize // 1024


def _numbers(file: Path) -> dict[str, int]:
    """Return the lines of a file in /proc that consist of a name and a number."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in pairs if len(words) > 1 and words[1].isdecimal()}


def _state(pid: int) -> str:
    """Return the state of a process, R, S, D, T, Z, …; "" if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
