"""The tables of a report: evaluations, joints, benchmarks and exported networks as formatted columns."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hgfast.reporting.records import ExportedModel
from hgfast.reporting.run_folder import MetricsLine, to_float

Row = Mapping[str, Any]
MISSING = "–"
HIDDEN_COLUMNS = {
    *("p90_ms", "noise", "speedup_noise", "memory_mb", "gpu_mb", "floor_ms", "mean_px_error", "rounds", "images_per_s_min"),
    *("images_per_s_max", "bench", "note", "runtime", "over_1px_percent", "joints_counted", "not_finite"),
}
"""Columns of benchmarks that are omitted if there are others."""
COLUMN_LABELS = {
    "median_ms": "median, ms",
    "p99_ms": "p99, ms",
    "images_per_s": "images/s",
    "speedup": "× princeton",
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
PCK_NAME = re.compile(r"(pckh?)(_image)?@([\d.]+)")
TIMING_COLUMNS = ("median_ms", "images_per_s", "step_ms")
"""A benchmark row with one of these columns and no value in it was not measured."""
MAX_ROWS = 200  # of a table


class JointRow(NamedTuple):
    """A joint: its name, its accuracy as text and as a fraction of 1, its mean error as text."""

    name: str
    accuracy: str
    fraction: float
    error: str


@dataclass(frozen=True)
class Table:
    """Text in columns. numeric: which columns are numbers. caption: what all rows have in common."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    caption: str = ""


def format_value(value: Any) -> str:
    """Format a value: four digits of a number, a dash for a missing value."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return format_number(value)
    return value if isinstance(value, str) else json.dumps(value)[:120]


def format_number(value: float) -> str:
    """Format a number to four digits, with thin spaces between thousands; very small and very large ones with an exponent."""
    if not math.isfinite(to_float(value)):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009")
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def column_label(name: str) -> str:
    """Return a column's heading."""
    if match := PCK_NAME.fullmatch(name):
        return f"{match[1].replace('pck', 'PCK')}@{match[3]}{' of the image' if match[2] else ''}"
    return COLUMN_LABELS.get(name, name.replace("_", " "))


def format_size(size: int) -> str:
    """Format a file size in bytes."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def table(rows: Sequence[Row], columns: Iterable[str] | None = None, merge_constant: bool = False) -> Table:
    """Return rows as a table with every column that has a value in any row.

    Args:
        columns: columns to choose from; None: all, in their order.
        merge_constant: move columns with the same value in all of several rows to the caption, except floats.
    """
    candidates = dict.fromkeys(str(name) for row in rows for name in row) if columns is None else columns
    names = [name for name in candidates if any(format_value(row.get(name)) != MISSING for row in rows)]
    constant = list[str]()
    if merge_constant and len(rows) > 1:
        first = rows[0]
        constant = [
            n for n in names[1:] if all(row.get(n) == first.get(n) for row in rows) and not isinstance(first.get(n), float)
        ]
        names = [name for name in names if name not in constant]
    numeric = [all(row.get(name) is None or is_number(row.get(name)) for row in rows) for name in names]
    common = ", ".join(f"{column_label(name)} {format_value(rows[0][name])}" for name in constant)
    captions = [f"In all rows: {common}."] if common else []
    if len(rows) > MAX_ROWS:
        captions.append(f"The first {MAX_ROWS} of {len(rows)} rows.")
    cells = [[format_value(row.get(name)) for name in names] for row in rows[:MAX_ROWS]]
    return Table([column_label(name) for name in names], cells, numeric, " ".join(captions))


def is_number(value: Any) -> bool:
    """Whether a value is a number and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def bench_table(rows: Sequence[Row]) -> Table:
    """Return the rows of a benchmark that were measured."""
    measured = [row for row in rows if not is_skipped(row)]
    names = list(dict.fromkeys(str(name) for row in measured for name in row))
    return table(measured, [name for name in names if name not in HIDDEN_COLUMNS] or names, merge_constant=True)


def skipped_reasons(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each reason why rows of a benchmark were not measured."""
    reasons: dict[str, list[str]] = {}
    for row in filter(is_skipped, rows):
        name = " ".join(format_value(row[key]) for key in ("way", "loader", "precision") if row.get(key))
        reasons.setdefault(format_value(row.get("note") or row.get("reason")), []).append(name)
    return [f"Not measured, {reason}: {', '.join(dict.fromkeys(names))}." for reason, names in reasons.items()]


def is_skipped(row: Row) -> bool:
    """Whether a row was not measured."""
    candidates = [name for name in TIMING_COLUMNS if name in row]
    return bool(candidates) and all(row[name] is None for name in candidates)


def epochs_table(lines: Sequence[MetricsLine]) -> Table:
    """Return metrics.jsonl as a table, validation metrics in separate columns."""
    rows = []
    for line in lines:
        valid = line.get("valid")
        rows.append(
            {**{name: value for name, value in line.items() if name != "valid"}, **(valid if isinstance(valid, dict) else {})}
        )
    return table(rows[-MAX_ROWS:])


def joint_table(rows: Sequence[Row]) -> tuple[str, list[JointRow]]:
    """Return the metric of the joints and a row for each; see `visualization.overlays.joint_metrics`."""
    names = [str(name) for name in (rows[0] if rows else {}) if name not in ("joint", "epe_px")]
    if not names:
        return "", []
    metric = names[0]
    max_value = 100.0 if metric.startswith("pckh") else 1.0
    joint_rows = []
    for row in rows:
        value = to_float(row.get(metric))
        fraction = min(max(value / max_value, 0.0), 1.0) if math.isfinite(value) else 0.0
        joint_rows.append(
            JointRow(format_value(row.get("joint")), format_value(row.get(metric)), fraction, format_value(row.get("epe_px")))
        )
    return metric, joint_rows


def exports_table(exports: Sequence[ExportedModel], folder: Path) -> Table:
    """Return a table of exported networks with the results of their verification."""
    rows: list[Row] = []
    for export in exports:
        sidecar = export.sidecar
        in_run_folder = export.path.resolve().is_relative_to(folder.resolve())
        rows.append(
            {
                "file": str(export.path.resolve().relative_to(folder.resolve())) if in_run_folder else str(export.path),
                "precision": sidecar.precision,
                "size": format_size(export.num_bytes),
                **verification_cells(sidecar.verification),
                "exported from": "this checkpoint" if export.from_this_run else "another checkpoint",
                "created": sidecar.created[:10],
                "format": sidecar.export_format,
                "input": f"{' × '.join(map(str, sidecar.input.shape))} {sidecar.input.dtype}",
                "batch": sidecar.batch.as_flag,
            }
        )
    return table(rows)


def verification_cells(verification: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the largest distance, accuracy and verdict of a sidecar's verification."""
    rows = [row for row in (verification or {}).get("rows", []) if isinstance(row, dict)]
    accuracy = (verification or {}).get("accuracy")
    distances = [value for row in rows if math.isfinite(value := to_float(row.get("max_px")))]
    verdicts = list(dict.fromkeys(str(row["verdict"]) for row in rows if row.get("verdict")))
    scores = None
    if isinstance(accuracy, dict):
        checkpoint_score, exported_score = format_value(accuracy.get("checkpoint")), format_value(accuracy.get("artefact"))
        scores = f"{format_value(accuracy.get('metric'))}: {checkpoint_score} → {exported_score} %"
    return {
        "max_px": max(distances, default=None),
        "accuracy, checkpoint → this": scores,
        "compared with the checkpoint": "; ".join(verdicts) or ("by accuracy" if isinstance(accuracy, dict) else "no"),
    }
