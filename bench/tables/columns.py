"""Tables of the rows of records: which columns, their titles and number formats, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from hgfast.bench.harness.metric_specs import is_number, metric_values
from hgfast.bench.harness.record import Row
from hgfast.reporting.records import column_label

COLUMNS = {
    "loader": "layout cached loader variant entries images_per_s noise times_seed_style cpu_ms_per_image start_s start_memory_mb",
    "train_step": "layout preset way precision images_per_s noise speedup step_ms step_speedup loader_ms data_wait beyond_step "
    "floor_ms eager_memory_ms conv_memory_ms tflops memory_gb",
    "latency": "preset file way precision end_to_end batch median_ms noise p90_ms p99_ms gpu_ms images_per_s speedup memory_mb "
    "floor_ms mean_px_error max_px_error",
    "embedding": "runtime what threads median_ms noise images_per_s overhead times_one_thread calls growth_kb files_before "
    "files_after",
    "decode": "kind decoder median_ms noise speedup error_float32 error_float16 error_bfloat16 largest_error",
    "pckh": "method what decoder pckh@0.5 pckh@0.1 auc pck@0.1 pck@0.2 epe_px mean_px p99_px max_px over_1px_percent",
}
"""Columns by the bench name of the script. A column without values is omitted; `reporting.records` has the titles."""
NAME_KEYS = ("loader", "variant", "way", "precision")
"""Keys that name a row that was not measured."""
PERCENT_KEYS = {"noise", "speedup_noise", "overhead", "data_wait", "beyond_step"}
"""Keys formatted as percentages."""


def format_cell(value: object, key: str = "") -> str:
    """Format a cell: about three digits of a number, "" for None and False."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return format_percent(value) if key in PERCENT_KEYS else format_number(value)
    return str(value)


def format_percent(fraction: float) -> str:
    """Format a fraction in percent; values above 1 as "> 100%"."""
    return f"{fraction:.0%}" if fraction <= 1 else "> 100%"


def format_number(value: float) -> str:
    """Format with about three digits, below 0.001 with two digits and an exponent."""
    size = abs(value)
    for threshold, decimals in ((100, 0), (10, 1), (1, 2), (0.1, 3), (0.001, 4)):
        if size >= threshold:
            return f"{value:.{decimals}f}"
    return f"{value:.1e}" if size else "0"


def markdown_table(rows: Sequence[Sequence[str]], headers: Sequence[str], num_text_columns: int = 1) -> str:
    """Format a table whose first `num_text_columns` columns are text and left-aligned; the others are right-aligned."""
    ruler = ["---" if column < num_text_columns else "---:" for column in range(len(headers))]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [headers, ruler, *rows])


def text_table(rows: Sequence[Sequence[str]], headers: Sequence[str], num_text_columns: int = 1) -> str:
    """Format the same table for the terminal."""
    alignment = ["left"] * num_text_columns + ["right"] * (len(headers) - num_text_columns)
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=alignment if rows else None)


def table_of(rows: Sequence[Row], bench: str) -> tuple[list[list[str]], list[str], int]:
    """Return the cells of the measured rows of a script, the titles of the columns and the number of text columns."""
    rows = [row for row in rows if metric_values(row)]
    keys = [key for key in COLUMNS[bench].split() if any(format_cell(row.get(key), key) for row in rows)]
    num_text_columns = sum(1 for key in keys if not any(is_number(row.get(key)) for row in rows))
    cells = [[format_cell(row.get(key), key) for key in keys] for row in rows]
    return cells, [column_label(key) for key in keys], num_text_columns


def print_rows(rows: Sequence[Row], bench: str) -> None:
    """Print the rows of a script, and why others were not measured."""
    print("\n" + text_table(*table_of(rows, bench)))
    for line in unmeasured_lines(rows):
        print(f"not measured: {line}")


def unmeasured_lines(rows: Sequence[Row], names: Sequence[str] = NAME_KEYS) -> list[str]:
    """Return a line per reason that lists the rows without metrics, named by these keys."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if not metric_values(row):
            name = " ".join(str(row[key]) for key in names if row.get(key))
            by_reason.setdefault(str(row.get("note") or row.get("reason") or "no reason given"), []).append(name)
    return [f"{', '.join(dict.fromkeys(name))}: {reason}" for reason, name in by_reason.items()]
