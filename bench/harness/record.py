"""Records of the benchmarks: rows with the machine, package versions, revision, command and date of a run."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hgfast.config import RENAMED_KEYS, RENAMED_VALUES
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import prepare_folder, to_json, write_text
from hgfast.reporting.records import RECORD_KEYS
from hgfast.system_info import cpu_features, describe_machine, describe_system, git_revision, package_versions

Row = dict[str, Any]
Record = Mapping[str, Any]
ROOT = Path(__file__).resolve().parents[2]
"""The repository root; in an installation without a checkout, the package folder of hgfast."""
RESULTS_DIR = Path("bench/results")
"""Folder of the records behind the numbers in README.md and docs/, relative to the repository root."""
PACKAGES = ("hgfast", "numpy", "opencv-python-headless", "pillow", "torch", "nvidia-dali-cuda120", "nvidia-dali-cuda130")
"""Packages whose versions every record contains if they are installed; a script may add more."""
OUTPUT_FLAGS = ("--json", "--chart", "--out")
SCRIPTS = {"embedding": "session_overhead"}
"""File stem of the scripts whose rows have another bench name."""
RENAMED_FLAGS = {f"--{old}": f"--{new.replace('_', '-')}" for old, new in RENAMED_KEYS.items() if "." not in old}
"""Current names of renamed data flags that occur in the commands of older records."""
RENAMED_RECIPES = {"seed": "princeton", "seed_summed": "princeton_sum"}
"""Current names of the recipes in older records of recipes.py."""


def require_checkout(name: str) -> None:
    """Raise `HgfastError` outside a checkout of the repository, whose other scripts the benchmark runs."""
    if not (ROOT / "setup.py").is_file():
        raise HgfastError(f"hgfast bench {name} runs scripts of the repository: run it in a checkout of hgfast")


# ---- writing ----


def make_record(
    rows: Sequence[Row],
    machine: Row,
    packages: Sequence[str] = (),
    conclusions: Sequence[str] = (),
    incomplete: str = "",
) -> dict[str, Any]:
    """Return the record of a run.

    Args:
        rows: flat mappings.
        machine: `machine_info()` from before the run, whose load is then that of other processes.
        packages: packages whose versions the record contains beside `PACKAGES`.
        conclusions: sentences about the rows.
        incomplete: what is missing, in a record of the results so far.
    """
    command = sys.argv[0].split() if sys.argv[0].startswith("hgfast bench ") else ["python", sys.argv[0]]
    return {
        "machine": machine,
        "versions": package_versions((*PACKAGES, *packages)),
        "revision": git_revision(),
        "command": shlex.join([*command, *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **({"incomplete": incomplete} if incomplete else {}),
        **({"conclusions": list(conclusions)} if conclusions else {}),
        "rows": list(rows),
    }


def write_record(record: Record, path: Path | None) -> None:
    """Write a record as JSON, if --json names a file, and create its folder. Raises `HgfastError` if that fails."""
    save_record(record, path)
    if path is not None:
        print(f"record: {path}", flush=True)


def save_record(record: Record, path: Path | None) -> None:
    """Write a record without a message, as for the results so far of a run that continues."""
    if path is not None:
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


def gpu_info() -> Row:
    """Return the properties of the GPUs."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = torch.cuda.get_device_properties(0) if count else None
    return {
        "gpu": properties.name if properties else None,
        "gpus": count,
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1) if properties else None,
        "compute_capability": f"{properties.major}.{properties.minor}" if properties else None,
        "cuda": torch.version.cuda,
    }


# ---- reading ----


def read_record(path: Path) -> Record:
    """Read a record. Raises `HgfastError` if the file is unreadable or not a record."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): give a record that bench/ wrote") from error
    except ValueError as error:
        raise HgfastError(f"{path} is not JSON ({one_line(error)}): give a record that bench/ wrote") from error
    content = record if isinstance(record, dict) else {}
    for key, expected_type in RECORD_KEYS.items():
        if not isinstance(content.get(key), expected_type):
            raise HgfastError(f"{path} is not a record of bench/: {key!r} is missing or has the wrong type")
    for row in content["rows"]:
        if not isinstance(row, dict):
            raise HgfastError(f"{path} is not a record of bench/: a row is not a mapping")
        if row.get("recipe") in RENAMED_RECIPES:
            row["recipe"] = RENAMED_RECIPES[row["recipe"]]
    return content


def bench_name(record: Record, row: Row) -> str:
    """Return the bench name of the script that measured a row."""
    if row.get("bench"):
        return str(row["bench"])
    words = shlex.split(record["command"])
    script = words[2] if words[:2] == ["hgfast", "bench"] else next((Path(w).stem for w in words if w.endswith(".py")), "")
    return next((name for name, stem in SCRIPTS.items() if stem == script), script)


def rows_of(record: Record, bench: str) -> list[Row]:
    """Return the rows of the script with this bench name."""
    return [row for row in record["rows"] if bench_name(record, row) == bench]


def command_of(record: Record, bench: str) -> str:
    """Return the command that measured the rows of a script, without its output flags."""
    return without_outputs(record.get("commands", {}).get(bench, record["command"]))


def without_outputs(command: str) -> str:
    """Return a command with current names of flags and loaders, and without `OUTPUT_FLAGS` and their values."""
    words, previous = list[str](), ""
    for word in shlex.split(command):
        flag, equals, value = word.partition("=")
        if flag not in OUTPUT_FLAGS and previous not in OUTPUT_FLAGS:
            loaders = RENAMED_VALUES["loader"] if "--loader" in (flag, previous) else {}
            words.append(RENAMED_FLAGS.get(flag, loaders.get(flag, flag)) + equals + loaders.get(value, value))
        previous = word
    return shlex.join(words)


def machine_words(record: Record) -> str:
    """Return machine and date as "AMD EPYC, 2 cores, 2026-11-22"."""
    return f"{describe_machine(record['machine'])}, {record['date'][:10]}"
