"""The tables of a report: figures of evaluations, joints, benchmarks and exported networks as words in columns.

What may enter: choosing columns and writing numbers. Nothing here reads a file or knows HTML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hgfast.report_records import Export
from hgfast.report_run import Line, number

Row = Mapping[str, Any]
NONE = "–"
HIDDEN = {
    *("p90_ms", "noise", "speedup_noise", "memory_mb", "gpu_mb", "floor_ms", "mean_px_error", "rounds", "images_per_s_min"),
    *("images_per_s_max", "bench", "note", "runtime", "over_1px_percent", "joints_counted", "not_finite"),
}
"""Columns of benchmarks that are left out, where there are others."""
LABELS = {
    "median_ms": "median, ms",
    "p99_ms": "p99, ms",
    "images_per_s": "images/s",
    "speedup": "× seed’s way",
    "max_px_error": "largest error, px",
    "mean_px": "mean distance, px",
    "p99_px": "p99 distance, px",
    "max_px": "largest distance, px",
    "epe_px": "mean error, px",
    "epe_px_freihand": "mean error, px (FreiHAND)",
    "epe_median_px": "median error, px",
    "epe_median_px_freihand": "median error, px (FreiHAND)",
    "auc_0_30px": "AUC, 0 to 30 px",
    "auc_0_30px_mmpose": "AUC, 0 to 30 px (mmpose)",
    "end_to_end": "end to end",
    "lr": "learning rate",
    "data_wait": "waits for data",
    "memory_gb": "memory, GB",
    "network_images_per_s": "images/s, network alone",
}
ACCURACY = re.compile(r"(pckh?)(_image)?@([\d.]+)")
MEASURED = ("median_ms", "images_per_s", "step_ms")
"""A row of a benchmark that has one of these columns, and no value in it, was not measured."""
ENOUGH = 200  # rows of a table


class Joint(NamedTuple):
    """A joint's row: its name, its accuracy in words and as a share of the whole, its mean error in words."""

    name: str
    accuracy: str
    share: float
    error: str


@dataclass(frozen=True)
class Table:
    """Words in columns. numeric: which columns are numbers. caption: what holds for all rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    caption: str = ""


def words(value: Any) -> str:
    """A value for people: four digits of a number, a dash for none."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return in_digits(value)
    return value if isinstance(value, str) else json.dumps(value)[:120]


def in_digits(value: float) -> str:
    """A number to four digits, with thin spaces between thousands; very small and very large ones as powers of ten."""
    if not math.isfinite(number(value)):
        return NONE
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009")
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def label(name: str) -> str:
    """A column's name for people."""
    if found := ACCURACY.fullmatch(name):
        return f"{found[1].replace('pck', 'PCK')}@{found[3]}{' of the image' if found[2] else ''}"
    return LABELS.get(name, name.replace("_", " "))


def in_bytes(size: int) -> str:
    """A file's size."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def table(rows: Sequence[Row], columns: Iterable[str] | None = None, fold: bool = False) -> Table:
    """Rows as they are, with the columns that any of them has a value in.

    Args:
        columns: those to choose from; None: all, in their order.
        fold: say what is the same in all of several rows in the caption instead of a column, figures aside.
    """
    known = dict.fromkeys(str(name) for row in rows for name in row) if columns is None else columns
    names = [name for name in known if any(words(row.get(name)) != NONE for row in rows)]
    constant = list[str]()
    if fold and len(rows) > 1:
        first = rows[0]
        constant = [
            n for n in names[1:] if all(row.get(n) == first.get(n) for row in rows) and not isinstance(first.get(n), float)
        ]
        names = [name for name in names if name not in constant]
    numeric = [all(row.get(name) is None or is_number(row.get(name)) for row in rows) for name in names]
    same = ", ".join(f"{label(name)} {words(rows[0][name])}" for name in constant)
    captions = [f"In all rows: {same}."] if same else []
    if len(rows) > ENOUGH:
        captions.append(f"The first {ENOUGH} of {len(rows)} rows.")
    cells = [[words(row.get(name)) for name in names] for row in rows[:ENOUGH]]
    return Table([label(name) for name in names], cells, numeric, " ".join(captions))


def is_number(value: Any) -> bool:
    """A number, but no yes or no."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def bench_table(rows: Sequence[Row]) -> Table:
    """A benchmark's rows that were measured."""
    measured = [row for row in rows if not is_left_out(row)]
    names = list(dict.fromkeys(str(name) for row in measured for name in row))
    return table(measured, [name for name in names if name not in HIDDEN] or names, fold=True)


def left_out(rows: Sequence[Row]) -> list[str]:
    """What a benchmark did not measure, a sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in filter(is_left_out, rows):
        name = " ".join(words(row[key]) for key in ("way", "loader", "precision") if row.get(key))
        reasons.setdefault(words(row.get("note") or row.get("reason")), []).append(name)
    return [f"Not measured, {reason}: {', '.join(dict.fromkeys(names))}." for reason, names in reasons.items()]


def is_left_out(row: Row) -> bool:
    """Is it the row of something that was not measured?"""
    known = [name for name in MEASURED if name in row]
    return bool(known) and all(row[name] is None for name in known)


def epochs_table(lines: Sequence[Line]) -> Table:
    """metrics.jsonl, the figures of validations in columns of their own."""
    rows = []
    for line in lines:
        valid = line.get("valid")
        rows.append(
            {**{name: value for name, value in line.items() if name != "valid"}, **(valid if isinstance(valid, dict) else {})}
        )
    return table(rows[-ENOUGH:])


def joints(rows: Sequence[Row]) -> tuple[str, list[Joint]]:
    """The name of the figure that joints are judged by, and a row for each; as `hgfast.looks.joint_rows` gives them."""
    names = [str(name) for name in (rows[0] if rows else {}) if name not in ("joint", "epe_px")]
    if not names:
        return "", []
    figure = names[0]
    whole = 100.0 if figure.startswith("pckh") else 1.0
    found = []
    for row in rows:
        value = number(row.get(figure))
        share = min(max(value / whole, 0.0), 1.0) if math.isfinite(value) else 0.0
        found.append(Joint(words(row.get("joint")), words(row.get(figure)), share, words(row.get("epe_px"))))
    return figure, found


def exports_table(exports: Sequence[Export], folder: Path) -> Table:
    """Exported networks, with what was found when they were compared with the checkpoint."""
    rows: list[Row] = []
    for export in exports:
        about = export.sidecar
        inside = export.path.resolve().is_relative_to(folder.resolve())
        rows.append(
            {
                "file": str(export.path.resolve().relative_to(folder.resolve())) if inside else str(export.path),
                "precision": about.precision,
                "size": in_bytes(export.bytes),
                **compared(about.verification),
                "made of": "this checkpoint" if export.own else "another checkpoint",
                "made": about.created[:10],
                "kind": about.kind,
                "input": f"{' × '.join(map(str, about.input.shape))} {about.input.dtype}",
                "images at once": about.batch.words,
            }
        )
    return table(rows)


def compared(verification: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a sidecar says of the comparison with the checkpoint: the largest distance, accuracy, the verdict."""
    rows = [row for row in (verification or {}).get("rows", []) if isinstance(row, dict)]
    accuracy = (verification or {}).get("accuracy")
    found: dict[str, Any] = {"max_px": max((v for row in rows if math.isfinite(v := number(row.get("max_px")))), default=None)}
    verdicts = list(dict.fromkeys(str(row["verdict"]) for row in rows if row.get("verdict")))
    found["accuracy, checkpoint → this"] = None
    if isinstance(accuracy, dict):
        before, after = words(accuracy.get("checkpoint")), words(accuracy.get("artefact"))
        found["accuracy, checkpoint → this"] = f"{words(accuracy.get('metric'))}: {before} → {after} %"
    found["compared with the checkpoint"] = "; ".join(verdicts) or ("by accuracy" if isinstance(accuracy, dict) else "no")
    return found
