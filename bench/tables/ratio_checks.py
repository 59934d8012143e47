"""Checks of `run_all.py --check` in CI: ratios within one run, mostly to princeton; never times, which depend on the machine.

Short trials on a shared machine are noisy, so a limit is a value that indicates a defect, not the usual result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hgfast.bench.harness.record import Row
from hgfast.system_info import cpu_features

Rows = Sequence[Row]


class Check(NamedTuple):
    """A minimum ratio. ratio_of: from the rows of the step to the ratio, or None if the needed rows are missing."""

    step: str
    description: str
    min_ratio: float
    ratio_of: Callable[[Rows], float | None]


class CheckResult(NamedTuple):
    """A check and the measured ratio; None if the rows are missing."""

    check: Check
    ratio: float | None

    @property
    def ok(self) -> bool:
        return self.ratio is not None and self.ratio >= self.check.min_ratio

    @property
    def row(self) -> Row:
        """The row of the record."""
        check = self.check
        row = {"step": check.step, "check": check.description, "found": self.ratio, "wanted": check.min_ratio}
        return {**row, "ok": self.ok}

    @property
    def cells(self) -> list[str]:
        """The cells of a table with the columns `CHECK_COLUMNS`."""
        ratio = "not measured" if self.ratio is None else f"{self.ratio:.2f}"
        return [self.check.description, ratio, f">= {self.check.min_ratio:g}", "ok" if self.ok else "FAILED"]


CHECK_COLUMNS = ("check", "ratio", "limit", "")


def loader_cpu_ratio(rows: Rows) -> float | None:
    hands = [row for row in rows if row["layout"] == "freihand" and not row["cached"]]
    times = {(row["loader"], row["variant"]): row["cpu_ms_per_image"] for row in hands}
    princeton, hgfast = times.get(("seed_style", "augmented")), times.get(("dali_cpu", "targets"))
    return princeton / hgfast if princeton and hgfast else None


def training_speedup(rows: Rows) -> float | None:
    return min((row["speedup"] for row in rows if row["way"] == "hgfast" and row["speedup"]), default=None)


def best_fp32_speedup(rows: Rows) -> float | None:
    """Return the best fp32 speedup of the network that is slowest in princeton's variant."""
    alone = [row for row in rows if row["batch"] == 1 and row["median_ms"] and not row["end_to_end"]]
    princeton_rows = [row for row in alone if row["way"] == "seed_style"]
    if not princeton_rows:
        return None
    largest = max(princeton_rows, key=lambda row: float(row["median_ms"]))["preset"]
    others = [row for row in alone if row["preset"] == largest and row["precision"] == "fp32" and row["way"] != "seed_style"]
    return max((row["speedup"] for row in others), default=None)


def threaded_ratio(rows: Rows) -> float | None:
    """Return the lowest ratio of all runtimes."""
    return min((row["times_one_thread"] for row in rows if row["times_one_thread"]), default=None)


MIN_LOADER_RATIO = 1.5 if cpu_features().isa.startswith("AVX512") else 1.2
"""On two idle cores of a Zen 3, which has only AVX2, `loader.py --quick` measures 1.6; with AVX512 2.5 and more."""
CHECKS = (
    Check("loader", "hands: CPU time per image, princeton / DALI", MIN_LOADER_RATIO, loader_cpu_ratio),
    Check("train_step", "training: images/s, hgfast / princeton", 0.8, training_speedup),
    Check("latency", "fastest fp32 variant, batch 1: speedup over princeton", 0.9, best_fp32_speedup),
    Check("embedding", "session: images/s, four threads / one thread", 0.4, threaded_ratio),
)


def run_checks(rows_by_step: Mapping[str, Rows]) -> list[CheckResult]:
    """Run the checks of the given steps; a failed step has no rows."""
    return [CheckResult(check, check.ratio_of(rows_by_step[check.step])) for check in CHECKS if check.step in rows_by_step]
