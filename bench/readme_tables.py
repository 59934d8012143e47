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
from typing import Any, NamedTuple, TypeVar

from hgfast.bench.harness.metric_specs import is_number
from hgfast.bench.harness.record import RESULTS_DIR, ROOT, SCRIPTS, Row, command_of, machine_words, read_record, rows_of
from hgfast.bench.tables.columns import format_number, format_percent, markdown_table, unmeasured_lines
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import write_text

MARKER = re.compile(r"(?P<begin><!-- bench: (?P<name>[^>]*?) -->\n)(?P<text>.*?)(?P<end><!-- /bench -->)", re.DOTALL)
Rows = Sequence[Row]
T = TypeVar("T")


@dataclass(kw_only=True)
class ReadmeConfig:
    """Settings of the generator."""

    check: bool = False
    """change nothing, and exit with 1 if a table is out of date"""
    pages: list[Path] = field(default_factory=lambda: [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"])
    """pages with tables"""


class RecordTable(NamedTuple):
    """A table of one record. bench: bench name of the rows. record: file, relative to the repository root. render: from rows and
    accuracy rows to Markdown. accuracy: a record of bench/pckh.py with the accuracy of the same files."""

    bench: str
    record: Path
    render: Callable[[Rows, Rows], str]
    accuracy: Path | None = None

    @property
    def text(self) -> str:
        """The text between the markers. Raises `HgfastError` if the record is missing or has no such rows."""
        accuracy = [] if self.accuracy is None else read_table("pckh", self.accuracy, lambda rows: rows)[0]
        table, source = read_table(self.bench, self.record, lambda rows: self.render(rows, accuracy))
        files = ", ".join(f"`{path}`" for path in (self.record, self.accuracy) if path is not None)
        return f"{table}\n\n{source} ({files}).\n"


def read_table(bench: str, path: Path, render: Callable[[Rows], T]) -> tuple[T, str]:
    """Return what `render` makes of the rows of a script in a record, and the command, machine and date of these rows.

    Raises:
        HgfastError: the record, relative to the repository root, has no such rows, or they lack a key that the table needs.
    """
    record, script = read_record(ROOT / path), f"bench/{SCRIPTS.get(bench, bench)}.py"
    if not (rows := rows_of(record, bench)):
        raise HgfastError(f"{path} has no rows of {script}, which a table needs: write it again with that script")
    try:
        return render(rows), f"`{command_of(record, bench)}` on {machine_words(record)}"
    except KeyError as error:
        raise HgfastError(f"{path} has no {error} in its rows: write it again with {script}") from error


# ---- tables of one record ----


def latency_table(rows: Rows, accuracy: Rows) -> str:
    """Batch 1, from images in memory: a row per variant and precision, three columns per network, and the accuracy."""
    single_rows = [row for row in rows if row["batch"] == 1 and row["median_ms"] and not row["end_to_end"]]
    presets = list(dict.fromkeys(row["preset"] for row in single_rows))
    metric = next((key for key in ("pckh@0.5", "pck@0.2") if any(key in row for row in accuracy)), "pck@0.2")
    by_method: dict[tuple[str, str], dict[str, Row]] = {}
    for row in single_rows:
        by_method.setdefault((row["way"], row["precision"]), {})[row["preset"]] = row
    lines = []
    for (method, precision), rows_by_preset in by_method.items():
        cells = [cell for preset in presets for cell in latency_cells(rows_by_preset.get(preset))]
        scores = [score for row in rows_by_preset.values() if (score := accuracy_cell(row, accuracy, metric))][:1] or [""]
        lines.append([method, precision, *cells, *(scores if accuracy else [])])
    headers = [title for preset in presets for title in (f"{preset}, ms", "× princeton", "px error, mean / max")]
    missing = unmeasured_lines(rows, ("way", "precision"))
    left_out = f"\n\nNot measured: {'; '.join(missing)}." if missing else ""
    return markdown_table(lines, ["variant", "precision", *headers, *([metric] if accuracy else [])], 2) + left_out


def batch_table(rows: Rows, _: Rows) -> str:
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
    errors = f"{format_number(row['mean_px_error'])} / {format_number(row['max_px_error'])}"
    return [format_number(row["median_ms"]), speedup, errors]


FP32_METHODS = ("seed_style", "channels_last", "compile")
"""The torch variants of a checkpoint whose keypoints equal those that pckh evaluated."""


def accuracy_cell(row: Row, accuracy: Rows, metric: str) -> str:
    """Return the accuracy of the same file in the same runtime and precision; "" if it was not evaluated."""
    run_as = "checkpoint" if row["runtime"] == "torch" and row["way"] in FP32_METHODS else f"{row['runtime']} {row['precision']}"
    scores = [scored.get(metric) for scored in accuracy if (scored["file"], scored["what"]) == (row["file"], run_as)]
    score = next(filter(is_number, scores), None)
    return "" if score is None else f"{score:.2f}" if metric.startswith("pckh") else f"{score:.4f}"


SOURCES = {("freihand", False): "hands", ("mpii", False): "photographs", ("mpii", True): "cached crops"}
LOADER_TITLES = {
    ("decode_only", "dali"): "decoding only (DALI)",
    ("dali_gpu", "targets"): "`--loader dali` on a GPU, with heatmaps",
    ("dali_cpu", "targets"): "`--loader dali`, with heatmaps",
    ("torch", "targets"): "`--loader opencv`, with heatmaps",
    ("seed_style", "augmented"): "princeton's loader",
}


def loader_table(rows: Rows, _: Rows) -> str:
    """CPU time per image, and the speedup over princeton's loader on the same images for the rows of a complete loader."""
    times = loader_times(rows)
    lines = []
    for loader_key, row_title in LOADER_TITLES.items():
        cells = []
        for source in SOURCES:
            hgfast, princeton = times.get((*loader_key, *source)), times.get(("seed_style", "augmented", *source))
            is_whole_loader = loader_key[0] not in ("decode_only", "seed_style")
            ratio = f"{princeton / hgfast:.1f}" if hgfast and princeton and is_whole_loader else ""
            cells += [format_number(hgfast) if hgfast else "", ratio]
        if any(cells):
            lines.append([row_title, *cells])
    headers = [title for source_title in SOURCES.values() for title in (source_title, "speedup")]
    return markdown_table(lines, ["CPU ms per image", *headers])


def loader_times(rows: Rows) -> dict[tuple[str, str, str, bool], Any]:
    """Return the CPU time per image by loader, variant, layout and whether on cached crops; None if not measured."""
    return {(row["loader"], row["variant"], row["layout"], row["cached"]): row["cpu_ms_per_image"] for row in rows}


def train_step_table(rows: Rows, _: Rows) -> str:
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


# ---- the summary of README.md: comparisons with princeton from several records ----

Figures = tuple[str, str, str]
"""The cells princeton, hgfast and speedup."""


class SummaryLine(NamedTuple):
    """One comparison, from a record of a script. find_figures: raises KeyError if the rows lack the comparison."""

    title: str
    bench: str
    record: Path
    find_figures: Callable[[Rows], Figures]


class SummaryTable(NamedTuple):
    """The summary table."""

    lines: tuple[SummaryLine, ...]

    @property
    def text(self) -> str:
        """The text between the markers, with its sources. Raises `HgfastError` if a record is missing or lacks a comparison."""
        rows, sources = list[list[str]](), dict[str, None]()
        for line in self.lines:
            figures, source = read_table(line.bench, line.record, line.find_figures)
            rows.append([line.title, *figures])
            sources[f"{source} (`{line.record}`)"] = None
        return markdown_table(rows, ["", "princeton", "hgfast", "speedup"]) + "\n\n" + "; ".join(sources) + ".\n"


def loading_figures(rows: Rows, layout: str, cached: bool) -> Figures:
    """CPU time per image; princeton's loader always reads whole images."""
    times = loader_times(rows)
    princeton, hgfast = times["seed_style", "augmented", layout, False], times["dali_cpu", "targets", layout, cached]
    return f"{format_number(princeton)} ms", f"{format_number(hgfast)} ms", f"{princeton / hgfast:.1f}"


def training_figures(rows: Rows, preset: str) -> Figures:
    """Images per second from files to updated weights."""
    rows_by_key = {row["way"]: row for row in rows if row["preset"] == preset}
    princeton, hgfast = rows_by_key["seed_style"], rows_by_key["hgfast"]
    rates = [f"{format_number(row['images_per_s'])} / s" for row in (princeton, hgfast)]
    return rates[0], rates[1], f"{hgfast['speedup']:.1f}"


def latency_figures(rows: Rows, preset: str, precision: str) -> Figures:
    """Time of one image in the fastest variant of a precision."""
    single_rows = [row for row in rows if (row["preset"], row["batch"], row["end_to_end"]) == (preset, 1, False)]
    measured = sorted((row for row in single_rows if row["median_ms"]), key=lambda row: -float(row["median_ms"]))
    princeton = {row["way"]: row for row in measured}["seed_style"]
    best = {row["precision"]: row for row in measured}[precision]  # the last one wins, which is the fastest
    factor = f"{best['speedup']:.2f} ± {format_percent(best['speedup_noise'])}"
    return f"{format_number(princeton['median_ms'])} ms", f"{format_number(best['median_ms'])} ms in {best['way']}", factor


LOADER, TRAIN_STEP, LATENCY = (RESULTS_DIR / f"{name}-2-cores.json" for name in ("loader", "train-step", "latency"))
TABLES: dict[str, RecordTable | SummaryTable] = {
    "summary": SummaryTable(
        (
            SummaryLine("loading a hand (CPU time per image)", "loader", LOADER, lambda r: loading_figures(r, "freihand", False)),
            SummaryLine("loading a person in a photograph", "loader", LOADER, lambda r: loading_figures(r, "mpii", False)),
            SummaryLine("loading a person from the crop cache", "loader", LOADER, lambda r: loading_figures(r, "mpii", True)),
            SummaryLine("training hg1 at 256 px (images)", "train_step", TRAIN_STEP, lambda r: training_figures(r, "hg1")),
            SummaryLine("hg2 at 256 px, batch 1, fp32", "latency", LATENCY, lambda r: latency_figures(r, "hg2", "fp32")),
            SummaryLine("hg2 at 256 px, batch 1, int8", "latency", LATENCY, lambda r: latency_figures(r, "hg2", "int8")),
        )
    ),
    "latency": RecordTable("latency", LATENCY, latency_table),
    "latency-batches": RecordTable("latency", RESULTS_DIR / "latency-batches-2-cores.json", batch_table),
    "latency-trained": RecordTable(
        "latency", RESULTS_DIR / "latency-lspet-hg2-2-cores.json", latency_table, RESULTS_DIR / "pckh-exports-2-cores.json"
    ),
    "loader": RecordTable("loader", LOADER, loader_table),
    "train_step": RecordTable("train_step", TRAIN_STEP, train_step_table),
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
            text = page.read_text("utf-8")
        except OSError as error:
            raise HgfastError(f"cannot read {page} ({error.strerror}): give the pages with --pages") from error
        rendered, names, stale = update_page(text, page)
        if config.check and stale:
            print(f"error: {page.name}: out of date: {', '.join(stale)}: run python bench/readme_tables.py", file=sys.stderr)
            has_stale = True
        elif stale:
            write_text(page, rendered, "--pages")
        print(f"{page.name}: {len(names)} tables, {len(stale)} {'out of date' if config.check else 'updated'}")
    if has_stale:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
