"""Whether two runs of bench/latency.py put the ways to run a network in the same order.

A pair of ways is told apart by a run where their times differ by more than the noise of both that the run states.
What may enter: comparing orders; differences of figures are `compare`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from measures import MEASURES, Verdict, between, is_number, judge
from record import Row

GROUP = ("preset", "size", "batch", "threads", "end_to_end", "device")
"""Rows that are alike in these are of one contest."""
WAY = ("way", "precision", "file")


def order(a: Sequence[Row], b: Sequence[Row]) -> str:
    """What to say of the pairs that both runs tell apart; "" where there are none to be looked at."""
    pairs, told, other = 0, 0, list[str]()
    times_a, times_b = contests(a), contests(b)
    for contest in [one for one in times_a if one in times_b]:
        ways = [way for way in times_a[contest] if way in times_b[contest]]
        for one, two in combinations(ways, 2):
            pairs += 1
            verdicts = [judged(times[contest][one], times[contest][two]) for times in (times_a, times_b)]
            if "within noise" not in verdicts:
                told += 1
                if verdicts[0] != verdicts[1]:
                    other.append(f"{' '.join(one[:2])} and {' '.join(two[:2])}, {contest[0]}, {contest[2]} at once")
    if not pairs:
        return ""
    said = "all in the same order" if not other else f"{len(other)} in another order: {'; '.join(other)}"
    return f"order: of {pairs} pairs of ways both runs tell {told} apart, {said}"


def contests(rows: Sequence[Row]) -> Mapping[tuple[object, ...], Mapping[tuple[str, ...], Row]]:
    """The rows with times that say how noisy these are, by contest and way."""
    found: dict[tuple[object, ...], dict[tuple[str, ...], Row]] = {}
    for row in rows:
        if is_number(row.get("median_ms")) and is_number(row.get("noise")):
            way = tuple(str(row.get(key)) for key in WAY)
            found.setdefault(tuple(row.get(key) for key in GROUP), {})[way] = row
    return found


def judged(one: Row, two: Row) -> Verdict:
    """Is the second way of a run faster than the first?"""
    return judge(one["median_ms"], two["median_ms"], MEASURES["median_ms"], between(one["noise"], two["noise"]))
