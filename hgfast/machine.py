"""What this machine has. What may enter: questions to the operating system that need no framework."""

from __future__ import annotations

import os


def cores() -> int:
    """The CPU cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
