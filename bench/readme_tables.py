"""The tables of speed in README.md and docs/benchmarks.md, from the records in bench/results/.

    python bench/readme_tables.py
    python bench/readme_tables.py --check

writes anew what is between `<!-- bench: NAME -->` and `<!-- /bench -->` in them, with the command and the machine beneath;
--check changes nothing and ends with 1 where a page is not what it would write.
What may enter: the names, the records they are of, the tables, and putting them where they belong.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measures import is_number
from readme_summary import SUMMARY, Short
from record import Row
from records import RESULTS, ROOT, open_rows, rendered, source
from results_text import digits, markdown, not_measured, percent

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.files import write_text

MARKED = re.compile(r"(?P<begin><!-- bench: (?P<name>[^>]*?) -->\n)(?P<text>.*?)(?P<end><!-- /bench -->)", re.DOTALL)


@dataclass(kw_only=True)
class ReadmeConfig:
    """One look at the tables."""

    check: bool = False
    """change nothing, and end with 1 where a table is not what its record gives"""
    pages: list[Path] = field(default_factory=lambda: [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"])
    """where the tables are"""


@dataclass(frozen=True)
class Table:
    """bench: the script whose rows are shown. record: the file that has them, below the project's folder. render: to Markdown.
    accuracy: a record of bench/pckh.py whose figures stand beside those of the same files."""

    bench: str
    record: Path
    render: Callable[[Sequence[Row], Sequence[Row]], str]
    accuracy: Path | None = None

    @property
    def text(self) -> str:
        """What is between the markers. Raises `HgfastError` for a record that is missing or has no such rows."""
        record, rows = open_rows(self.bench, self.record)
        accuracy = [] if self.accuracy is None else open_rows("pckh", self.accuracy)[1]
        files = ", ".join(f"`{path}`" for path in (self.record, self.accuracy) if path is not None)
        made = rendered(self.record, self.bench, lambda: self.render(rows, accuracy))
        return f"{made}\n\n{source(record, self.bench)} ({files}).\n"


# ---- the tables ----


def latency(rows: Sequence[Row], accuracy: Sequence[Row]) -> str:
    """Batch 1, from pictures in memory: a row for each way and precision, three columns for each network, and PCK."""
    alone = [row for row in rows if row["batch"] == 1 and row["median_ms"] and not row["end_to_end"]]
    presets = list(dict.fromkeys(row["preset"] for row in alone))
    by_way: dict[tuple[str, str], dict[str, Row]] = {}
    for row in alone:
        by_way.setdefault((row["way"], row["precision"]), {})[row["preset"]] = row
    lines = []
    for (way, precision), found in by_way.items():
        cells = [cell for preset in presets for cell in latency_cells(found.get(preset))]
        scores = [score for row in found.values() if (score := score_of(row, accuracy))][:1] or [""]
        lines.append([way, precision, *cells, *(scores if accuracy else [])])
    headers = [title for preset in presets for title in (f"{preset}, ms", "× seed", "px off, mean / most")]
    headers += [score_name(accuracy)] if accuracy else []
    missing = not_measured(rows, ("way", "precision"))
    left_out = f"\n\nNot measured: {'; '.join(missing)}." if missing else ""
    return markdown(lines, ["way", "precision", *headers], 2) + left_out


def batches(rows: Sequence[Row], _: Sequence[Row]) -> str:
    """The network that comes last: pictures a second at each batch, over the seed's, and what the machine's rates would allow."""
    preset = rows[-1]["preset"]
    alone = [row for row in rows if row["preset"] == preset and row["median_ms"] and not row["end_to_end"]]
    sizes = list(dict.fromkeys(row["batch"] for row in alone))
    found = {(row["way"], row["precision"], row["batch"]): row for row in alone}
    lines = []
    for way, precision in dict.fromkeys((row["way"], row["precision"]) for row in alone):
        cells = []
        for size in sizes:
            row = found[way, precision, size]
            floor = digits(1000 * size / row["floor_ms"]) if row["floor_ms"] else ""
            cells += [digits(row["images_per_s"]), latency_cells(row)[1], floor]
        lines.append([way, precision, *cells])
    titles = [title for size in sizes for title in (f"{size} at once, images/s", "× seed", "floor's")]
    return markdown(lines, [f"{preset}, way", "precision", *titles], 2)


def latency_cells(row: Row | None) -> list[str]:
    """The figures of a way with a network."""
    if row is None:
        return ["", "", ""]
    noise = row.get("speedup_noise") or row.get("noise")
    speedup = digits(row["speedup"]) + (f" ± {percent(noise)}" if noise and row["way"] != "seed_style" else "")
    return [digits(row["median_ms"]), speedup, f"{digits(row['mean_px_error'])} / {digits(row['max_px_error'])}"]


IN_FP32 = ("seed_style", "channels_last", "compile")
"""The ways of a checkpoint that compute what was scored of it."""


def score_name(accuracy: Sequence[Row]) -> str:
    """The figure that is shown of a record of pckh."""
    return next((key for key in ("pckh@0.5", "pck@0.2") if any(key in row for row in accuracy)), "pck@0.2")


def score_of(row: Row, accuracy: Sequence[Row]) -> str:
    """Of the same file in the same runtime and precision; "" where that was not scored."""
    ran = "checkpoint" if row["runtime"] == "torch" and row["way"] in IN_FP32 else f"{row['runtime']} {row['precision']}"
    for scored in accuracy:
        if (scored["file"], scored["what"]) == (row["file"], ran) and is_number(scored.get(score_name(accuracy))):
            value = float(scored[score_name(accuracy)])
            return f"{value:.2f}" if score_name(accuracy).startswith("pckh") else f"{value:.4f}"
    return ""


PLACES = {("freihand", False): "hands", ("mpii", False): "photographs", ("mpii", True): "crops of them"}
LOADERS = {
    ("decode_only", "dali"): "decoding alone (DALI)",
    ("dali_gpu", "targets"): "`--loader dali` on a GPU, with heatmaps",
    ("dali_cpu", "targets"): "`--loader dali`, with heatmaps",
    ("torch", "targets"): "`--loader torch`, with heatmaps",
    ("seed_style", "augmented"): "a loader written the seed's way",
}


def loader(rows: Sequence[Row], _: Sequence[Row]) -> str:
    """CPU time an image, and how many times the seed's way takes that, on the same pictures."""
    found = {(row["loader"], row["variant"], row["layout"], row["cached"]): row["cpu_ms_per_image"] for row in rows}
    lines = []
    for who, words in LOADERS.items():
        cells = [cell for place in PLACES for cell in loader_cells(found.get((*who, *place)), found, who, place)]
        if any(cells):
            lines.append([words, *cells])
    headers = [title for words in PLACES.values() for title in (words, "seed ×")]
    return markdown(lines, ["CPU ms an image", *headers])


def loader_cells(
    own: float | None, found: dict[tuple[str, str, str, bool], float | None], who: tuple[str, str], place: tuple[str, bool]
) -> list[str]:
    """The time, and the seed's over it; nothing over what is no whole loader."""
    seed = found.get(("seed_style", "augmented", *place))
    whole = own and seed and who[0] not in ("decode_only", "seed_style")
    return [digits(own) if own else "", f"{seed / own:.1f}" if own and seed and whole else ""]


def train_step(rows: Sequence[Row], _: Sequence[Row]) -> str:
    """From files to the next weights, and the step and the loader alone."""
    lines = []
    for row in rows:
        if not row["images_per_s"]:
            continue
        noise = row.get("noise")
        rate = digits(row["images_per_s"]) + (f" ± {percent(noise)}" if noise else "")
        times = [digits(row[key]) if row[key] else "" for key in ("speedup", "step_ms", "step_speedup", "loader_ms")]
        lines.append([row["layout"], row["preset"], row["way"], row["precision"], str(row["batch_size"]), rate, *times])
    titles = ["data", "network", "way", "precision", "batch", "images/s", "× seed", "step, ms", "× seed's", "loader, ms"]
    return markdown(lines, titles, 4)


TABLES: dict[str, Table | Short] = {
    "summary": SUMMARY,
    "latency": Table("latency", RESULTS / "latency-2-cores.json", latency),
    "latency-batches": Table("latency", RESULTS / "latency-batches-2-cores.json", batches),
    "latency-trained": Table(
        "latency", RESULTS / "latency-lspet-hg2-2-cores.json", latency, RESULTS / "pckh-exports-2-cores.json"
    ),
    "loader": Table("loader", RESULTS / "loader-2-cores.json", loader),
    "train_step": Table("train_step", RESULTS / "train-step-2-cores.json", train_step),
}
"""By the name in the markers."""

# ---- the pages ----


def rewrite(text: str, page: Path) -> tuple[str, list[str], list[str]]:
    """The page as it should be, the names of its tables, and of those that were not so.

    Raises:
        HgfastError: a name that is none, or a marker without its other half.
    """
    found = list(MARKED.finditer(text))
    if text.count("<!-- bench:") != len(found) or text.count("<!-- /bench -->") != len(found):
        raise HgfastError(f"{page}: a `<!-- bench: NAME -->` has no `<!-- /bench -->` on a later line, or the other way round")
    if unknown := [one["name"] for one in found if one["name"] not in TABLES]:
        raise HgfastError(f"{page}: there is no table {unknown[0]!r}; bench/readme_tables.py knows {', '.join(TABLES)}")
    wanted = {one["name"]: TABLES[one["name"]].text for one in found}
    stale = [one["name"] for one in found if one["text"] != wanted[one["name"]]]
    return MARKED.sub(lambda one: one["begin"] + wanted[one["name"]] + one["end"], text), [one["name"] for one in found], stale


def main() -> None:
    config = parse(ReadmeConfig, description=__doc__ or "")
    old = False
    for page in config.pages:
        try:
            text = page.read_text()
        except OSError as error:
            raise HgfastError(f"cannot read {page} ({error.strerror}): name the pages with --pages") from error
        wanted, names, stale = rewrite(text, page)
        if config.check and stale:
            words = f"{page.name}'s table {', '.join(stale)} is not what its record gives"
            print(f"error: {words}: run python bench/readme_tables.py", file=sys.stderr)
            old = True
        elif stale:
            write_text(page, wanted, "--pages")
        print(f"{page.name}: {len(names)} tables, {len(stale)} of them new")
    if old:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
