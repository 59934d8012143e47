"""Specify the metrics of record rows: which keys are metrics, which direction is better, and which differences count.

The `noise` of a row is the relative error of its times. Rows of old records lack it; for them 5 % is assumed, or the range of
the rounds from lowest to highest if the row contains it and it is wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, log1p, sqrt
from typing import Any, Literal

from hgfast.bench.harness.noise import MIN_NOISE
from hgfast.bench.harness.record import Row

Direction = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "within noise", "unchanged"]
RATIO_NOISE_FACTOR = sqrt(2)  # noise of a ratio of two values relative to that of one value


@dataclass(frozen=True)
class MetricSpec:
    """A metric. kind: when two values differ:

    - time: by more than the noise of both rows.
    - times: a ratio to another row of the same run; by more than the noise, which is that of two values.
    - extra: as times, but relative to 1: 0 means equal to the other row.
    - exact: by more than `min_change`, which is rounding.
    - memory: by more than 10 % and more than `min_change`.
    """

    better: Direction
    kind: Literal["time", "times", "extra", "memory", "exact"]
    min_change: float = 0.0

    @property
    def noisy(self) -> bool:
        return self.kind in ("time", "times", "extra")


MIN_MEMORY_CHANGE = 0.1
PIXEL_ROUNDING, CELL_ROUNDING, ACCURACY_ROUNDING = 1e-3, 1e-4, 1e-5
"""Differences that are rounding: of distances in pixels, of distances in cells, of accuracy."""
BODY_GROUPS = "head shoulder elbow wrist hip knee ankle"
METRICS: dict[str, MetricSpec] = {
    key: spec
    for keys, spec in {
        "images_per_s": MetricSpec("higher", "time"),
        "median_ms gpu_ms cpu_ms_per_image step_ms loader_ms": MetricSpec("lower", "time"),
        "speedup step_speedup loader_speedup times_seed_style times_one_thread": MetricSpec("higher", "times"),
        "overhead": MetricSpec("lower", "extra"),
        "memory_mb start_memory_mb gpu_mb": MetricSpec("lower", "memory", 10),
        "memory_gb": MetricSpec("lower", "memory", 0.01),
        "growth_kb": MetricSpec("lower", "memory", 5000),
        "max_px_error mean_px_error mean_px p99_px max_px over_1px_percent": MetricSpec("lower", "exact", PIXEL_ROUNDING),
        "largest_error": MetricSpec("lower", "exact", CELL_ROUNDING),
        "not_finite": MetricSpec("lower", "exact"),
        f"auc pooled16@0.5 mean14@0.5 {BODY_GROUPS}": MetricSpec("higher", "exact", ACCURACY_ROUNDING),
    }.items()
    for key in keys.split()
}
METRIC_PREFIXES = {
    "error_": MetricSpec("lower", "exact", CELL_ROUNDING),
    "epe_": MetricSpec("lower", "exact", PIXEL_ROUNDING),
    **dict.fromkeys(("pck@", "pck_", "pckh@", "auc_"), MetricSpec("higher", "exact", ACCURACY_ROUNDING)),
}
"""Metrics by the prefix of their key."""
REDUNDANT_WITH = {"images_per_s": "median_ms"}
"""Metrics that follow from another metric of the same row."""
IGNORED_KEYS = {
    *("noise", "speedup_noise", "rounds", "note", "reason"),
    *("images_per_s_min", "images_per_s_max", "p90_ms", "p99_ms", "times_seed_style_originals"),
    *("floor_ms", "eager_memory_ms", "conv_memory_ms"),
    *("files_before", "files_after", "images_seen"),
}
"""Keys that are neither metrics nor part of a row's identity."""


def metric_spec(key: str, row: Row) -> MetricSpec | None:
    """Return the spec of a key, or None if it is not a metric. `value` of bench/recipes.py is the row's `metric`."""
    if key == "value":
        return metric_spec(str(row.get("metric")), {})
    return METRICS.get(key) or next((spec for prefix, spec in METRIC_PREFIXES.items() if key.startswith(prefix)), None)


def metric_values(row: Row) -> dict[str, float]:
    """Return the metrics of a row that are numbers."""
    return {key: float(value) for key, value in row.items() if is_number(value) and metric_spec(key, row) is not None}


def compared_values(row: Row) -> dict[str, float]:
    """Return the metrics of a row without redundant ones."""
    values = metric_values(row)
    return {key: value for key, value in values.items() if REDUNDANT_WITH.get(key) not in values}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def row_identity(row: Row) -> dict[str, str | int | bool]:
    """Return the keys that identify a row: strings, booleans and integers that are not metrics."""
    keys = [key for key in row if key not in IGNORED_KEYS and metric_spec(key, row) is None]
    return {key: row[key] for key in keys if isinstance(row[key], str | int | bool)}


def has_noise(row: Row) -> bool:
    return is_number(row.get("noise"))


def metric_noise(row: Row, key: str, spec: MetricSpec) -> float:
    """Return the relative error of a metric of a row."""
    if spec.kind == "times" and key == "speedup" and is_number(row.get("speedup_noise")):
        return float(row["speedup_noise"])
    noise = float(row["noise"]) if has_noise(row) else max(MIN_NOISE, rounds_range(row))
    return noise if spec.kind == "time" else RATIO_NOISE_FACTOR * noise


def rounds_range(row: Mapping[str, Any]) -> float:
    """Return how much the highest round exceeds the lowest, relative to the lowest; 0 if the row does not contain them."""
    ends = [(row[f"{key}_min"], row[f"{key}_max"]) for key in METRICS if f"{key}_min" in row and f"{key}_max" in row]
    return max((high / low - 1 for low, high in ends if low and high), default=0.0)


def ratio(a: float, b: float, spec: MetricSpec) -> float | None:
    """Return b / a, or None if a is 0."""
    base, value = (1 + a, 1 + b) if spec.kind == "extra" else (a, b)
    return value / base if base > 0 else None


def compare_values(a: float, b: float, spec: MetricSpec, noise: float) -> Verdict:
    """Return whether b is better or worse than a. `noise`: of both values together (see `combine_noise`)."""
    if spec.noisy:
        factor = ratio(a, b, spec)
        unchanged: Verdict = "within noise"
        differs = factor is None or factor <= 0 or abs(log(factor)) > log1p(noise)
    else:
        unchanged = "unchanged"
        differs = abs(b - a) > spec.min_change + 1e-12
        differs = differs and (spec.kind == "exact" or abs(b - a) > MIN_MEMORY_CHANGE * abs(a))
    if not differs:
        return unchanged
    return "better" if (b > a) == (spec.better == "higher") else "worse"


def combine_noise(noise_a: float, noise_b: float) -> float:
    """Return the relative difference that two values with these relative errors must exceed."""
    return sqrt(noise_a**2 + noise_b**2)
