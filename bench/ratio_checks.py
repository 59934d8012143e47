"""What CI holds a run of `all.py` to: ratios to the seed's way in the same run, never times, which are the machine's.

Short laps on a machine that others share are noisy: a limit is what would mean that something broke, not what is reached.
What may enter: the table of checks, and making them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from record import Row
from tabulate import tabulate

from hgfast.machine import cpu_features

Rows = Sequence[Row]


@dataclass(frozen=True)
class Check:
    """A ratio that a step's rows must reach. found: of its rows, None where those that it is of are not there."""

    step: str
    words: str
    least: float
    found: Callable[[Rows], float | None]


@dataclass(frozen=True)
class Checked:
    """A check and what was found."""

    check: Check
    found: float | None

    @property
    def ok(self) -> bool:
        return self.found is not None and self.found >= self.check.least

    @property
    def row(self) -> Row:
        """For the record."""
        return {
            "step": self.check.step,
            "check": self.check.words,
            "found": self.found,
            "wanted": self.check.least,
            "ok": self.ok,
        }


def loader_cpu(rows: Rows) -> float | None:
    hands = [row for row in rows if row["layout"] == "freihand" and not row["cached"]]
    found = {(row["loader"], row["variant"]): row["cpu_ms_per_image"] for row in hands}
    seed, ours = found.get(("seed_style", "augmented")), found.get(("dali_cpu", "targets"))
    return seed / ours if seed and ours else None


def training(rows: Rows) -> float | None:
    return min((row["speedup"] for row in rows if row["way"] == "hgfast" and row["speedup"]), default=None)


def best_fp32(rows: Rows) -> float | None:
    """Of the network that takes the seed's way longest."""
    alone = [row for row in rows if row["batch"] == 1 and row["median_ms"] and not row["end_to_end"]]
    seeds = [row for row in alone if row["way"] == "seed_style"]
    if not seeds:
        return None
    largest = max(seeds, key=lambda row: float(row["median_ms"]))["preset"]
    others = [row for row in alone if row["preset"] == largest and row["precision"] == "fp32" and row["way"] != "seed_style"]
    return max((row["speedup"] for row in others), default=None)


def threads_share(rows: Rows) -> float | None:
    """The least of any runtime."""
    return min((row["times_one_thread"] for row in rows if row["times_one_thread"]), default=None)


LEAST_LOADER = 1.5 if cpu_features().isa.startswith("AVX512") else 1.2
"""On two quiet cores of a Zen 3, which has AVX2 only, `loader.py --quick` finds 1.6; with AVX512 it finds 2.5 and more."""
CHECKS = (
    Check("loader", "hands: the seed's CPU time an image over DALI's", LEAST_LOADER, loader_cpu),
    Check("train_step", "images/s in training, times the seed's", 0.8, training),
    Check("latency", "the fastest fp32 way, batch 1, times the seed's", 0.9, best_fp32),
    Check("embedding", "images/s from four threads over those from one", 0.4, threads_share),
)


def make_checks(rows_by_step: Mapping[str, Rows]) -> list[Checked]:
    """Those of these steps; a step that failed has no rows."""
    return [Checked(check, check.found(rows_by_step[check.step])) for check in CHECKS if check.step in rows_by_step]


def checks_table(checked: Sequence[Checked]) -> str:
    """For people."""
    rows = [
        {
            "check": one.check.words,
            "found": "no figure" if one.found is None else f"{one.found:.2f}",
            "wanted": f">= {one.check.least:g}",
            "": "ok" if one.ok else "FAILED",
        }
        for one in checked
    ]
    return tabulate(rows, headers="keys", disable_numparse=True)
