"""What got better or worse from one record to another, beyond noise.

    python bench/compare.py before.json after.json
    python bench/compare.py before.json after.json --changed --fail --json difference.json

Records are what any script here has written with --json. Rows that say the same of themselves are compared, figure by figure:
times by more than the noise of both, accuracy by more than rounding, memory by more than a tenth. The ratio is the second
record's over the first's. Times of two runs also differ by what else the machine had to do; speed-ups are of one run each. Of
latency it says whether both have the ways in the same order.
What may enter: the flags, finding the rows that belong together, and what is said about them. Figures are `measures`'.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measures import between, compared, identity, judge, measure_of, noise_of, ratio, says_noise
from noise import FLOOR
from order import order
from record import Row, machine, make_record, write_record
from records import Record, bench_of, read_record, rows_of, without_outputs
from tabulate import tabulate

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.files import check_apart, prepare_file

SEED = "seed_style"  # the row that others are beside
MOST_NAMED = 12  # rows that only one record has
Identity = tuple[tuple[str, str | int | bool], ...]


@dataclass(kw_only=True)
class CompareConfig:
    """One comparison of two records."""

    files: list[Path] = field(default_factory=list)
    """the record from before and the one from after"""
    changed: bool = False
    """leave out of the table what is within noise"""
    fail: bool = False
    """end with 1 where something got worse"""
    json: Path | None = None
    """write the comparison here"""

    def validate(self) -> None:
        """Raise `HgfastError` for what does not go together."""
        if len(self.files) != 2:
            raise HgfastError(f"two records are compared, {len(self.files)} given: bench/compare.py before.json after.json")
        if self.json is not None:
            check_apart([("a record to compare", path) for path in self.files], {"--json": self.json})
            prepare_file(self.json, "--json")


@dataclass(frozen=True)
class Line:
    """A figure of a row in both records. noise: by what share it must differ, None where noise says nothing of it."""

    identity: Identity
    measure: str
    a: float | None
    b: float | None
    ratio: float | None
    noise: float | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """only_a, only_b: the rows, with figures, that only one of the records has."""

    lines: list[Line]
    only_a: list[Identity]
    only_b: list[Identity]


# ---- rows that belong together ----


def rows_by_identity(record: Record, path: Path) -> dict[Identity, Row]:
    """The rows that have figures. Raises `HgfastError` where two cannot be told apart."""
    found: dict[Identity, Row] = {}
    for row in record["rows"]:
        if not compared(row):
            continue
        who: Identity = tuple(sorted({"bench": bench_of(record, row), **identity(row)}.items()))
        if who in found:
            words = ", ".join(f"{key} {value}" for key, value in who)
            raise HgfastError(f"{path} has two rows that say the same of themselves ({words}): which of them is meant is unknown")
        found[who] = row
    return found


def compare(a: Mapping[Identity, Row], b: Mapping[Identity, Row]) -> Comparison:
    """All figures of the rows that both have."""
    lines = [line for who in a if who in b for line in compare_rows(who, a[who], b[who])]
    return Comparison(lines, [who for who in a if who not in b], [who for who in b if who not in a])


def compare_rows(who: Identity, a: Row, b: Row) -> list[Line]:
    """The figures of two rows; what only one has is named too."""
    in_a, in_b = compared(a), compared(b)
    lines = []
    for key in dict.fromkeys([*in_a, *in_b]):
        if key not in in_a or key not in in_b:
            there = "A" if key in in_a else "B"
            lines.append(Line(who, key, in_a.get(key), in_b.get(key), None, None, f"only in {there}"))
            continue
        measure = measure_of(key, a)
        assert measure is not None  # or it were none of the figures
        share = between(noise_of(a, key, measure), noise_of(b, key, measure))
        verdict = judge(in_a[key], in_b[key], measure, share)
        times = ratio(in_a[key], in_b[key], measure)
        lines.append(Line(who, key, in_a[key], in_b[key], times, share if measure.noisy else None, verdict))
    return lines


# ---- what is said ----


def warnings(a: Record, b: Record, lines: Sequence[Line]) -> list[str]:
    """What else differs than what was to be compared."""
    said = [differences("machines", a["machine"], b["machine"]), differences("versions", a["versions"], b["versions"])]
    commands = [
        (f"commands of {name}" if name else "commands", one, other)
        for name, one, other in [("", a["command"], b["command"]), *both_commands(a, b)]
    ]
    for what, one, other in commands:
        one, other = without_outputs(one), without_outputs(other)
        if shlex.split(one) != shlex.split(other):
            said.append(f"the {what} differ: {one} and {other}")
    said.append(baseline(lines))
    for name, record in (("A", a), ("B", b)):
        rows = [row for row in record["rows"] if compared(row)]
        if silent := [row for row in rows if not says_noise(row) and times_of(row)]:
            said.append(
                f"{len(silent)} rows of {name} do not say how noisy their times are: {FLOOR:.0%} is taken, or the whole range of "
                "the rounds where that is noted and wider"
            )
    return [text for text in said if text]


def both_commands(a: Record, b: Record) -> list[tuple[str, str, str]]:
    """The commands of the scripts that two records of all.py have."""
    one, other = a.get("commands", {}), b.get("commands", {})
    return [(name, one[name], other[name]) for name in one if name in other]


def differences(what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The keys that differ, but for numbers that are measured."""
    keys = [key for key in dict.fromkeys([*a, *b]) if not any(isinstance(one.get(key), float) for one in (a, b))]
    found = [f"{key} {a.get(key, 'none')} and {b.get(key, 'none')}" for key in keys if a.get(key) != b.get(key)]
    return f"the {what} differ: {'; '.join(found)}" if found else ""


def baseline(lines: Sequence[Line]) -> str:
    """Whether the seed's way, whose code does not change, took another time."""
    own = [line for line in lines if SEED in dict(line.identity).values() and line.verdict in ("better", "worse")]
    own = [line for line in own if (measure := measure_of(line.measure, {})) and measure.kind == "time" and line.ratio]
    if not own:
        return ""
    shown = ", ".join(f"{line.measure} x{line.ratio:.2f}" for line in own[:3])
    return (
        f"the seed's way itself differs by more than noise ({shown}{', …' if len(own) > 3 else ''}), so the machine does: "
        "look at the speed-ups, which are of one run each"
    )


def times_of(row: Row) -> bool:
    """Has it figures that noise says something of?"""
    found = [measure_of(key, row) for key in compared(row)]
    return any(one is not None and one.noisy for one in found)


def summary(found: Comparison) -> str:
    """The counts."""
    verdicts = [line.verdict for line in found.lines]
    alike = verdicts.count("within noise") + verdicts.count("unchanged")
    text = f"{verdicts.count('worse')} worse, {verdicts.count('better')} better, {alike} within noise or unchanged"
    missing = sum(verdict.startswith("only") for verdict in verdicts)
    rows = f"{len(found.only_a)} rows only in A, {len(found.only_b)} only in B"
    return f"{text}; {f'{missing} figures of one record only; ' if missing else ''}{rows}"


class Words:
    """Names rows by what tells them from the other rows of their script."""

    def __init__(self, rows: Sequence[Identity]) -> None:
        self._several = len({dict(who)["bench"] for who in rows}) > 1
        self._known: dict[str, dict[str, set[Any]]] = {}
        for who in rows:
            known = self._known.setdefault(str(dict(who)["bench"]), {})
            for key, value in who:
                known.setdefault(key, set()).add((type(value), value))
        self._count = {bench: sum(dict(who)["bench"] == bench for who in rows) for bench in self._known}

    def of(self, who: Identity, row: Row | None = None) -> str:
        """In the row's own order of keys, if it is given."""
        named = dict(who)
        bench = str(named.pop("bench"))
        keys = [key for key in row or named if key in named and self._tells(bench, key)]
        words = [self._word(key, named[key]) for key in keys]
        return ", ".join([*([bench] if self._several else []), *filter(None, words)]) or bench

    def _tells(self, bench: str, key: str) -> bool:
        values = self._known[bench][key]
        return len(values) > 1 or (isinstance(next(iter(values))[1], str) and self._count[bench] == 1)

    def _word(self, key: str, value: str | int | bool) -> str:
        if isinstance(value, bool):
            return key.replace("_", " ") if value else ""
        return value if isinstance(value, str) else f"{key.replace('_', ' ')} {value}"


ORDER = ("worse", "better", "only in A", "only in B", "within noise", "unchanged")


def table(lines: Sequence[Line], words: Mapping[Identity, str]) -> str:
    """For people, what changed first."""
    shown = [
        {
            "row": words[line.identity],
            "figure": line.measure,
            "A": number(line.a),
            "B": number(line.b),
            "ratio": "" if line.ratio is None else f"{line.ratio:.3f}",
            "noise": "" if line.noise is None else f"{line.noise:.0%}",
            "": line.verdict,
        }
        for line in sorted(lines, key=lambda line: ORDER.index(line.verdict))
    ]
    return tabulate(
        shown, headers="keys", disable_numparse=True, colalign=("left", "left", *["right"] * 4, "left") if shown else None
    )


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def named(title: str, rows: Sequence[Identity], words: Mapping[Identity, str]) -> list[str]:
    """A line that names rows that only one record has."""
    if not rows:
        return []
    more = f", and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    return [f"{title}: {'; '.join(words[who] for who in rows[:MOST_NAMED])}{more}"]


def main() -> None:
    config = parse(CompareConfig, rest="files", description=__doc__ or "")
    config.validate()
    a, b = (read_record(path) for path in config.files)
    in_a, in_b = rows_by_identity(a, config.files[0]), rows_by_identity(b, config.files[1])
    found = compare(in_a, in_b)
    rows = {**in_b, **in_a}
    naming = Words(list(rows))
    words = {who: naming.of(who, row) for who, row in rows.items()}
    for name, path, record in zip("AB", config.files, (a, b)):
        print(f"{name}: {path}, {record['date']}, revision {record['revision']}: {record['command']}")
    said = warnings(a, b, found.lines)
    for text in said:
        print(f"warning: {text}")
    lines = [line for line in found.lines if not config.changed or line.verdict not in ("within noise", "unchanged")]
    if lines:
        print("\n" + table(lines, words) + "\n")
    alone = [*named("only in A", found.only_a, words), *named("only in B", found.only_b, words)]
    orders = [text for text in [order(rows_of(a, "latency"), rows_of(b, "latency"))] if text]
    print(*alone, summary(found), *orders, sep="\n", flush=True)
    if config.json is not None:
        write_record(record_of(config, found, words, said, orders), config.json)
        print(f"record: {config.json}")
    if config.fail and any(line.verdict == "worse" for line in found.lines):
        raise SystemExit(1)


def record_of(
    config: CompareConfig, found: Comparison, words: Mapping[Identity, str], said: Sequence[str], orders: Sequence[str]
) -> dict[str, Any]:
    """The comparison as a record: a row a figure."""
    rows = [
        {
            **dict(line.identity),
            "row": words[line.identity],
            "figure": line.measure,
            "a": line.a,
            "b": line.b,
            "ratio": line.ratio,
            "noise": line.noise,
            "verdict": line.verdict,
        }
        for line in found.lines
    ]
    more = {"a": str(config.files[0]), "b": str(config.files[1]), "warnings": list(said)}
    more |= {"only_in_a": [words[who] for who in found.only_a], "only_in_b": [words[who] for who in found.only_b]}
    return {**make_record(rows, machine(), conclusions=[summary(found), *orders]), **more}


if __name__ == "__main__":
    run(main)
