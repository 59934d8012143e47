"""Run a command without root's right to ignore the permissions of files, as for an ordinary user.

    python -m tests.unprivileged COMMAND...

As an ordinary user, it only runs the command.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_CAPBSET_DROP = 24
CAPABILITIES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER (linux/capability.h)


def drop_file_capabilities() -> None:
    """Remove the capabilities from those that the next program may have."""
    if os.geteuid() == 0:
        for number in CAPABILITIES:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


if __name__ == "__main__":
    drop_file_capabilities()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
