"""Write records: rows with the machine, package versions, revision, command and date of a run."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_folder, to_json, write_text
from hgfast.system_info import cpu_features, describe_system, git_revision, package_versions

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
"""The repository root; in an installation without a checkout, the package folder of hgfast."""

PACKAGES = (
    "hgfast",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "torch",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
)
"""Packages whose versions every record contains if they are installed; a script may add more."""


def require_checkout(name: str) -> None:
    """Raise `HgfastError` outside a checkout of the repository, whose other scripts the benchmark runs."""
    if not (ROOT / "setup.py").is_file():
        raise HgfastError(f"hgfast bench {name} runs scripts of the repository: run it in a checkout of hgfast")


def make_record(
    rows: Sequence[Row], machine: Row, packages: Sequence[str] = (), conclusions: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the record of a run.

    Args:
        rows: flat mappings.
        machine: `machine_info()` from before the run, whose load is then that of other processes.
        packages: packages whose versions the record contains beside `PACKAGES`.
        conclusions: sentences about the rows.
    """
    return {
        "machine": machine,
        "versions": package_versions((*PACKAGES, *packages)),
        "revision": git_revision(),
        "command": command(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **({"conclusions": list(conclusions)} if conclusions else {}),
        "rows": list(rows),
    }


def command() -> str:
    """Return the command line of this process, as a script or as the console command."""
    words = sys.argv[0].split() if sys.argv[0].startswith("hgfast bench ") else ["python", sys.argv[0]]
    return shlex.join([*words, *sys.argv[1:]])


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write a record as JSON and create its folder. Raises `HgfastError` if that fails."""
    prepare_folder(path.parent, "--json")
    write_text(path, to_json(record, indent=2) + "\n", "--json")


def machine_info() -> Row:
    """Describe the hardware; `isa` is the effective instruction set of the CPU, `load` the load average of the last minute."""
    cpu = cpu_features()
    return {
        **describe_system(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "bf16": cpu.bf16,
        "vnni": cpu.vnni,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": gpu_name(),
        "load": round(os.getloadavg()[0], 2),
    }


def gpu_name() -> str | None:
    """Return the name of the first GPU that torch sees, or None."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
