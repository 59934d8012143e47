"""Records that scripts here have written: read again, and asked what they are of.

What may enter: reading records, and what several scripts ask of them. Writing one is `record`'s.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from record import Row

from hgfast.errors import HgfastError
from hgfast.machine import describe_machine
from hgfast.report_records import RECORD

Record = Mapping[str, Any]
OUTPUTS = ("--json", "--chart", "--out")
ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("bench/results")
"""Where those that the pages are made of are kept, below the project's folder."""
Made = TypeVar("Made")


def read_record(path: Path) -> Record:
    """A record as `record.make_record` makes them. Raises `HgfastError` for what cannot be read or is none."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): name a record that bench/ has written") from error
    except ValueError as error:
        raise HgfastError(f"{path} is not JSON ({' '.join(str(error).split())}): name a record of bench/") from error
    lacking = [key for key, kind in RECORD.items() if not isinstance(record, dict) or not isinstance(record.get(key), kind)]
    if lacking:
        raise HgfastError(f"{path} is no record of bench/: {lacking[0]!r} is missing or of another form")
    if not all(isinstance(row, dict) for row in record["rows"]):
        raise HgfastError(f"{path} is no record of bench/: a row is no mapping of keys to values")
    return record


def bench_of(record: Record, row: Row) -> str:
    """Which script a row is of."""
    words = shlex.split(record["command"])
    return str(row.get("bench") or next((Path(word).stem for word in words if word.endswith(".py")), ""))


def rows_of(record: Record, bench: str) -> list[Row]:
    """The rows of a script."""
    return [row for row in record["rows"] if bench_of(record, row) == bench]


def command_of(record: Record, bench: str) -> str:
    """The command that repeats the rows of a script, without the places of what it writes."""
    return without_outputs(record.get("commands", {}).get(bench, record["command"]))


def without_outputs(command: str) -> str:
    """A command without the flags that say where its results go."""
    return shlex.join(drop(shlex.split(command), OUTPUTS))


def drop(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The words without these flags and their values."""
    kept = list[str]()
    left_out = False
    for word in words:
        if not left_out and word.partition("=")[0] not in flags:
            kept.append(word)
        left_out = word in flags
    return kept


def machine_words(record: Record) -> str:
    """The machine and the date, as "AMD EPYC, 2 cores, 2026-11-22"."""
    return f"{describe_machine(record['machine'])}, {record['date'][:10]}"


# ---- for the project's own pages ----


def open_rows(bench: str, path: Path) -> tuple[Record, list[Row]]:
    """A record below the project's folder, and its rows of a script. Raises `HgfastError` where there are none."""
    record = read_record(ROOT / path)
    if not (rows := rows_of(record, bench)):
        raise HgfastError(f"{path} has no rows of bench/{bench}.py, which a table is made of: write it anew with that")
    return record, rows


def rendered(path: Path, bench: str, make: Callable[[], Made]) -> Made:
    """What is made of a record's rows. Raises `HgfastError` for rows of an old form."""
    try:
        return make()
    except KeyError as error:
        raise HgfastError(f"{path} has no {error} in its rows: write it anew with bench/{bench}.py") from error


def source(record: Record, bench: str) -> str:
    """Which command found it, where and when."""
    return f"`{command_of(record, bench)}` on {machine_words(record)}"
