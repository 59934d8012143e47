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
from pathlib import Path
from typing import Any

from tabulate import tabulate

from hgfast.bench.harness.metric_specs import (
    combine_noise,
    compare_values,
    compared_values,
    has_noise,
    metric_noise,
    metric_spec,
    ratio,
    row_identity,
)
from hgfast.bench.harness.noise import MIN_NOISE
from hgfast.bench.harness.ranking import compare_rankings
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.harness.records import Record, bench_name, read_record, rows_of, without_outputs
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import check_distinct_paths, prepare_file

PRINCETON = "seed_style"  # the baseline's name in rows
MAX_LISTED_ROWS = 12
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
        if self.json is not None:
            check_distinct_paths([("a record to compare", path) for path in self.files], {"--json": self.json})
            prepare_file(self.json, "--json")


@dataclass(frozen=True)
class Change:
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


@dataclass(frozen=True)
class Comparison:
    """The changes of common rows. only_a, only_b: rows with metrics that only one record contains."""

    changes: list[Change]
    only_a: list[RowIdentity]
    only_b: list[RowIdentity]


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


def compare(a: Mapping[RowIdentity, Row], b: Mapping[RowIdentity, Row]) -> Comparison:
    """Compare all metrics of the rows that both records contain."""
    changes = [change for row_id in a if row_id in b for change in compare_rows(row_id, a[row_id], b[row_id])]
    return Comparison(changes, [row_id for row_id in a if row_id not in b], [row_id for row_id in b if row_id not in a])


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


# ---- the report ----


def warnings(a: Record, b: Record, changes: Sequence[Change]) -> list[str]:
    """Return warnings about other differences of the records: machine, versions, command, baseline, missing noise."""
    messages = [
        describe_differences("machines", a["machine"], b["machine"]),
        describe_differences("versions", a["versions"], b["versions"]),
    ]
    commands = [
        (f"commands of {name}" if name else "commands", command_a, command_b)
        for name, command_a, command_b in [("", a["command"], b["command"]), *shared_commands(a, b)]
    ]
    for title, command_a, command_b in commands:
        command_a, command_b = without_outputs(command_a), without_outputs(command_b)
        if shlex.split(command_a) != shlex.split(command_b):
            messages.append(f"the {title} differ: {command_a} and {command_b}")
    messages.append(baseline_warning(changes))
    for name, record in (("A", a), ("B", b)):
        rows = [row for row in record["rows"] if compared_values(row)]
        if rows_without_noise := [row for row in rows if not has_noise(row) and has_timings(row)]:
            messages.append(
                f"{len(rows_without_noise)} rows of {name} do not contain their noise: {MIN_NOISE:.0%} is assumed, or the range "
                "of the rounds if it is recorded and wider"
            )
    return [text for text in messages if text]


def shared_commands(a: Record, b: Record) -> list[tuple[str, str, str]]:
    """Return name, command in A and command in B of each script that both records of run_all.py contain."""
    commands_a, commands_b = a.get("commands", {}), b.get("commands", {})
    return [(name, commands_a[name], commands_b[name]) for name in commands_a if name in commands_b]


def describe_differences(title: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Describe the keys whose values differ, except for measured numbers (floats)."""
    keys = [key for key in dict.fromkeys([*a, *b]) if not any(isinstance(values.get(key), float) for values in (a, b))]
    differences = [f"{key} {a.get(key, 'none')} and {b.get(key, 'none')}" for key in keys if a.get(key) != b.get(key)]
    return f"the {title} differ: {'; '.join(differences)}" if differences else ""


def baseline_warning(changes: Sequence[Change]) -> str:
    """Return a warning if the times of princeton changed: its code does not, so the machine did."""
    baseline_changes = [
        change
        for change in changes
        if PRINCETON in dict(change.identity).values()
        and change.verdict in ("better", "worse")
        and (spec := metric_spec(change.measure, {}))
        and spec.kind == "time"
        and change.ratio
    ]
    if not baseline_changes:
        return ""
    shown = ", ".join(f"{change.measure} x{change.ratio:.2f}" for change in baseline_changes[:3])
    return (
        f"the princeton baseline itself differs by more than noise ({shown}{', …' if len(baseline_changes) > 3 else ''}), so the "
        "machine does: compare the speedups, which are computed within one run"
    )


def has_timings(row: Row) -> bool:
    """Return whether the row has metrics that are subject to noise."""
    specs = [metric_spec(key, row) for key in compared_values(row)]
    return any(spec is not None and spec.noisy for spec in specs)


def summary(comparison: Comparison) -> str:
    """Return the number of changes of each verdict in one line."""
    verdicts = [change.verdict for change in comparison.changes]
    unchanged = verdicts.count("within noise") + verdicts.count("unchanged")
    text = f"{verdicts.count('worse')} worse, {verdicts.count('better')} better, {unchanged} within noise or unchanged"
    missing = sum(verdict.startswith("only") for verdict in verdicts)
    rows = f"{len(comparison.only_a)} rows only in A, {len(comparison.only_b)} only in B"
    return f"{text}; {f'{missing} metrics in one record only; ' if missing else ''}{rows}"


class RowNamer:
    """Name rows by the keys in which they differ from the other rows of their script."""

    def __init__(self, rows: Sequence[RowIdentity]) -> None:
        self._many_scripts = len({dict(row_id)["bench"] for row_id in rows}) > 1
        self._known: dict[str, dict[str, set[Any]]] = {}
        for row_id in rows:
            known = self._known.setdefault(str(dict(row_id)["bench"]), {})
            for key, value in row_id:
                known.setdefault(key, set()).add((type(value), value))
        self._count = {bench: sum(dict(row_id)["bench"] == bench for row_id in rows) for bench in self._known}

    def of(self, row_id: RowIdentity, row: Row | None = None) -> str:
        """Return the name of a row, in the order of the keys of `row` if given."""
        named = dict(row_id)
        bench = str(named.pop("bench"))
        keys = [key for key in row or named if key in named and self._distinguishes(bench, key)]
        row_names = [self._format_value(key, named[key]) for key in keys]
        return ", ".join([*([bench] if self._many_scripts else []), *filter(None, row_names)]) or bench

    def _distinguishes(self, bench: str, key: str) -> bool:
        values = self._known[bench][key]
        return len(values) > 1 or (isinstance(next(iter(values))[1], str) and self._count[bench] == 1)

    def _format_value(self, key: str, value: str | int | bool) -> str:
        if isinstance(value, bool):
            return key.replace("_", " ") if value else ""
        return value if isinstance(value, str) else f"{key.replace('_', ' ')} {value}"


VERDICT_ORDER = ("worse", "better", "only in A", "only in B", "within noise", "unchanged")


def comparison_table(changes: Sequence[Change], row_names: Mapping[RowIdentity, str]) -> str:
    """Format the changes for the terminal, ordered by verdict."""
    cells = [
        {
            "row": row_names[change.identity],
            "metric": change.measure,
            "A": format_number(change.a),
            "B": format_number(change.b),
            "ratio": "" if change.ratio is None else f"{change.ratio:.3f}",
            "noise": "" if change.noise is None else f"{change.noise:.0%}",
            "": change.verdict,
        }
        for change in sorted(changes, key=lambda change: VERDICT_ORDER.index(change.verdict))
    ]
    return tabulate(
        cells, headers="keys", disable_numparse=True, colalign=("left", "left", *["right"] * 4, "left") if cells else None
    )


def format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def list_rows(title: str, rows: Sequence[RowIdentity], row_names: Mapping[RowIdentity, str]) -> list[str]:
    """Return a line that lists rows that only one record contains; no line if there are none."""
    if not rows:
        return []
    more = f", and {len(rows) - MAX_LISTED_ROWS} more" if len(rows) > MAX_LISTED_ROWS else ""
    return [f"{title}: {'; '.join(row_names[row_id] for row_id in rows[:MAX_LISTED_ROWS])}{more}"]


def main() -> None:
    config = parse(CompareConfig, variadic="files", description=__doc__ or "")
    config.validate()
    a, b = (read_record(path) for path in config.files)
    in_a, in_b = rows_by_identity(a, config.files[0]), rows_by_identity(b, config.files[1])
    comparison = compare(in_a, in_b)
    rows = {**in_b, **in_a}
    namer = RowNamer(list(rows))
    row_names = {row_id: namer.of(row_id, row) for row_id, row in rows.items()}
    for name, path, record in zip("AB", config.files, (a, b)):
        print(f"{name}: {path}, {record['date']}, revision {record['revision']}: {record['command']}")
    notes = warnings(a, b, comparison.changes)
    for text in notes:
        print(f"warning: {text}")
    changes = [
        change for change in comparison.changes if not config.changed or change.verdict not in ("within noise", "unchanged")
    ]
    if changes:
        print("\n" + comparison_table(changes, row_names) + "\n")
    unmatched = [*list_rows("only in A", comparison.only_a, row_names), *list_rows("only in B", comparison.only_b, row_names)]
    rankings = [text for text in [compare_rankings(rows_of(a, "latency"), rows_of(b, "latency"))] if text]
    print(*unmatched, summary(comparison), *rankings, sep="\n", flush=True)
    if config.json is not None:
        write_record(make_comparison_record(config, comparison, row_names, notes, rankings), config.json)
        print(f"record: {config.json}")
    if config.fail and any(change.verdict == "worse" for change in comparison.changes):
        raise SystemExit(1)


def make_comparison_record(
    config: CompareConfig,
    comparison: Comparison,
    row_names: Mapping[RowIdentity, str],
    notes: Sequence[str],
    rankings: Sequence[str],
) -> dict[str, Any]:
    """Return the comparison as a record with one row per metric."""
    rows = [
        {
            **dict(change.identity),
            "row": row_names[change.identity],
            "figure": change.measure,
            "a": change.a,
            "b": change.b,
            "ratio": change.ratio,
            "noise": change.noise,
            "verdict": change.verdict,
        }
        for change in comparison.changes
    ]
    more = {"a": str(config.files[0]), "b": str(config.files[1]), "warnings": list(notes)}
    more |= {
        f"only_in_{name}": [row_names[row_id] for row_id in row_ids]
        for name, row_ids in (("a", comparison.only_a), ("b", comparison.only_b))
    }
    return {**make_record(rows, machine_info(), conclusions=[summary(comparison), *rankings]), **more}


if __name__ == "__main__":
    run_main(main)
