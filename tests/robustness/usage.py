"""What a process and all those it has started hold: memory, open files, threads, and what lies in /dev/shm.

What may enter: reading /proc. What is watched, and what is too much, is for others to say.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108  # looked at, not written to


@dataclass(frozen=True)
class Usage:
    """Of all processes together. own_kb: memory that is no file's, in which pages of several processes count once (Pss_Anon): of
    files, libraries that is, each counts for less when somebody else on the machine has them too. rss_kb: all memory, in which
    pages count for each process. shm_kb: of all files in /dev/shm, whoever made them."""

    processes: int
    own_kb: int
    rss_kb: int
    descriptors: int
    threads: int
    shm_kb: int


def family(pid: int) -> list[int]:
    """A process and all that descend from it, but for those that are dead."""
    found = [pid]
    for one in found:
        found += children(one)
    return [one for one in found if _state(one) not in ("Z", "X", "")]


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    try:
        return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    except OSError:
        return []


def command_line(pid: int) -> str:
    """The words of its command, separated by blanks; "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def usage(pid: int) -> Usage:
    """Of a process and its descendants; those that end meanwhile do not count."""
    own = rss = descriptors = threads = processes = 0
    for one in family(pid):
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
    """kB that files in /dev/shm take, those that have no name any more included."""
    try:
        room = os.statvfs(SHM)
    except OSError:
        return 0
    return (room.f_blocks - room.f_bfree) * room.f_frsize // 1024


def _numbers(file: Path) -> dict[str, int]:
    """The lines of a file in /proc that say a name and a number."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in pairs if len(words) > 1 and words[1].isdecimal()}


def _state(pid: int) -> str:
    """R, S, D, T, Z, …; "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
