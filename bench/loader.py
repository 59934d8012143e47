"""How fast batches come: hgfast's loaders beside one in the manner of the seed, on whole pictures and on cached crops.

    python bench/loader.py --json loader.json --chart loader.png
    python bench/loader.py --data-mpii DIR --layouts [mpii] --threads 8

Without --data-* synthetic pictures are drawn that have the size and the bytes a pixel of real ones. Every row is a lap a
round, in shuffled order, on the same number of cores; figures are medians over the rounds. `contest` says how a lap is
measured, `ways` what each loader does, `likeness` what the pictures are like.
What may enter: the flags, the rows, and what is said about them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal

from contest import Pace, Result, compete
from likeness import LIKENESSES, evenly, make_pictures, weigh
from noise import shares
from record import Row, gpu, machine, make_record, write_record
from tabulate import tabulate
from ways import LoaderWay

from hgfast.cli import parse
from hgfast.config import AugmentConfig, DataChoice
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_file
from pipelines.cache import build, cached
from pipelines.datasets import open_samples
from pipelines.samples import Samples

Layout = Literal["freihand", "mpii"]
ENTRIES = 32768  # of every row's epoch: long enough that no lap waits for an epoch to begin
INDEX = (1000, 130240)  # FreiHAND has 130 240 pictures
INDEX_SECONDS, INDEX_MB = 5.0, 300.0  # what a start with so many may cost
HARDWARE = ("0.0", "0.3", "0.65", "0.8", "1.0")  # shares of the JPEGs that a GPU's hardware decoder gets
VARIANTS = {
    "read_only": ("cold",),
    "decode_only": ("dali", "opencv"),
    "dali_cpu": ("targets", "images"),
    "dali_gpu": ("targets", "images", *(f"hw {share}" for share in HARDWARE), "preloaded"),
    "torch": ("targets", "images"),
    "seed_style": ("augmented", "plain"),
}
"""By loader; `targets` is `images` with the heatmaps that the seed's way has too. Bodies have no plain variant there. On a GPU
`hw` is a share of --loading.hw-decoder-load and `preloaded` has the files in memory, both with heatmaps."""


@dataclass(kw_only=True)
class LoaderConfig:
    """One comparison of loaders."""

    data_freihand: Path | None = None
    """FreiHAND's root folder; none: synthetic hands"""
    data_mpii: Path | None = None
    """MPII's root folder; none: synthetic people"""
    layouts: list[Layout] = field(default_factory=lambda: ["freihand", "mpii"])
    """which data sets"""
    mpii_bytes_per_pixel: float = LIKENESSES["mpii"].bytes_per_pixel
    """of the synthetic photographs; the default is that of some real ones, the official archive's must be some 0.43"""
    rounds: int = 5
    """laps of every row"""
    seconds: float = 2.0
    """a lap's least length"""
    pictures: int = 256
    """different pictures a layout, drawn or taken evenly from the real ones"""
    threads: int = 2
    """decoding threads or worker processes, and cores, of every loader"""
    batch_size: int = 32
    """samples a batch"""
    size: int = 256
    """side of the network's input, pixels"""
    seed: int = 0
    """fixes order and augmentation"""
    work: Path | None = None
    """folder for drawn pictures and crops, kept and used again; none: a temporary one"""
    index: bool = True
    """also measure what an index of 130240 entries costs"""
    quick: bool = False
    """short laps of few pictures, to see that it works; the figures mean little"""
    json: Path | None = None
    """write the record here"""
    chart: Path | None = None
    """write a bar chart here, a PNG file; needs matplotlib"""

    def __post_init__(self) -> None:
        if self.quick:
            self.rounds, self.seconds, self.pictures, self.batch_size = 3, 0.1, 16, 4

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of its range."""
        for name in ("rounds", "pictures", "threads", "batch_size"):
            if getattr(self, name) < 1:
                raise HgfastError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.size < 64 or self.size % 64:
            raise HgfastError(f"--size is {self.size}, must be a multiple of 64")
        if not 0.02 <= self.mpii_bytes_per_pixel <= 1 or self.seconds <= 0 or not self.layouts:
            raise HgfastError("--mpii-bytes-per-pixel must be in [0.02, 1], --seconds above 0, --layouts not empty")
        if self.chart is not None and self.chart.suffix.lower() != ".png":
            raise HgfastError(f"--chart {self.chart} must end in .png")
        for flag, path in (("--json", self.json), ("--chart", self.chart)):
            if path is not None:
                prepare_file(path, flag)

    @property
    def pace(self) -> Pace:
        return Pace(self.seconds, batches=1, warm=1) if self.quick else Pace(self.seconds)


@dataclass(frozen=True)
class Entry:
    """A row: its way and its laps, or why there are none."""

    way: LoaderWay
    result: Result | None
    note: str = ""
    noise: float | None = None  # share by which its images/s may be off

    def times(self, other: Entry) -> float | None:
        """By how much faster than another, median over the rounds."""
        if self.result is None or other.result is None:
            return None
        return median(a.images_per_s / b.images_per_s for a, b in zip(self.result.laps, other.result.laps))

    def is_one(self, loader: str, variant: str, layout: str, on_crops: bool) -> bool:
        return (self.way.loader, self.way.variant, self.way.layout, self.way.cached) == (loader, variant, layout, on_crops)


@dataclass(frozen=True)
class Comparison:
    """Two rows of a layout by loader, variant and whether on crops; `wanted` is how many times faster the second is to be."""

    layout: str
    slow: tuple[str, str, bool]
    fast: tuple[str, str, bool]
    wanted: float | None = None


COMPARISONS = (
    Comparison("freihand", ("seed_style", "augmented", False), ("dali_cpu", "targets", False), 2.5),
    Comparison("freihand", ("seed_style", "plain", False), ("dali_cpu", "targets", False)),
    Comparison("mpii", ("seed_style", "augmented", False), ("dali_cpu", "targets", True), 6.0),
    Comparison("mpii", ("seed_style", "augmented", False), ("dali_cpu", "targets", False), 2.0),
    Comparison("mpii", ("seed_style", "augmented", True), ("dali_cpu", "targets", True)),
    Comparison("mpii", ("seed_style", "augmented", False), ("seed_style", "augmented", True)),
)


def main() -> None:
    config = parse(LoaderConfig, description=__doc__ or "")
    config.validate()
    if config.chart is not None:
        import chart  # before the work: it says what is missing
    where = machine()
    made = tempfile.TemporaryDirectory(prefix="hgfast-loader-") if config.work is None else nullcontext(str(config.work))
    with made as folder:
        entries = measure(config, files(config, Path(folder)))
        rows = [make_row(entry, entries) for entry in entries]
    said = conclusions(entries)
    record = make_record(rows, where, ["matplotlib"] if config.chart else [], said)
    report(entries, rows, said)
    if config.json is not None:
        write_record(record, config.json)
        print(f"record: {config.json}")
    if config.chart is not None:
        chart.draw([row for row in rows if row["variant"] != "index"], config.chart, where["processor"])
        print(f"chart: {config.chart}")


# ---- what is measured ----


def files(config: LoaderConfig, folder: Path) -> dict[tuple[str, bool], Samples]:
    """The samples of every layout, on whole pictures and (True) on cached crops."""
    found: dict[tuple[str, bool], Samples] = {}
    for layout in config.layouts:
        samples = pictures(config, layout, folder)
        crops = folder / layout / "crops"
        build(samples, crops, AugmentConfig(), config.size, config.threads)
        found[layout, False] = samples
        found[layout, True] = cached(samples, crops, AugmentConfig(), config.size)
    return found


def pictures(config: LoaderConfig, layout: Layout, folder: Path) -> Samples:
    """Real samples, or synthetic ones that cost as much."""
    data = config.data_freihand if layout == "freihand" else config.data_mpii
    if data is None:
        like = LIKENESSES[layout]
        if layout == "mpii":
            like = replace(like, bytes_per_pixel=config.mpii_bytes_per_pixel)
        samples = make_pictures(layout, like, folder, config.pictures, config.threads)
        kind = f"synthetic, {like.bytes_per_pixel:.3f} bytes a pixel wanted"
    else:
        choice = DataChoice(dataset=layout, data=data, skip_missing=True)
        samples = open_samples(choice, "all" if layout == "freihand" else "train")
        samples = evenly(samples, config.pictures)
        kind = f"from {data}"
    weight = weigh(samples.paths)
    print(
        f"{layout}: {len(samples)} samples, {kind}; {weight.bytes_per_pixel:.3f} found, "
        f"{weight.kilobytes:.0f} kB and {weight.megapixels:.2f} megapixels a picture; "
        f"median square {median(samples.side):.0f} pixels",
        flush=True,
    )
    return samples


def measure(config: LoaderConfig, found: dict[tuple[str, bool], Samples]) -> list[Entry]:
    """All rows; those that need a GPU where there is none have no result."""
    ways = [
        LoaderWay(
            loader, variant, layout, on_crops, samples, ENTRIES, config.batch_size, config.size, config.threads, config.seed
        )
        for (layout, on_crops), samples in found.items()
        for loader, variants in VARIANTS.items()
        for variant in variants
        if not (loader == "seed_style" and variant == "plain" and layout == "mpii")
    ]
    if config.index:
        first = next(way for way in ways if way.loader == "dali_cpu")
        ways += [replace(first, variant="index", entries=entries) for entries in INDEX]
    there = gpu() is not None
    ways = [way for way in ways if way.variant in ("targets", "images") or way.loader != "dali_gpu" or there]
    possible = [way for way in ways if way.loader != "dali_gpu" or there]
    results = compete(possible, config.rounds, config.pace, config.threads, config.seed)
    spreads = shares([[lap.images_per_s for lap in result.laps] for result in results])
    by_name = {way.name: Entry(way, result, "", share) for way, result, share in zip(possible, results, spreads)}
    return [by_name.get(way.name, Entry(way, None, "no GPU here")) for way in ways]


def make_row(entry: Entry, entries: Sequence[Entry]) -> Row:
    """A row of the record."""
    way, result, weight = entry.way, entry.result, weigh(entry.way.samples.paths)
    seeds = [find(entries, "seed_style", "augmented", way.layout, crops) for crops in (way.cached, False)]
    same, originals = (entry.times(seed) for seed in seeds)
    rates = [lap.images_per_s for lap in result.laps] if result else []
    return {
        "loader": way.loader,
        "variant": way.variant,
        "layout": way.layout,
        "cached": way.cached,
        "images_per_s": round(result.images_per_s, 1) if result else None,
        "images_per_s_min": round(min(rates), 1) if rates else None,
        "images_per_s_max": round(max(rates), 1) if rates else None,
        "noise": entry.noise,
        "cpu_ms_per_image": round(result.cpu_ms, 4) if result else None,
        "times_seed_style": round(same, 3) if same else None,
        "times_seed_style_originals": round(originals, 3) if originals else None,
        "start_s": round(result.start.seconds, 3) if result else None,
        "start_memory_mb": round(result.start.memory_mb, 1) if result else None,
        "rounds": len(rates),
        "entries": way.entries,
        "threads": way.threads,
        "batch_size": way.batch_size,
        "size": way.size,
        "bytes_per_pixel": round(weight.bytes_per_pixel, 4),
        "kilobytes": round(weight.kilobytes, 1),
        "megapixels": round(weight.megapixels, 3),
        "note": entry.note,
    }


def find(entries: Sequence[Entry], loader: str, variant: str, layout: str, on_crops: bool) -> Entry:
    """The row of that description."""
    return next(entry for entry in entries if entry.is_one(loader, variant, layout, on_crops))


# ---- what is said ----


def conclusions(entries: Sequence[Entry]) -> list[str]:
    """What binds DALI on the CPU, for every layout on pictures and on crops."""
    layouts = dict.fromkeys(entry.way.layout for entry in entries)
    return [verdict(entries, layout, on_crops) for layout in layouts for on_crops in (False, True)]


def report(entries: Sequence[Entry], rows: Sequence[Row], said: Sequence[str]) -> None:
    """The tables and the verdicts, for people."""
    layouts = list(dict.fromkeys(entry.way.layout for entry in entries))
    print(main_table(rows))
    print("x seed: images/s over the seed's way, augmented, on the same files. Figures are medians over the rounds.\n")
    print(comparison_table([c for c in COMPARISONS if c.layout in layouts], entries) + "\n")
    print("\n".join(said))
    if any(entry.way.variant == "index" for entry in entries):
        print("\n" + index_text(entries), flush=True)


def main_table(rows: Sequence[Row]) -> str:
    table = [
        {
            "layout": row["layout"],
            "files": on_what(row["cached"]),
            "loader": row["loader"],
            "variant": row["variant"],
            "images/s": row["images_per_s"],
            "lowest": row["images_per_s_min"],
            "highest": row["images_per_s_max"],
            "CPU ms/image": row["cpu_ms_per_image"],
            "x seed": row["times_seed_style"] if row["loader"] not in ("read_only", "decode_only") else None,
            "": row["note"],
        }
        for row in rows
        if row["variant"] != "index"
    ]
    formats = (*[""] * 4, ".0f", ".0f", ".0f", ".2f", ".2f", "")
    return tabulate(table, headers="keys", floatfmt=formats, missingval="-")


def comparison_table(comparisons: Sequence[Comparison], entries: Sequence[Entry]) -> str:
    """How many times faster, in images/s and in CPU time."""
    table = []
    for c in comparisons:
        slow, fast = (find(entries, who[0], who[1], c.layout, who[2]) for who in (c.slow, c.fast))
        if slow.result is None or fast.result is None:
            continue
        row: Row = {"layout": c.layout}
        row |= {"from": in_words(c.slow), "to": in_words(c.fast), "x images/s": fast.times(slow)}
        row |= {"x CPU": slow.result.cpu_ms / fast.result.cpu_ms, "wanted": f">= {c.wanted:g}" if c.wanted else None}
        table.append(row)
    return tabulate(table, headers="keys", floatfmt=".2f")


def in_words(who: tuple[str, str, bool]) -> str:
    return f"{who[0]} {who[1]}, {on_what(who[2])}"


def on_what(on_crops: bool) -> str:
    return "crops" if on_crops else "pictures"


def verdict(entries: Sequence[Entry], layout: str, on_crops: bool) -> str:
    """What binds DALI on the CPU: the disk where cold files come slower than batches; else whatever has the larger part of
    the CPU time, decoding (as measured alone, whole pictures; the loader decodes only what it needs) or the rest."""
    full, decode, read = (
        find(entries, loader, variant, layout, on_crops).result
        for loader, variant in (("dali_cpu", "targets"), ("decode_only", "dali"), ("read_only", "cold"))
    )
    assert full and decode and read  # these need no GPU
    share = min(1.0, decode.cpu_ms / full.cpu_ms)
    binds = "disk" if read.images_per_s < full.images_per_s else "decode" if share >= 0.5 else "augmentation"
    return (
        f"{layout} {on_what(on_crops)}: {binds} binds (DALI needs {full.images_per_s:.0f} files a second, cold files come at "
        f"{read.images_per_s:.0f}; decoding alone is {decode.cpu_ms:.2f} of {full.cpu_ms:.2f} CPU ms an image)"
    )


def index_text(entries: Sequence[Entry]) -> str:
    """What entries cost at the start and in every batch."""
    found = [(e.way.entries, e.result) for e in entries if e.way.variant == "index" and e.result is not None]
    table = [
        {
            "entries": entries_,
            "start, s": result.start.seconds,
            "memory, MB": result.start.memory_mb,
            "images/s": result.images_per_s,
            "CPU ms/image": result.cpu_ms,
        }
        for entries_, result in found
    ]
    (_, small), (count, large) = found
    good = large.start.seconds < INDEX_SECONDS and large.start.memory_mb < INDEX_MB
    words = (
        f"{count} entries: start {large.start.seconds:.2f} s (wanted < {INDEX_SECONDS:g}), {large.start.memory_mb:.0f} MB "
        f"(wanted < {INDEX_MB:g}): {'good' if good else 'too much'}; CPU time of a batch x {large.cpu_ms / small.cpu_ms:.3f}"
    )
    return tabulate(table, headers="keys", floatfmt=("", ".2f", ".0f", ".0f", ".3f")) + "\n" + words


if __name__ == "__main__":
    run(main)
