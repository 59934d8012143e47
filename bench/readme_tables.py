"""Generate the benchmark tables of README.md and docs/benchmarks.md from the records in bench/results/.

    python bench/readme_tables.py
    python bench/readme_tables.py --check

Replaces the text between `<!-- bench: NAME -->` and `<!-- /bench -->` by the table, with the command and the machine below it.
--check changes nothing and exits with 1 if a table is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hgfast.bench.harness.metric_specs import is_number
from hgfast.bench.harness.record import ROOT, Row
from hgfast.bench.harness.records import RESULTS_DIR, read_rows, render_rows, source_line
from hgfast.bench.tables.readme_summary import SUMMARY, SummaryTable
from hgfast.bench.tables.results_text import format_number, format_percent, markdown_table, unmeasured_lines
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import write_text

MARKER = re.compile(r"(?P<begin><!-- bench: (?P<name>[^>]*?) -->\n)(?P<text>.*?)(?P<end><!-- /bench -->)", re.DOTALL)


@dataclass(kw_only=True)
class ReadmeConfig:
    """Settings of the generator."""

    check: bool = False
    """change nothing, and exit with 1 if a table is out of date"""
    pages: list[Path] = field(default_factory=lambda: [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"])
    """pages with tables"""


@dataclass(frozen=True)
class RecordTable:
    """A table of one record. script: bench name of the rows. record: file, relative to the repository root. render: from rows and
    accuracy rows to Markdown. accuracy: a record of bench/pckh.py with the accuracy of the same files."""

    script: str
    record: Path
    render: Callable[[Sequence[Row], Sequence[Row]], str]
    accuracy: Path | None = None

    @property
    def text(self) -> str:
        """The text between the markers. Raises `HgfastError` if the record is missing or has no such rows."""
        record, rows = read_rows(self.script, self.record)
        accuracy = [] if self.accuracy is None else read_rows("pckh", self.accuracy)[1]
        files = ", ".join(f"`{path}`" for path in (self.record, self.accuracy) if path is not None)
        table = render_rows(self.record, self.script, lambda: self.render(rows, accuracy))
        return f"{table}\n\n{source_line(record, self.script)} ({files}).\n"


# ---- the tables ----


def latency_table(rows: Sequence[Row], accuracy: Sequence[Row]) -> str:
    """Batch 1, from images in memory: a row per variant and precision, three columns per network, and the accuracy."""
    single_rows = [row for row in rows if row["batch"] == 1 and row["median_ms"] and not row["end_to_end"]]
    presets = list(dict.fromkeys(row["preset"] for row in single_rows))
    by_method: dict[tuple[str, str], dict[str, Row]] = {}
    for row in single_rows:
        by_method.setdefault((row["way"], row["precision"]), {})[row["preset"]] = row
    lines = []
    for (method, precision), rows_by_preset in by_method.items():
        cells = [cell for preset in presets for cell in latency_cells(rows_by_preset.get(preset))]
        scores = [score for row in rows_by_preset.values() if (score := accuracy_cell(row, accuracy))][:1] or [""]
        lines.append([method, precision, *cells, *(scores if accuracy else [])])
    headers = [title for preset in presets for title in (f"{preset}, ms", "× princeton", "px error, mean / max")]
    headers += [accuracy_metric(accuracy)] if accuracy else []
    missing = unmeasured_lines(rows, ("way", "precision"))
    left_out = f"\n\nNot measured: {'; '.join(missing)}." if missing else ""
    return markdown_table(lines, ["variant", "precision", *headers], 2) + left_out


def batch_table(rows: Sequence[Row], _: Sequence[Row]) -> str:
    """The last network of the record: images/s for each batch size, the speedup over princeton, and the roofline in images/s."""
    preset = rows[-1]["preset"]
    single_rows = [row for row in rows if row["preset"] == preset and row["median_ms"] and not row["end_to_end"]]
    sizes = list(dict.fromkeys(row["batch"] for row in single_rows))
    rows_by_key = {(row["way"], row["precision"], row["batch"]): row for row in single_rows}
    lines = []
    for method, precision in dict.fromkeys((row["way"], row["precision"]) for row in single_rows):
        cells = []
        for size in sizes:
            row = rows_by_key[method, precision, size]
            roofline = format_number(1000 * size / row["floor_ms"]) if row["floor_ms"] else ""
            cells += [format_number(row["images_per_s"]), latency_cells(row)[1], roofline]
        lines.append([method, precision, *cells])
    titles = [title for size in sizes for title in (f"batch {size}, images/s", "× princeton", "roofline")]
    return markdown_table(lines, [f"{preset}, variant", "precision", *titles], 2)


def latency_cells(row: Row | None) -> list[str]:
    """Return time, speedup and errors of a variant with a network."""
    if row is None:
        return ["", "", ""]
    noise = row.get("speedup_noise") or row.get("noise")
    speedup = format_number(row["speedup"]) + (f" ± {format_percent(noise)}" if noise and row["way"] != "seed_style" else "")
    return [
        format_number(row["median_ms"]),
        speedup,
        f"{format_number(row['mean_px_error'])} / {format_number(row['max_px_error'])}",
    ]


FP32_METHODS = ("seed_style", "channels_last", "compile")
"""The torch variants of a checkpoint whose keypoints equal those that pckh evaluated."""


def accuracy_metric(accuracy: Sequence[Row]) -> str:
    """Return the metric of a record of pckh that the table shows."""
    return next((key for key in ("pckh@0.5", "pck@0.2") if any(key in row for row in accuracy)), "pck@0.2")


def accuracy_cell(row: Row, accuracy: Sequence[Row]) -> str:
    """Return the accuracy of the same file in the same runtime and precision; "" if it was not evaluated."""
    run_as = "checkpoint" if row["runtime"] == "torch" and row["way"] in FP32_METHODS else f"{row['runtime']} {row['precision']}"
    for scored in accuracy:
        if (scored["file"], scored["what"]) == (row["file"], run_as) and is_number(scored.get(accuracy_metric(accuracy))):
            value = float(scored[accuracy_metric(accuracy)])
            return f"{value:.2f}" if accuracy_metric(accuracy).startswith("pckh") else f"{value:.4f}"
    return ""


SOURCES = {("freihand", False): "hands", ("mpii", False): "photographs", ("mpii", True): "cached crops"}
LOADER_TITLES = {
    ("decode_only", "dali"): "decoding only (DALI)",
    ("dali_gpu", "targets"): "`--loader dali` on a GPU, with heatmaps",
    ("dali_cpu", "targets"): "`--loader dali`, with heatmaps",
    ("torch", "targets"): "`--loader opencv`, with heatmaps",
    ("seed_style", "augmented"): "princeton's loader",
}


def loader_table(rows: Sequence[Row], _: Sequence[Row]) -> str:
    """CPU time per image, and the speedup over princeton's loader on the same images."""
    times = {(row["loader"], row["variant"], row["layout"], row["cached"]): row["cpu_ms_per_image"] for row in rows}
    lines = []
    for loader_key, row_title in LOADER_TITLES.items():
        cells = [
            cell for source in SOURCES for cell in loader_cells(times.get((*loader_key, *source)), times, loader_key, source)
        ]
        if any(cells):
            lines.append([row_title, *cells])
    headers = [title for source_title in SOURCES.values() for title in (source_title, "speedup")]
    return markdown_table(lines, ["CPU ms per image", *headers])


def loader_cells(
    hgfast: float | None,
    times: dict[tuple[str, str, str, bool], float | None],
    loader_key: tuple[str, str],
    source: tuple[str, bool],
) -> list[str]:
    """Return the time and the ratio of princeton's to it; no ratio for rows that are not a complete loader."""
    princeton = times.get(("seed_style", "augmented", *source))
    is_whole_loader = hgfast and princeton and loader_key[0] not in ("decode_only", "seed_style")
    return [
        format_number(hgfast) if hgfast else "",
        f"{princeton / hgfast:.1f}" if hgfast and princeton and is_whole_loader else "",
    ]


def train_step_table(rows: Sequence[Row], _: Sequence[Row]) -> str:
    """Throughput from files to updated weights, and times of the step and the loader alone."""
    lines = []
    for row in rows:
        if not row["images_per_s"]:
            continue
        noise = row.get("noise")
        rate = format_number(row["images_per_s"]) + (f" ± {format_percent(noise)}" if noise else "")
        times = [format_number(row[key]) if row[key] else "" for key in ("speedup", "step_ms", "step_speedup", "loader_ms")]
        lines.append([row["layout"], row["preset"], row["way"], row["precision"], str(row["batch_size"]), rate, *times])
    titles = [
        "data",
        "network",
        "method",
        "precision",
        "batch",
        "images/s",
        "× princeton",
        "step, ms",
        "× princeton",
        "loader, ms",
    ]
    return markdown_table(lines, titles, 4)


TABLES: dict[str, RecordTable | SummaryTable] = {
    "summary": SUMMARY,
    "latency": RecordTable("latency", RESULTS_DIR / "latency-2-cores.json", latency_table),
    "latency-batches": RecordTable("latency", RESULTS_DIR / "latency-batches-2-cores.json", batch_table),
    "latency-trained": RecordTable(
        "latency", RESULTS_DIR / "latency-lspet-hg2-2-cores.json", latency_table, RESULTS_DIR / "pckh-exports-2-cores.json"
    ),
    "loader": RecordTable("loader", RESULTS_DIR / "loader-2-cores.json", loader_table),
    "train_step": RecordTable("train_step", RESULTS_DIR / "train-step-2-cores.json", train_step_table),
}
"""Tables by the name in the markers."""

# ---- the pages ----


def update_page(text: str, page: Path) -> tuple[str, list[str], list[str]]:
    """Return the updated page, the names of its tables, and the names of those that were out of date.

    Raises:
        HgfastError: an unknown table name, or a marker without its counterpart.
    """
    matches = list(MARKER.finditer(text))
    if text.count("<!-- bench:") != len(matches) or text.count("<!-- /bench -->") != len(matches):
        raise HgfastError(f"{page}: `<!-- bench: NAME -->` and `<!-- /bench -->` must be paired, on different lines")
    names = [match["name"] for match in matches]
    if unknown := [name for name in names if name not in TABLES]:
        raise HgfastError(f"{page}: there is no table {unknown[0]!r}; choose from {', '.join(TABLES)}")
    rendered = {name: TABLES[name].text for name in names}
    stale = [match["name"] for match in matches if match["text"] != rendered[match["name"]]]
    return MARKER.sub(lambda match: match["begin"] + rendered[match["name"]] + match["end"], text), names, stale


def main() -> None:
    config = parse(ReadmeConfig, description=__doc__ or "")
    has_stale = False
    for page in config.pages:
        try:
            text = page.read_text()
        except OSError as error:
            raise HgfastError(f"cannot read {page} ({error.strerror}): give the pages with --pages") from error
        rendered, names, stale = update_page(text, page)
        if config.check and stale:
            print(
                f"error: {page.name}: out of date: {', '.join(stale)}: run python bench/readme_tables.py",
                file=sys.stderr,
            )
            has_stale = True
        elif stale:
            write_text(page, rendered, "--pages")
        print(f"{page.name}: {len(names)} tables, {len(stale)} {'out of date' if config.check else 'updated'}")
    if has_stale:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
