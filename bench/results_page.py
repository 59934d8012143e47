"""The page of a run of `all.py`: the machine, and for every script its command, its figures, what it says of them, its chart.

What may enter: the page's text. Figures in Markdown are `results_text`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from measures import figures
from ratio_checks import Checked
from record import Row
from records import Record, machine_words
from results_text import columns_table, markdown, not_measured

COLUMNS: dict[str, dict[str, str]] = {
    "loader": {
        "layout": "layout",
        "cached": "crops",
        "loader": "loader",
        "variant": "variant",
        "entries": "entries",
        "images_per_s": "images/s",
        "noise": "±",
        "times_seed_style": "× seed",
        "cpu_ms_per_image": "CPU ms/image",
        "start_s": "start, s",
        "start_memory_mb": "MB",
    },
    "train_step": {
        "layout": "layout",
        "preset": "network",
        "way": "way",
        "precision": "precision",
        "images_per_s": "images/s",
        "noise": "±",
        "speedup": "× seed",
        "step_ms": "step, ms",
        "step_speedup": "× seed's",
        "loader_ms": "loader, ms",
        "data_wait": "waits",
        "floor_ms": "floor, ms",
        "memory_gb": "GPU GB",
    },
    "latency": {
        "preset": "network",
        "way": "way",
        "precision": "precision",
        "end_to_end": "end to end",
        "batch": "batch",
        "median_ms": "ms",
        "noise": "±",
        "p90_ms": "p90",
        "p99_ms": "p99",
        "images_per_s": "images/s",
        "speedup": "× seed",
        "memory_mb": "MB",
        "floor_ms": "floor, ms",
        "mean_px_error": "px, mean",
        "max_px_error": "px, most",
    },
    "embedding": {
        "runtime": "runtime",
        "what": "what",
        "threads": "threads",
        "median_ms": "ms",
        "noise": "±",
        "images_per_s": "images/s",
        "overhead": "beside the network",
        "times_one_thread": "× one thread",
        "calls": "calls",
        "growth_kb": "memory, kB",
        "files_before": "files before",
        "files_after": "after",
    },
    "decode": {
        "kind": "maps",
        "decoder": "decoder",
        "median_ms": "ms",
        "noise": "±",
        "speedup": "× seed",
        "error_float32": "error, fp32",
        "error_float16": "fp16",
        "error_bfloat16": "bf16",
    },
    "pckh": {
        "method": "file",
        "what": "run as",
        "decoder": "decoder",
        "pckh@0.5": "PCKh@0.5",
        "pckh@0.1": "PCKh@0.1",
        "auc": "AUC",
        "pck@0.1": "PCK@0.1",
        "pck@0.2": "PCK@0.2",
        "epe_px": "EPE, px",
        "mean_px": "px from the first, mean",
        "max_px": "most",
    },
}
"""The main columns of every script's rows, by key."""
NAMES = {"loader": ("loader", "variant"), "latency": ("way", "precision"), "train_step": ("preset", "way")}
"""The keys that name a row which was not measured."""


@dataclass(frozen=True)
class Section:
    """What a step has left. chart: a file beside the page. state: "ok", "failed", "not possible"; why: of the others."""

    name: str
    words: str
    command: str
    state: str
    why: str
    seconds: float
    rows: Sequence[Row]
    conclusions: Sequence[str]
    chart: str


def page(record: Record, sections: Sequence[Section], checked: Sequence[Checked], quick: bool) -> str:
    """The whole page."""
    parts = [f"# Benchmarks: {machine_words(record)}"]
    if quick:
        parts.append("Made with `--quick`, to see that it works: the figures mean little.")
    parts += [
        machine_table(record["machine"]),
        versions(record),
        f"This page and its record were written by\n\n{fenced(record['command'])}",
    ]
    parts.append(overview(sections))
    if checked:
        parts.append("Ratios to the seed's way in this run:\n\n" + check_table(checked))
    parts += [section(one) for one in sections]
    parts.append(
        "±: by what share a figure may be off beside others of the same run, in 99 of 100 runs; × seed: times the seed's way."
    )
    return "\n\n".join(parts) + "\n"


def machine_table(about: Mapping[str, object]) -> str:
    return markdown(
        [[key.replace("_", " "), "none" if value is None else str(value)] for key, value in about.items()], ["machine", ""], 2
    )


def versions(record: Record) -> str:
    named = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"Revision {record['revision']}, {record['date']}; {named}."


def overview(sections: Sequence[Section]) -> str:
    """A line a step."""
    rows = [[one.name, one.words, one.state, f"{one.seconds:.0f}", one.why] for one in sections]
    return markdown(rows, ["step", "", "", "seconds", ""], 3)


def check_table(checked: Sequence[Checked]) -> str:
    rows = [
        [
            one.check.words,
            "ok" if one.ok else "failed",
            "no figure" if one.found is None else f"{one.found:.2f}",
            f"≥ {one.check.least:g}",
        ]
        for one in checked
    ]
    return markdown(rows, ["check", "", "found", "wanted"], 2)


def section(one: Section) -> str:
    """A step's part of the page."""
    parts = [f"## {one.name}: {one.words}"]
    if one.state != "ok":
        return "\n\n".join([*parts, f"{one.state.capitalize()}: {one.why}"])
    parts.append(fenced(one.command))
    measured = [row for row in one.rows if figures(row)]
    if measured:
        parts.append(columns_table(measured, COLUMNS[one.name]))
    if one.conclusions:
        parts.append(bullets(one.conclusions))
    if missing := not_measured(one.rows, NAMES.get(one.name, ())):
        parts.append("Not measured:\n\n" + bullets(missing))
    if one.chart:
        parts.append(f"![{one.words}]({one.chart})")
    return "\n\n".join(parts)


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def fenced(command: str) -> str:
    return f"```\n{command}\n```"
