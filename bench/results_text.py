"""Figures and tables of records in Markdown.

What may enter: turning rows into text for pages. Which rows and columns is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from measures import figures, is_number
from record import Row

SHARES = {"noise", "speedup_noise", "overhead", "data_wait", "beyond_step"}
"""Keys that are written in percent."""


def short(value: object, key: str = "") -> str:
    """A cell: about three digits of a number, nothing for None and False."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return percent(value) if key in SHARES else digits(value)
    return str(value)


def percent(share: float) -> str:
    """A share; of noise above all of a figure it does not matter by how much."""
    return f"{share:.0%}" if share <= 1 else "> 100%"


def digits(value: float) -> str:
    """About three digits; small numbers have two, and an exponent only where there is no other way."""
    size = abs(value)
    for least, places in ((100, 0), (10, 1), (1, 2), (0.1, 3), (0.001, 4)):
        if size >= least:
            return f"{value:.{places}f}"
    return f"{value:.1e}" if size else "0"


def markdown(rows: Sequence[Sequence[str]], headers: Sequence[str], words: int = 1) -> str:
    """A table; the first `words` columns are words, the others are figures, to the right."""
    ruler = ["---" if column < words else "---:" for column in range(len(headers))]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [headers, ruler, *rows])


def columns_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Rows by their keys, under the columns' titles; columns in which no row has anything are left out."""
    kept = [key for key in columns if any(short(row.get(key), key) for row in rows)]
    words = sum(1 for key in kept if not any(is_number(row.get(key)) for row in rows))
    return markdown([[short(row.get(key), key) for key in kept] for row in rows], [columns[key] for key in kept], words)


def not_measured(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """For every reason that rows without figures give, a line that names them by these keys."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if not figures(row):
            words = " ".join(str(row[key]) for key in names if row.get(key))
            by_reason.setdefault(str(row.get("note") or row.get("reason") or "no reason given"), []).append(words)
    return [f"{', '.join(dict.fromkeys(words))}: {reason}" for reason, words in by_reason.items()]
