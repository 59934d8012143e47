"""What every benchmark writes beside its figures: the machine, the versions, the revision, the command, the date.

What may enter: what bench scripts share about where and how a figure was obtained; nothing that measures.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hgfast.checkpoints import revision
from hgfast.files import prepare_folder, to_json, write_text
from hgfast.machine import about, cpu_features, versions

Row = dict[str, Any]

PACKAGES = (
    "hgfast",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "torch",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
)
"""Whose versions are noted where they are installed; a script may name more."""


def make_record(rows: Sequence[Row], where: Row, packages: Sequence[str] = (), conclusions: Sequence[str] = ()) -> dict[str, Any]:
    """The record of a run: `rows` must be flat, `where` is what `machine` said before the run made the machine busy;
    `conclusions` are sentences on what the rows show, for people."""
    return {
        "machine": where,
        "versions": versions((*PACKAGES, *packages)),
        "revision": revision(),
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **({"conclusions": list(conclusions)} if conclusions else {}),
        "rows": list(rows),
    }


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write it as JSON, making the folder. Raises `HgfastError` where that fails."""
    prepare_folder(path.parent, "--json")
    write_text(path, to_json(record, indent=2) + "\n", "--json")


def machine() -> Row:
    """The hardware in words and numbers; `isa` is the CPU's effective instruction set, `load` the average number of waiting
    or running processes of the last minute."""
    cpu = cpu_features()
    return {
        **about(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "bf16": cpu.bf16,
        "vnni": cpu.vnni,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": gpu(),
        "load": round(os.getloadavg()[0], 2),
    }


def gpu() -> str | None:
    """The first GPU's name, or None where torch sees none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
