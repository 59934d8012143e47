"""Format numbers and rows of records as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hgfast.bench.harness.metric_specs import is_number, metric_values
from hgfast.bench.harness.record import Row

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


def columns_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Format rows as a table with these keys and titles, without empty columns."""
    keys = [key for key in columns if any(format_cell(row.get(key), key) for row in rows)]
    num_text_columns = sum(1 for key in keys if not any(is_number(row.get(key)) for row in rows))
    return markdown_table(
        [[format_cell(row.get(key), key) for key in keys] for row in rows], [columns[key] for key in keys], num_text_columns
    )


def unmeasured_lines(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return a line per reason that lists the rows without metrics, named by these keys."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if not metric_values(row):
            name = " ".join(str(row[key]) for key in names if row.get(key))
            by_reason.setdefault(str(row.get("note") or row.get("reason") or "no reason given"), []).append(name)
    return [f"{', '.join(dict.fromkeys(name))}: {reason}" for reason, name in by_reason.items()]
