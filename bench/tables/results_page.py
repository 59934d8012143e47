"""Page of a run of `run_all.py`: the machine, and for every script its command, table, conclusions and chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hgfast.bench.harness.metric_specs import metric_values
from hgfast.bench.harness.record import Row
from hgfast.bench.harness.records import Record, machine_words
from hgfast.bench.tables.ratio_checks import CheckResult
from hgfast.bench.tables.results_text import columns_table, markdown_table, unmeasured_lines

COLUMNS: dict[str, dict[str, str]] = {
    "loader": {
        "layout": "layout",
        "cached": "crops",
        "loader": "loader",
        "variant": "variant",
        "entries": "entries",
        "images_per_s": "images/s",
        "noise": "±",
        "times_seed_style": "× princeton",
        "cpu_ms_per_image": "CPU ms/image",
        "start_s": "start, s",
        "start_memory_mb": "MB",
    },
    "train_step": {
        "layout": "layout",
        "preset": "network",
        "way": "method",
        "precision": "precision",
        "images_per_s": "images/s",
        "noise": "±",
        "speedup": "× princeton",
        "step_ms": "step, ms",
        "step_speedup": "step, ×",
        "loader_ms": "loader, ms",
        "data_wait": "waits",
        "floor_ms": "roofline, ms",
        "memory_gb": "GPU GB",
    },
    "latency": {
        "preset": "network",
        "way": "variant",
        "precision": "precision",
        "end_to_end": "end to end",
        "batch": "batch",
        "median_ms": "ms",
        "noise": "±",
        "p90_ms": "p90",
        "p99_ms": "p99",
        "images_per_s": "images/s",
        "speedup": "× princeton",
        "memory_mb": "MB",
        "floor_ms": "roofline, ms",
        "mean_px_error": "px, mean",
        "max_px_error": "px, max",
    },
    "embedding": {
        "runtime": "runtime",
        "what": "case",
        "threads": "threads",
        "median_ms": "ms",
        "noise": "±",
        "images_per_s": "images/s",
        "overhead": "overhead",
        "times_one_thread": "× one thread",
        "calls": "calls",
        "growth_kb": "memory, kB",
        "files_before": "files before",
        "files_after": "after",
    },
    "decode": {
        "kind": "heatmaps",
        "decoder": "decoder",
        "median_ms": "ms",
        "noise": "±",
        "speedup": "× princeton",
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
        "max_px": "max",
    },
}
"""Titles of the columns on the page by script and key."""
ROW_NAME_KEYS = {"loader": ("loader", "variant"), "latency": ("way", "precision"), "train_step": ("preset", "way")}
"""Keys that name a row that was not measured."""


@dataclass(frozen=True)
class Section:
    """A step. state: "ok", "failed" or "not possible". reason: for the latter two. chart: file name beside the page, or ""."""

    name: str
    title: str
    command: str
    state: str
    reason: str
    seconds: float
    rows: Sequence[Row]
    conclusions: Sequence[str]
    chart: str


def render_page(record: Record, sections: Sequence[Section], check_results: Sequence[CheckResult], quick: bool) -> str:
    """Return the page as Markdown."""
    parts = [f"# Benchmarks: {machine_words(record)}"]
    if quick:
        parts.append("A smoke test with `--quick`: the results are not meaningful.")
    parts += [
        machine_table(record["machine"]),
        versions(record),
        f"Command:\n\n{code_block(record['command'])}",
    ]
    parts.append(steps_table(sections))
    if check_results:
        parts.append("Checks:\n\n" + checks_table(check_results))
    parts += [render_section(section) for section in sections]
    parts.append("±: noise at 99 % within this run; × princeton: speedup over princeton.")
    return "\n\n".join(parts) + "\n"


def machine_table(machine: Mapping[str, object]) -> str:
    return markdown_table(
        [[key.replace("_", " "), "none" if value is None else str(value)] for key, value in machine.items()], ["machine", ""], 2
    )


def versions(record: Record) -> str:
    named = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"Revision {record['revision']}, {record['date']}; {named}."


def steps_table(sections: Sequence[Section]) -> str:
    rows = [[section.name, section.title, section.state, f"{section.seconds:.0f}", section.reason] for section in sections]
    return markdown_table(rows, ["step", "", "", "seconds", ""], 3)


def checks_table(check_results: Sequence[CheckResult]) -> str:
    rows = [
        [
            result.check.description,
            "ok" if result.ok else "failed",
            "not measured" if result.ratio is None else f"{result.ratio:.2f}",
            f"≥ {result.check.min_ratio:g}",
        ]
        for result in check_results
    ]
    return markdown_table(rows, ["check", "", "ratio", "limit"], 2)


def render_section(section: Section) -> str:
    """Return the section of a step."""
    parts = [f"## {section.name}: {section.title}"]
    if section.state != "ok":
        return "\n\n".join([*parts, f"{section.state.capitalize()}: {section.reason}"])
    parts.append(code_block(section.command))
    measured = [row for row in section.rows if metric_values(row)]
    if measured:
        parts.append(columns_table(measured, COLUMNS[section.name]))
    if section.conclusions:
        parts.append(bullet_list(section.conclusions))
    if missing := unmeasured_lines(section.rows, ROW_NAME_KEYS.get(section.name, ())):
        parts.append("Not measured:\n\n" + bullet_list(missing))
    if section.chart:
        parts.append(f"![{section.title}]({section.chart})")
    return "\n\n".join(parts)


def bullet_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def code_block(command: str) -> str:
    return f"```\n{command}\n```"
