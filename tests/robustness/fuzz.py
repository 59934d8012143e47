"""Fuzz all file readers with thousands of broken files: each must give a result or one error sentence.

    python -m tests.robustness.fuzz --cases 20000 --seed 0

Files are mutated by structure (replaced values, impossible lengths, arrays of another shape) and by bytes, and opened in
monitored processes: a traceback, a crash, a hang or more than 2 GB is reported with the number of the case, which
`--first N --cases 1` with the same seed repeats. Every fifth case is an exported network or its sidecar; `--only exports` runs
only those. The exit code is 1 if a case failed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate
from tqdm import tqdm

from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_file, to_json, write_text
from tests.robustness import exports, fuzz_targets
from tests.robustness.resource_monitor import Case, run_monitored

EXPORTS = 5  # every fifth case is an export
Progress = Callable[[Iterable[Case], int], Iterable[Case]]
"""Wraps the results of so many cases in a progress bar."""


@dataclass(kw_only=True)
class FuzzConfig:
    """Settings of the fuzzer."""

    cases: int = 20000
    """number of cases"""
    first: int = 0
    """number of the first case; with --only the first of that kind from there on"""
    seed: int = 0
    """random seed; with the number of a case it determines the mutation, except for exports, which depend on the number only"""
    only: Literal["all", "files", "exports"] = "all"
    """data files, exported networks, or both"""
    processes: int = 2
    """processes that open files"""
    json: Path | None = None
    """write the table and the failures to this file"""

    def validate(self) -> None:
        """Raise `HgfastError` for values out of range."""
        if self.cases < 1 or self.first < 0 or self.processes < 1 or self.seed < 0:
            raise HgfastError("--cases and --processes must be at least 1, --first and --seed at least 0")


def target_of(number: int) -> str:
    """Return the kind of file of a case."""
    return exports.kind_of(number // EXPORTS) if is_export(number) else fuzz_targets.target_name(number)


def is_export(number: int) -> bool:
    return number % EXPORTS == EXPORTS - 1


def start(files: Path | None, seed: int, valid_exports: dict[str, Path]) -> Callable[[int], str]:
    """Return the function that runs a case. `files` may be None, and `valid_exports` empty, if no case needs them."""
    run_file = fuzz_targets.start(files, seed) if files is not None else None
    run_export = exports.start(valid_exports) if valid_exports else None

    def run_case(number: int) -> str:
        if is_export(number) and run_export is not None:
            return run_export(number // EXPORTS)
        assert run_file is not None
        return run_file(number)

    return run_case


def run_cases(config: FuzzConfig, folder: Path, progress: Progress = lambda cases, _: cases) -> list[Case]:
    """Run the cases and return their outcomes by number."""
    selected = (n for n in count(config.first) if config.only == "all" or is_export(n) == (config.only == "exports"))
    numbers = list(islice(selected, config.cases))
    files = fuzz_targets.prepare(folder / "files") if config.only != "exports" else None
    valid_exports = exports.prepare(folder / "exports") if config.only != "files" else {}
    cases = run_monitored(start, (files, config.seed, valid_exports), numbers, config.processes)
    return sorted(progress(cases, len(numbers)), key=lambda case: case.number)


def table(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return a row per kind of file, and one for all."""
    rows = []
    for kind in [*sorted({target_of(case.number) for case in cases}), "all"]:
        group = [case for case in cases if kind in ("all", target_of(case.number))]
        rows.append(
            {
                "kind": kind,
                "cases": len(group),
                "refused": sum(case.outcome == "refused" for case in group),
                "answered": sum(case.outcome == "answered" for case in group),
                "wrong": sum(case.wrong for case in group),
                "worst_mb": round(max(case.megabytes for case in group)),
                "worst_s": round(max(case.seconds for case in group), 2),
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
        cases = run_cases(config, Path(folder), lambda cases, total: tqdm(cases, total=total, disable=None, unit="case"))
    wrong = {case.number: case.outcome for case in cases if case.wrong}
    for number, outcome in wrong.items():
        print(f"case {number} ({target_of(number)}): {outcome}")
    rows, seconds = table(cases), round(time.perf_counter() - began)
    print(tabulate(rows, headers="keys"))
    print(f"{len(cases)} cases with seed {config.seed} in {seconds} s, {len(wrong)} failed", flush=True)
    if config.json is not None:
        run = {"seed": config.seed, "first": config.first, "cases": len(cases), "seconds": seconds}
        record = {**run, "rows": rows, "wrong": wrong}
        write_text(config.json, to_json(record, indent=1) + "\n", "--json")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
