"""Thousands of broken files, thrown at everything that reads one: each must end in an answer or in one sentence.

    python tests/robustness/fuzz.py --cases 20000 --seed 0

Files are broken by their form (values replaced, lengths that cannot be, arrays of another shape) and by their bytes, and opened
in processes that are watched: a traceback, a crash, a hang or more than 2 GB is told with the case's number, and
`--first N --cases 1` with the same seed repeats it. Every fifth case is an exported network or its sidecar; `--only exports`
leaves out all others. The exit code is 1 if any went wrong.
What may enter: handing out cases, and the table.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate
from tqdm import tqdm

sys.path.append(str(Path(__file__).parent))  # where Python looks for the modules beside a script

import exports
import kinds
from watched import Case, watch

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_file, to_json, write_text

EXPORTS = 5  # every so manieth case is one
Progress = Callable[[Iterable[Case], int], Iterable[Case]]


@dataclass(kw_only=True)
class FuzzConfig:
    """One round of broken files."""

    cases: int = 20000
    """how many"""
    first: int = 0
    """number of the first; with --only the first of that sort from there on"""
    seed: int = 0
    """with a case's number decides what is broken in it, but for exports, where the number does alone"""
    only: Literal["all", "files", "exports"] = "all"
    """files that are read, exported networks, or both"""
    processes: int = 2
    """that open files side by side"""
    json: Path | None = None
    """file to write the table to, and what went wrong"""

    def validate(self) -> None:
        """Raise `HgfastError` for what is out of its range."""
        if self.cases < 1 or self.first < 0 or self.processes < 1 or self.seed < 0:
            raise HgfastError("--cases and --processes must be at least 1, --first and --seed at least 0")


def kind_of(number: int) -> str:
    """What a case breaks."""
    return exports.kind_of(number // EXPORTS) if is_export(number) else kinds.name_of(number)


def is_export(number: int) -> bool:
    return number % EXPORTS == EXPORTS - 1


def start(prepared: Path, seed: int, good: dict[str, Path]) -> Callable[[int], str]:
    """What a process does with a case."""
    read = kinds.start(prepared, seed)
    show = exports.start(good) if good else None

    def work(number: int) -> str:
        return show(number // EXPORTS) if show is not None and is_export(number) else read(number)

    return work


def throw(config: FuzzConfig, folder: Path, progress: Progress = lambda found, _: found) -> list[Case]:
    """What came of the cases, by number."""
    wanted = (n for n in count(config.first) if config.only == "all" or is_export(n) == (config.only == "exports"))
    numbers = list(islice(wanted, config.cases))
    prepared, good = folder / "files", dict[str, Path]()
    prepared.mkdir()
    kinds.prepare(prepared)
    if config.only != "files":
        (folder / "exports").mkdir()
        good = exports.originals(folder / "exports")
    found = watch(start, (prepared, config.seed, good), numbers, config.processes)
    return sorted(progress(found, len(numbers)), key=lambda case: case.number)


def table(done: Sequence[Case]) -> list[dict[str, Any]]:
    """A row for each kind, and one for all."""
    rows = []
    for kind in [*sorted({kind_of(case.number) for case in done}), "all"]:
        some = [case for case in done if kind in ("all", kind_of(case.number))]
        rows.append(
            {
                "kind": kind,
                "cases": len(some),
                "refused": sum(case.found == "refused" for case in some),
                "answered": sum(case.found == "answered" for case in some),
                "wrong": sum(case.wrong for case in some),
                "worst_mb": round(max(case.megabytes for case in some)),
                "worst_s": round(max(case.seconds for case in some), 2),
            }
        )
    return rows


def main() -> None:
    config = parse(FuzzConfig, description=__doc__ or "")
    config.validate()
    if config.json is not None:
        prepare_file(config.json, "--json")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hgfast-fuzz-") as folder:
        done = throw(config, Path(folder), lambda found, count: tqdm(found, total=count, disable=None, unit="case"))
    wrong = {case.number: case.found for case in done if case.wrong}
    for number, what in wrong.items():
        print(f"case {number} ({kind_of(number)}): {what}")
    rows, seconds = table(done), round(time.perf_counter() - began)
    print(tabulate(rows, headers="keys"))
    print(f"{len(done)} cases with seed {config.seed} in {seconds} s, {len(wrong)} went wrong", flush=True)
    if config.json is not None:
        record = {
            "seed": config.seed,
            "first": config.first,
            "cases": len(done),
            "seconds": seconds,
            "rows": rows,
            "wrong": wrong,
        }
        write_text(config.json, to_json(record, indent=1) + "\n", "--json")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
