"""Page of a run of `run_all.py`: the machine, and for every script its command, table, conclusions and chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hgfast.bench.gpu.step_runner import StepResult, shell_command
from hgfast.bench.harness.record import Record, Row, machine_words, without_outputs
from hgfast.bench.tables.columns import markdown_table, table_of, unmeasured_lines
from hgfast.bench.tables.ratio_checks import CHECK_COLUMNS, CheckResult


class BenchResult(NamedTuple):
    """The result of a step and its record, None if it wrote none. The record of a failed step has the rows that were measured."""

    done: StepResult
    record: Record | None

    @property
    def name(self) -> str:
        return self.done.step.name

    @property
    def rows(self) -> Sequence[Row]:
        return [] if self.record is None else self.record["rows"]

    @property
    def conclusions(self) -> Sequence[str]:
        return [] if self.record is None else self.record.get("conclusions", [])

    @property
    def command(self) -> str:
        return without_outputs(shell_command(self.done.step.command))


def render_page(
    record: Record, results: Sequence[BenchResult], charts: Sequence[str], checks: Sequence[CheckResult], quick: bool
) -> str:
    """Return the page as Markdown. charts: file name of the chart of each result beside the page, or ""."""
    machine = [[key.replace("_", " "), "none" if value is None else str(value)] for key, value in record["machine"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    steps = [[r.name, r.done.step.description, r.done.state, f"{r.done.seconds:.0f}", r.done.reason] for r in results]
    parts = [
        f"# Benchmarks: {machine_words(record)}",
        "A smoke test with `--quick`: the results are not meaningful." if quick else "",
        markdown_table(machine, ["machine", ""], 2),
        f"Revision {record['revision']}, {record['date']}; {versions}.",
        f"Command:\n\n{code_block(record['command'])}",
        markdown_table(steps, ["step", "", "", "seconds", ""], 3),
        "Checks:\n\n" + markdown_table([check.cells for check in checks], CHECK_COLUMNS) if checks else "",
        *(render_section(result, chart) for result, chart in zip(results, charts)),
        "±: noise at 99 % within this run; × princeton: speedup over princeton.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def render_section(result: BenchResult, chart: str) -> str:
    """Return the section of a step."""
    title, done = result.done.step.description, result.done
    heading = f"## {result.name}: {title}"
    verdict = "" if done.state == "ok" else f"{done.state.capitalize()}: {done.reason}"
    if result.record is None:
        return f"{heading}\n\n{verdict}"
    table, missing = table_of(result.rows, result.name), unmeasured_lines(result.rows)
    parts = [
        heading,
        verdict,
        code_block(result.command),
        markdown_table(*table) if table[0] else "",
        bullet_list(result.conclusions),
        "Not measured:\n\n" + bullet_list(missing) if missing else "",
        f"![{title}]({chart})" if chart else "",
    ]
    return "\n\n".join(filter(None, parts))


def bullet_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def code_block(command: str) -> str:
    return f"```\n{command}\n```"
