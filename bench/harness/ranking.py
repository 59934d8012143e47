"""Compare the rankings of the variants in two runs of bench/latency.py.

A run distinguishes two variants if their times differ by more than the noise of both in that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from hgfast.bench.harness.metric_specs import METRICS, Verdict, combine_noise, compare_values, is_number
from hgfast.bench.harness.record import Row

CONTEXT_KEYS = ("preset", "size", "batch", "threads", "end_to_end", "device")
"""Rows with equal values of these keys were measured in the same rounds."""
VARIANT_KEYS = ("way", "precision", "file")


def compare_rankings(a: Sequence[Row], b: Sequence[Row]) -> str:
    """Describe how many pairs of variants both runs distinguish and how many they order differently; "" without pairs."""
    pairs, distinct, reversed_pairs = 0, 0, list[str]()
    rows_a, rows_b = rows_by_context(a), rows_by_context(b)
    for context in [first for first in rows_a if first in rows_b]:
        variants = [variant for variant in rows_a[context] if variant in rows_b[context]]
        for first, second in combinations(variants, 2):
            pairs += 1
            verdicts = [compare_pair(times[context][first], times[context][second]) for times in (rows_a, rows_b)]
            if "within noise" not in verdicts:
                distinct += 1
                if verdicts[0] != verdicts[1]:
                    reversed_pairs.append(f"{' '.join(first[:2])} and {' '.join(second[:2])}, {context[0]}, batch {context[2]}")
    if not pairs:
        return ""
    verdict = "all in the same order" if not reversed_pairs else f"{len(reversed_pairs)} reversed: {'; '.join(reversed_pairs)}"
    return f"ranking: both runs distinguish {distinct} of {pairs} pairs of variants, {verdict}"


def rows_by_context(rows: Sequence[Row]) -> Mapping[tuple[object, ...], Mapping[tuple[str, ...], Row]]:
    """Return the rows that have times and noise, by context (`CONTEXT_KEYS`) and variant (`VARIANT_KEYS`)."""
    rows_by_variant: dict[tuple[object, ...], dict[tuple[str, ...], Row]] = {}
    for row in rows:
        if is_number(row.get("median_ms")) and is_number(row.get("noise")):
            variant = tuple(str(row.get(key)) for key in VARIANT_KEYS)
            rows_by_variant.setdefault(tuple(row.get(key) for key in CONTEXT_KEYS), {})[variant] = row
    return rows_by_variant


def compare_pair(a: Row, b: Row) -> Verdict:
    """Return whether variant b is faster ("better") or slower ("worse") than variant a of the same run."""
    return compare_values(a["median_ms"], b["median_ms"], METRICS["median_ms"], combine_noise(a["noise"], b["noise"]))
