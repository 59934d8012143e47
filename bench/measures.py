"""Which keys of a record's rows are figures, which way they are better, and what a difference must exceed to be one.

A row's `noise` is the share by which its times may be off. Rows of old records lack it: five in a hundred are taken then, or the
whole range of the rounds, lowest to highest, where the row has that and it is wider.
What may enter: the table of figures and the arithmetic of their differences; no files and no tables for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, log1p, sqrt
from typing import Any, Literal

from noise import FLOOR
from record import Row

Better = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "within noise", "unchanged"]
BOTH = sqrt(2)  # the noise of a ratio of two figures over that of one


@dataclass(frozen=True)
class Measure:
    """A figure. kind: what it differs by:

    time: more than the noise of both rows. times: a ratio to another row of the same run, likewise, but it has the noise of two.
    extra: likewise, but 0 is what the other row takes. exact: more than `least`, which is rounding.
    memory: more than a tenth, and more than `least`.
    """

    better: Better
    kind: Literal["time", "times", "extra", "memory", "exact"]
    least: float = 0.0

    @property
    def noisy(self) -> bool:
        return self.kind in ("time", "times", "extra")


PIXELS, CELLS, POINT = 1e-3, 1e-4, 1e-5  # of accuracy, what is rounding; the last is a thousandth of a point of a hundred
MEMORY_SHARE = 0.1

MEASURES: dict[str, Measure] = {
    "images_per_s": Measure("higher", "time"),
    "median_ms": Measure("lower", "time"),
    "gpu_ms": Measure("lower", "time"),
    "cpu_ms_per_image": Measure("lower", "time"),
    "step_ms": Measure("lower", "time"),
    "loader_ms": Measure("lower", "time"),
    "speedup": Measure("higher", "times"),
    "step_speedup": Measure("higher", "times"),
    "loader_speedup": Measure("higher", "times"),
    "times_seed_style": Measure("higher", "times"),
    "times_one_thread": Measure("higher", "times"),
    "overhead": Measure("lower", "extra"),
    "memory_mb": Measure("lower", "memory", 10),
    "start_memory_mb": Measure("lower", "memory", 10),
    "gpu_mb": Measure("lower", "memory", 10),
    "memory_gb": Measure("lower", "memory", 0.01),
    "growth_kb": Measure("lower", "memory", 5000),
    "max_px_error": Measure("lower", "exact", PIXELS),
    "mean_px_error": Measure("lower", "exact", PIXELS),
    "mean_px": Measure("lower", "exact", PIXELS),
    "p99_px": Measure("lower", "exact", PIXELS),
    "max_px": Measure("lower", "exact", PIXELS),
    "over_1px_percent": Measure("lower", "exact", PIXELS),
    "largest_error": Measure("lower", "exact", CELLS),
    "not_finite": Measure("lower", "exact"),
    **dict.fromkeys(("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"), Measure("higher", "exact", POINT)),
    **dict.fromkeys(("auc", "pooled16@0.5", "mean14@0.5"), Measure("higher", "exact", POINT)),
}
FAMILIES: dict[str, Measure] = {
    "error_": Measure("lower", "exact", CELLS),
    "epe_": Measure("lower", "exact", PIXELS),
    "pck@": Measure("higher", "exact", POINT),
    "pck_": Measure("higher", "exact", POINT),
    "pckh@": Measure("higher", "exact", POINT),
    "auc_": Measure("higher", "exact", POINT),
}
"""By how their names begin."""
TOLD_BY = {"images_per_s": "median_ms"}
"""Figures that say nothing which another of the same row does not."""
ABOUT = {
    *("noise", "speedup_noise", "rounds", "note", "reason"),
    *("images_per_s_min", "images_per_s_max", "p90_ms", "p99_ms", "floor_ms", "times_seed_style_originals"),
    *("files_before", "files_after", "images_seen"),
}
"""Keys that neither are compared nor say which row it is."""


def measure_of(key: str, row: Row) -> Measure | None:
    """What a key of a row is, if it is a figure. `value` of bench/recipes.py is of the metric that its row names."""
    if key == "value":
        return measure_of(str(row.get("metric")), {})
    return MEASURES.get(key) or next((found for start, found in FAMILIES.items() if key.startswith(start)), None)


def figures(row: Row) -> dict[str, float]:
    """The figures of a row that are numbers."""
    return {key: float(value) for key, value in row.items() if is_number(value) and measure_of(key, row) is not None}


def compared(row: Row) -> dict[str, float]:
    """Those of them that are worth comparing."""
    found = figures(row)
    return {key: value for key, value in found.items() if TOLD_BY.get(key) not in found}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def identity(row: Row) -> dict[str, str | int | bool]:
    """What says which row it is: words, switches and whole numbers that are no figures."""
    keys = [key for key in row if key not in ABOUT and measure_of(key, row) is None]
    return {key: row[key] for key in keys if isinstance(row[key], str | int | bool)}


def says_noise(row: Row) -> bool:
    return is_number(row.get("noise"))


def noise_of(row: Row, key: str, measure: Measure) -> float:
    """By what share a figure of a row may be off."""
    if measure.kind == "times" and key == "speedup" and is_number(row.get("speedup_noise")):
        return float(row["speedup_noise"])
    share = float(row["noise"]) if says_noise(row) else max(FLOOR, range_of(row))
    return share if measure.kind == "time" else BOTH * share


def range_of(row: Mapping[str, Any]) -> float:
    """By what share the highest round of a row is above the lowest; 0 where it does not have them."""
    ends = [(row[f"{key}_min"], row[f"{key}_max"]) for key in MEASURES if f"{key}_min" in row and f"{key}_max" in row]
    return max((high / low - 1 for low, high in ends if low and high), default=0.0)


def ratio(a: float, b: float, measure: Measure) -> float | None:
    """B as a multiple of A; None where A is none of something."""
    one, other = (1 + a, 1 + b) if measure.kind == "extra" else (a, b)
    return other / one if one > 0 else None


def judge(a: float, b: float, measure: Measure, noise: float) -> Verdict:
    """Is B better? `noise`: of both figures together, as `between` has it."""
    if measure.noisy:
        times = ratio(a, b, measure)
        alike: Verdict = "within noise"
        differs = times is None or times <= 0 or abs(log(times)) > log1p(noise)
    else:
        alike = "unchanged"
        differs = abs(b - a) > measure.least + 1e-12
        differs = differs and (measure.kind == "exact" or abs(b - a) > MEMORY_SHARE * abs(a))
    if not differs:
        return alike
    return "better" if (b > a) == (measure.better == "higher") else "worse"


def between(noise_a: float, noise_b: float) -> float:
    """By what share two figures must differ that may be off by these."""
    return sqrt(noise_a**2 + noise_b**2)
