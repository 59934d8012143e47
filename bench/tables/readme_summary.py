"""Summary table of README.md: comparisons with princeton from several records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hgfast.bench.harness.record import Row
from hgfast.bench.harness.records import RESULTS_DIR, read_rows, render_rows, source_line
from hgfast.bench.tables.results_text import format_number, format_percent, markdown_table

FindFigures = Callable[[Sequence[Row]], tuple[str, str, str]]
"""From rows to the cells princeton, hgfast and speedup. Raises KeyError if the rows lack the comparison."""
LOADER_RECORD, TRAIN_RECORD, LATENCY_RECORD = (
    RESULTS_DIR / f"{name}-2-cores.json" for name in ("loader", "train-step", "latency")
)


@dataclass(frozen=True)
class SummaryLine:
    """One comparison, from a record of a script."""

    title: str
    script: str
    record: Path
    find_figures: FindFigures


@dataclass(frozen=True)
class SummaryTable:
    """The summary table."""

    lines: tuple[SummaryLine, ...]

    @property
    def text(self) -> str:
        """The text between the markers, with its sources. Raises `HgfastError` if a record is missing or lacks a comparison."""
        rows, sources = list[list[str]](), dict[str, None]()
        for line in self.lines:
            record, record_rows = read_rows(line.script, line.record)
            rows.append([line.title, *render_rows(line.record, line.script, partial(line.find_figures, record_rows))])
            sources[f"{source_line(record, line.script)} (`{line.record}`)"] = None
        return markdown_table(rows, ["", "princeton", "hgfast", "speedup"]) + "\n\n" + "; ".join(sources) + ".\n"


def loading_figures(layout: str, cached: bool) -> FindFigures:
    """CPU time per image; princeton's loader always reads whole images."""

    def find(rows: Sequence[Row]) -> tuple[str, str, str]:
        rows_by_key = {(row["loader"], row["variant"], row["layout"], row["cached"]): row["cpu_ms_per_image"] for row in rows}
        princeton, hgfast = (
            rows_by_key["seed_style", "augmented", layout, False],
            rows_by_key["dali_cpu", "targets", layout, cached],
        )
        return f"{format_number(princeton)} ms", f"{format_number(hgfast)} ms", f"{princeton / hgfast:.1f}"

    return find


def training_figures(preset: str) -> FindFigures:
    """Images per second from files to updated weights."""

    def find(rows: Sequence[Row]) -> tuple[str, str, str]:
        rows_by_key = {row["way"]: row for row in rows if row["preset"] == preset}
        princeton, hgfast = rows_by_key["seed_style"], rows_by_key["hgfast"]
        return (
            f"{format_number(princeton['images_per_s'])} / s",
            f"{format_number(hgfast['images_per_s'])} / s",
            f"{hgfast['speedup']:.1f}",
        )

    return find


def latency_figures(preset: str, precision: str) -> FindFigures:
    """Time of one image in the fastest variant of a precision."""

    def find(rows: Sequence[Row]) -> tuple[str, str, str]:
        single_rows = [row for row in rows if (row["preset"], row["batch"], row["end_to_end"]) == (preset, 1, False)]
        measured = sorted((row for row in single_rows if row["median_ms"]), key=lambda row: -float(row["median_ms"]))
        princeton = {row["way"]: row for row in measured}["seed_style"]
        best = {row["precision"]: row for row in measured}[precision]  # the last one wins, which is the fastest
        factor = f"{best['speedup']:.2f} ± {format_percent(best['speedup_noise'])}"
        return f"{format_number(princeton['median_ms'])} ms", f"{format_number(best['median_ms'])} ms in {best['way']}", factor

    return find


SUMMARY = SummaryTable(
    (
        SummaryLine("loading a hand (CPU time per image)", "loader", LOADER_RECORD, loading_figures("freihand", False)),
        SummaryLine("loading a person in a photograph", "loader", LOADER_RECORD, loading_figures("mpii", False)),
        SummaryLine("loading a person from the crop cache", "loader", LOADER_RECORD, loading_figures("mpii", True)),
        SummaryLine("training hg1 at 256 px (images)", "train_step", TRAIN_RECORD, training_figures("hg1")),
        SummaryLine("hg2 at 256 px, batch 1, fp32", "latency", LATENCY_RECORD, latency_figures("hg2", "fp32")),
        SummaryLine("hg2 at 256 px, batch 1, int8", "latency", LATENCY_RECORD, latency_figures("hg2", "int8")),
    )
)
