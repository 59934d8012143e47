"""README's table in short: a line for each comparison with the seed's way, of several records.

What may enter: which comparisons, and finding their figures in the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from record import Row
from records import RESULTS, open_rows, rendered, source
from results_text import digits, markdown, percent

Find = Callable[[Sequence[Row]], tuple[str, str, str]]
"""From the rows, in words: the seed's figure, hgfast's, how many times as good that is. KeyError for rows that lack it."""
LOADER, TRAIN, LATENCY = (RESULTS / f"{name}-2-cores.json" for name in ("loader", "train-step", "latency"))


@dataclass(frozen=True)
class Line:
    """A line: one comparison of a record of a script."""

    words: str
    bench: str
    record: Path
    find: Find


@dataclass(frozen=True)
class Short:
    """The table."""

    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """Lines, and where they are from. Raises `HgfastError` for a record that is missing or lacks a comparison."""
        rows, sources = list[list[str]](), dict[str, None]()
        for line in self.lines:
            record, found = open_rows(line.bench, line.record)
            rows.append([line.words, *rendered(line.record, line.bench, partial(line.find, found))])
            sources[f"{source(record, line.bench)} (`{line.record}`)"] = None
        return markdown(rows, ["", "the seed's way", "hgfast", "times"]) + "\n\n" + "; ".join(sources) + ".\n"


def of_loading(layout: str, cached: bool) -> Find:
    """CPU time an image; the seed reads whole pictures even where there are crops."""

    def find(rows: Sequence[Row]) -> tuple[str, str, str]:
        one = {(row["loader"], row["variant"], row["layout"], row["cached"]): row["cpu_ms_per_image"] for row in rows}
        seed, ours = one["seed_style", "augmented", layout, False], one["dali_cpu", "targets", layout, cached]
        return f"{digits(seed)} ms", f"{digits(ours)} ms", f"{seed / ours:.1f}"

    return find


def of_training(preset: str) -> Find:
    """Images a second from files to weights."""

    def find(rows: Sequence[Row]) -> tuple[str, str, str]:
        one = {row["way"]: row for row in rows if row["preset"] == preset}
        seed, ours = one["seed_style"], one["hgfast"]
        return f"{digits(seed['images_per_s'])} / s", f"{digits(ours['images_per_s'])} / s", f"{ours['speedup']:.1f}"

    return find


def of_latency(preset: str, precision: str) -> Find:
    """One picture in the fastest way of a precision."""

    def find(rows: Sequence[Row]) -> tuple[str, str, str]:
        alone = [row for row in rows if (row["preset"], row["batch"], row["end_to_end"]) == (preset, 1, False)]
        measured = sorted((row for row in alone if row["median_ms"]), key=lambda row: -float(row["median_ms"]))
        seed = {row["way"]: row for row in measured}["seed_style"]
        best = {row["precision"]: row for row in measured}[precision]  # the last is the fastest
        times = f"{best['speedup']:.2f} ± {percent(best['speedup_noise'])}"
        return f"{digits(seed['median_ms'])} ms", f"{digits(best['median_ms'])} ms in {best['way']}", times

    return find


SUMMARY = Short(
    (
        Line("a hand decoded, augmented, with heatmaps; CPU time", "loader", LOADER, of_loading("freihand", False)),
        Line("a person in a photograph, likewise", "loader", LOADER, of_loading("mpii", False)),
        Line("the same from hgfast's crop cache", "loader", LOADER, of_loading("mpii", True)),
        Line("training hg1 at 256 px, pictures", "train_step", TRAIN, of_training("hg1")),
        Line("hg2 at 256 px on one picture, fp32", "latency", LATENCY, of_latency("hg2", "fp32")),
        Line("the same in int8", "latency", LATENCY, of_latency("hg2", "int8")),
    )
)
