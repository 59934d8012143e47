"""Read records that the benchmarks wrote: their rows, scripts, commands and machines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hgfast.bench.harness.record import ROOT, Row
from hgfast.config import RENAMED_KEYS, RENAMED_VALUES
from hgfast.errors import HgfastError
from hgfast.reporting.records import RECORD_KEYS
from hgfast.system_info import describe_machine

Record = Mapping[str, Any]
OUTPUT_FLAGS = ("--json", "--chart", "--out")

RESULTS_DIR = Path("bench/results")
"""Folder of the records behind the numbers in README.md and docs/, relative to the repository root."""
SCRIPTS = {"embedding": "session_overhead"}
"""File stem of the scripts whose rows have another bench name."""
RENAMED_FLAGS = {f"--{old}": f"--{new.replace('_', '-')}" for old, new in RENAMED_KEYS.items() if "." not in old}
"""Current names of renamed data flags that occur in the commands of older records."""
RENAMED_RECIPES = {"seed": "princeton", "seed_summed": "princeton_sum"}
"""Current names of the recipes in older records of recipes.py."""
T = TypeVar("T")


def read_record(path: Path) -> Record:
    """Read a record of `record.make_record`. Raises `HgfastError` if the file is unreadable or not a record."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): give a record that bench/ wrote") from error
    except ValueError as error:
        raise HgfastError(f"{path} is not JSON ({' '.join(str(error).split())}): give a record that bench/ wrote") from error
    missing = [
        key
        for key, expected_type in RECORD_KEYS.items()
        if not isinstance(record, dict) or not isinstance(record.get(key), expected_type)
    ]
    if missing:
        raise HgfastError(f"{path} is not a record of bench/: {missing[0]!r} is missing or has the wrong type")
    if not all(isinstance(row, dict) for row in record["rows"]):
        raise HgfastError(f"{path} is not a record of bench/: a row is not a mapping")
    for row in record["rows"]:
        if row.get("recipe") in RENAMED_RECIPES:
            row["recipe"] = RENAMED_RECIPES[row["recipe"]]
    return record


def bench_name(record: Record, row: Row) -> str:
    """Return the bench name of the script that measured a row."""
    if row.get("bench"):
        return str(row["bench"])
    words = shlex.split(record["command"])
    script = words[2] if words[:2] == ["hgfast", "bench"] else next((Path(w).stem for w in words if w.endswith(".py")), "")
    return next((name for name, stem in SCRIPTS.items() if stem == script), script)


def script_of(bench: str) -> str:
    """Return the file stem of the script with this bench name."""
    return SCRIPTS.get(bench, bench)


def rows_of(record: Record, script: str) -> list[Row]:
    """Return the rows of a script, by its bench name."""
    return [row for row in record["rows"] if bench_name(record, row) == script]


def command_of(record: Record, script: str) -> str:
    """Return the command that measured the rows of a script, without its output flags."""
    return without_outputs(record.get("commands", {}).get(script, record["command"]))


def without_outputs(command: str) -> str:
    """Return a command with current flag names and without `OUTPUT_FLAGS`."""
    return shlex.join(drop_flags(_rename_flags(shlex.split(command)), OUTPUT_FLAGS))


def _rename_flags(args: Sequence[str]) -> list[str]:
    """Return the arguments with current names of flags and loaders."""
    renamed = list[str]()
    for word in args:
        flag, equals, value = word.partition("=")
        loaders = RENAMED_VALUES["loader"] if "--loader" in (flag, *renamed[-1:]) else {}
        renamed.append(RENAMED_FLAGS.get(flag, loaders.get(flag, flag)) + equals + loaders.get(value, value))
    return renamed


def drop_flags(args: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the arguments without these flags and their values."""
    remaining = list[str]()
    skip_value = False
    for word in args:
        if not skip_value and word.partition("=")[0] not in flags:
            remaining.append(word)
        skip_value = word in flags
    return remaining


def machine_words(record: Record) -> str:
    """Return machine and date as "AMD EPYC, 2 cores, 2026-11-22"."""
    return f"{describe_machine(record['machine'])}, {record['date'][:10]}"


# ---- tables of README.md and docs/ ----


def read_rows(bench: str, path: Path) -> tuple[Record, list[Row]]:
    """Read a record, relative to the repository root, and its rows of a script. Raises `HgfastError` without such rows."""
    record = read_record(ROOT / path)
    if not (rows := rows_of(record, bench)):
        raise HgfastError(
            f"{path} has no rows of bench/{script_of(bench)}.py, which a table needs: write it again with that script"
        )
    return record, rows


def render_rows(path: Path, script: str, make: Callable[[], T]) -> T:
    """Return make(). Raises `HgfastError` if the rows lack a key that the table needs."""
    try:
        return make()
    except KeyError as error:
        raise HgfastError(f"{path} has no {error} in its rows: write it again with bench/{script_of(script)}.py") from error


def source_line(record: Record, script: str) -> str:
    """Return the command, machine and date of a script's rows."""
    return f"`{command_of(record, script)}` on {machine_words(record)}"
