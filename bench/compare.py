"""Compare two benchmark records and report the changes that exceed noise.

    python bench/compare.py before.json after.json
    python bench/compare.py before.json after.json --changed --fail --json difference.json

A record is the --json output of any script in bench/. Rows with equal identities are compared metric by metric. A change is
reported if times differ by more than the noise of both rows, accuracy by more than rounding, or memory by more than 10 %. The
ratio is the value of the second record divided by that of the first. Times of two runs also depend on the load of the machine;
speedups are computed within one run. For latency rows, the rankings of the variants are compared too.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from hgfast.bench.harness.config import check_outputs
from hgfast.bench.harness.metric_specs import (
    METRICS,
    Verdict,
    combine_noise,
    compare_values,
    compared_values,
    has_noise,
    is_number,
    metric_noise,
    metric_spec,
    ratio,
    row_identity,
)
from hgfast.bench.harness.noise import MIN_NOISE
from hgfast.bench.harness.record import (
    Record,
    Row,
    bench_name,
    machine_info,
    make_record,
    read_record,
    rows_of,
    without_outputs,
    write_record,
)
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError

PRINCETON = "seed_style"  # the baseline's name in rows
MAX_LISTED_ROWS = 12
UNCHANGED = ("within noise", "unchanged")
VERDICT_ORDER = ("worse", "better", "only in A", "only in B", *UNCHANGED)
RECORD_KEYS = ("figure", "a", "b", "ratio", "noise", "verdict")
"""Keys of the fields of `Change` in the record, after its identity."""
RowIdentity = tuple[tuple[str, str | int | bool], ...]


@dataclass(kw_only=True)
class CompareConfig:
    """Settings of a comparison."""

    files: list[Path] = field(default_factory=list)
    """the record before and the record after the change"""
    changed: bool = False
    """omit metrics that are within noise from the table"""
    fail: bool = False
    """exit with 1 if a metric is worse"""
    json: Path | None = None
    """write the comparison to this file"""

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings."""
        if len(self.files) != 2:
            raise HgfastError(f"bench/compare.py needs two records, got {len(self.files)}: give before.json after.json")
        check_outputs([("a record to compare", path) for path in self.files], json=self.json)


class Change(NamedTuple):
    """A metric of a row in both records.

    noise: relative difference that a change must exceed; None for metrics without noise. ratio: b / a, if both are known.
    """

    identity: RowIdentity
    measure: str
    a: float | None
    b: float | None
    ratio: float | None
    noise: float | None
    verdict: str


def main() -> None:
    config = parse(CompareConfig, variadic="files", description=__doc__ or "")
    config.validate()
    a, b = (read_record(path) for path in config.files)
    in_a, in_b = (rows_by_identity(record, path) for record, path in zip((a, b), config.files))
    changes = [change for row_id in in_a if row_id in in_b for change in compare_rows(row_id, in_a[row_id], in_b[row_id])]
    names = name_rows({**in_b, **in_a})
    unmatched = {
        "A": [names[row_id] for row_id in in_a if row_id not in in_b],
        "B": [names[row_id] for row_id in in_b if row_id not in in_a],
    }
    for name, path, record in zip("AB", config.files, (a, b)):
        print(f"{name}: {path}, {record['date']}, revision {record['revision']}: {record['command']}")
    notes = warnings(a, b, changes)
    for text in notes:
        print(f"warning: {text}")
    if shown := [change for change in changes if not config.changed or change.verdict not in UNCHANGED]:
        print("\n" + comparison_table(shown, names) + "\n")
    for name, row_names in unmatched.items():
        if row_names:
            more = f", and {len(row_names) - MAX_LISTED_ROWS} more" if len(row_names) > MAX_LISTED_ROWS else ""
            print(f"only in {name}: {'; '.join(row_names[:MAX_LISTED_ROWS])}{more}")
    conclusions = [summary(changes, unmatched), compare_rankings(rows_of(a, "latency"), rows_of(b, "latency"))]
    conclusions = [text for text in conclusions if text]
    print(*conclusions, sep="\n", flush=True)
    if config.json is not None:
        rows = [{**dict(c.identity), "row": names[c.identity], **dict(zip(RECORD_KEYS, c[1:]))} for c in changes]
        more_keys: Row = {"a": str(config.files[0]), "b": str(config.files[1]), "warnings": notes}
        more_keys |= {f"only_in_{name.lower()}": row_names for name, row_names in unmatched.items()}
        write_record({**make_record(rows, machine_info(), conclusions=conclusions), **more_keys}, config.json)
    if config.fail and any(change.verdict == "worse" for change in changes):
        raise SystemExit(1)


# ---- matching rows ----


def rows_by_identity(record: Record, path: Path) -> dict[RowIdentity, Row]:
    """Return the rows that have metrics. Raises `HgfastError` if two rows have the same identity."""
    rows: dict[RowIdentity, Row] = {}
    for row in record["rows"]:
        if not compared_values(row):
            continue
        row_id: RowIdentity = tuple(sorted({"bench": bench_name(record, row), **row_identity(row)}.items()))
        if row_id in rows:
            description = ", ".join(f"{key} {value}" for key, value in row_id)
            raise HgfastError(f"{path} has two rows with the same identity ({description}): remove one of them")
        rows[row_id] = row
    return rows


def compare_rows(row_id: RowIdentity, a: Row, b: Row) -> list[Change]:
    """Compare the metrics of two rows; a metric that only one row has is listed too."""
    in_a, in_b = compared_values(a), compared_values(b)
    changes = []
    for key in dict.fromkeys([*in_a, *in_b]):
        if key not in in_a or key not in in_b:
            record_name = "A" if key in in_a else "B"
            changes.append(Change(row_id, key, in_a.get(key), in_b.get(key), None, None, f"only in {record_name}"))
            continue
        spec = metric_spec(key, a)
        assert spec is not None  # compared_values returns metrics only
        noise = combine_noise(metric_noise(a, key, spec), metric_noise(b, key, spec))
        verdict = compare_values(in_a[key], in_b[key], spec, noise)
        factor = ratio(in_a[key], in_b[key], spec)
        changes.append(Change(row_id, key, in_a[key], in_b[key], factor, noise if spec.noisy else None, verdict))
    return changes


def name_rows(rows: Mapping[RowIdentity, Row]) -> dict[RowIdentity, str]:
    """Name rows by the keys in which they differ from the other rows of their script."""
    by_bench: dict[str, list[dict[str, Any]]] = {}
    for row_id in rows:
        identity = dict(row_id)
        by_bench.setdefault(str(identity["bench"]), []).append(identity)
    names = {}
    for row_id, row in rows.items():
        identity = dict(row_id)
        bench = str(identity.pop("bench"))
        others = by_bench[bench]
        parts = [bench] if len(by_bench) > 1 else []
        for key in [key for key in row if key in identity]:  # in the order of the row
            value = identity[key]
            values = {(type(other[key]), other[key]) for other in others if key in other}
            if len(values) == 1 and (len(others) > 1 or not isinstance(value, str)):
                continue
            if isinstance(value, bool):
                parts += [key.replace("_", " ")] * value
            else:
                parts.append(value if isinstance(value, str) else f"{key.replace('_', ' ')} {value}")
        names[row_id] = ", ".join(filter(None, parts)) or bench
    return names


# ---- the report ----


def warnings(a: Record, b: Record, changes: Sequence[Change]) -> list[str]:
    """Return warnings about other differences of the records: machine, versions, command, baseline, missing noise."""
    keys = {"machines": "machine", "versions": "versions"}
    messages = [describe_differences(title, a[key], b[key]) for title, key in keys.items()]
    commands = [("commands", a["command"], b["command"])]
    steps_a, steps_b = a.get("commands", {}), b.get("commands", {})  # of run_all.py
    commands += [(f"commands of {name}", steps_a[name], steps_b[name]) for name in steps_a if name in steps_b]
    for title, command_a, command_b in commands:
        command_a, command_b = without_outputs(command_a), without_outputs(command_b)
        if shlex.split(command_a) != shlex.split(command_b):
            messages.append(f"the {title} differ: {command_a} and {command_b}")
    messages.append(baseline_warning(changes))
    for name, record in (("A", a), ("B", b)):
        count = sum(has_timings(row) and not has_noise(row) for row in record["rows"])
        if count:
            messages.append(
                f"{count} rows of {name} do not contain their noise: {MIN_NOISE:.0%} is assumed, or the range of the rounds if "
                "it is recorded and wider"
            )
    return [text for text in messages if text]


def describe_differences(title: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Describe the keys whose values differ, except for measured numbers (floats)."""
    keys = [key for key in dict.fromkeys([*a, *b]) if not any(isinstance(values.get(key), float) for values in (a, b))]
    differences = [f"{key} {a.get(key, 'none')} and {b.get(key, 'none')}" for key in keys if a.get(key) != b.get(key)]
    return f"the {title} differ: {'; '.join(differences)}" if differences else ""


def baseline_warning(changes: Sequence[Change]) -> str:
    """Return a warning if the times of princeton changed: its code does not, so the machine did."""
    times = [change for change in changes if (spec := metric_spec(change.measure, {})) and spec.kind == "time" and change.ratio]
    changed = [c for c in times if PRINCETON in dict(c.identity).values() and c.verdict in ("better", "worse")]
    if not changed:
        return ""
    shown = ", ".join(f"{change.measure} x{change.ratio:.2f}" for change in changed[:3])
    return (
        f"the princeton baseline itself differs by more than noise ({shown}{', …' if len(changed) > 3 else ''}), so the "
        "machine does: compare the speedups, which are computed within one run"
    )


def has_timings(row: Row) -> bool:
    """Return whether the row has metrics that are subject to noise."""
    return any((spec := metric_spec(key, row)) is not None and spec.noisy for key in compared_values(row))


def summary(changes: Sequence[Change], unmatched: Mapping[str, Sequence[str]]) -> str:
    """Return the number of changes of each verdict in one line."""
    verdicts = [change.verdict for change in changes]
    missing = sum(verdict.startswith("only") for verdict in verdicts)
    return (
        f"{verdicts.count('worse')} worse, {verdicts.count('better')} better, "
        f"{sum(map(verdicts.count, UNCHANGED))} within noise or unchanged; "
        f"{f'{missing} metrics in one record only; ' if missing else ''}"
        f"{len(unmatched['A'])} rows only in A, {len(unmatched['B'])} only in B"
    )


def comparison_table(changes: Sequence[Change], row_names: Mapping[RowIdentity, str]) -> str:
    """Format the changes for the terminal, ordered by verdict."""
    cells = [
        {
            "row": row_names[change.identity],
            "metric": change.measure,
            "A": "" if change.a is None else f"{change.a:.6g}",
            "B": "" if change.b is None else f"{change.b:.6g}",
            "ratio": "" if change.ratio is None else f"{change.ratio:.3f}",
            "noise": "" if change.noise is None else f"{change.noise:.0%}",
            "": change.verdict,
        }
        for change in sorted(changes, key=lambda change: VERDICT_ORDER.index(change.verdict))
    ]
    return tabulate(cells, headers="keys", disable_numparse=True, colalign=("left", "left", *["right"] * 4, "left"))


# ---- rankings of the variants of latency.py ----

CONTEXT_KEYS = ("preset", "size", "batch", "threads", "end_to_end", "device")
"""Rows with equal values of these keys were measured in the same rounds."""
VARIANT_KEYS = ("way", "precision", "file")


def compare_rankings(a: Sequence[Row], b: Sequence[Row]) -> str:
    """Describe how many pairs of variants both runs distinguish and how many they order differently; "" without pairs.

    A run distinguishes two variants if their times differ by more than the noise of both in that run.
    """
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


if __name__ == "__main__":
    run_main(main)
