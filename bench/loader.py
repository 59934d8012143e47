"""Measure the throughput of hgfast's loaders compared with princeton's, on whole images and on cached crops.

    python bench/loader.py --json loader.json --chart loader.png
    python bench/loader.py --data-mpii DIR --layouts [mpii] --threads 8

Without --data-* the images are synthetic, with the size and bytes per pixel of real ones. Every loader runs on the same number
of cores, in interleaved rounds in shuffled order; results are medians over the rounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal

from tabulate import tabulate

from hgfast.bench.harness.interleaved import Result, TrialSettings, run_interleaved
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.realistic_images import IMAGE_STATISTICS, file_statistics, make_images, take_evenly
from hgfast.bench.harness.record import Row, gpu_name, machine_info, make_record, write_record
from hgfast.bench.variants.loader import LoaderVariant
from hgfast.cli import parse
from hgfast.config import AugmentConfig, DataConfig
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_file
from hgfast.pipelines.crop_cache.builder import build, use_cache
from hgfast.pipelines.datasets import open_samples
from hgfast.pipelines.samples import Samples

Layout = Literal["freihand", "mpii"]
EPOCH_LENGTH = 32768  # samples per epoch: long enough that no trial waits for an epoch to start
INDEX_LENGTHS = (1000, 130240)  # FreiHAND has 130 240 images
MAX_INDEX_SECONDS, MAX_INDEX_MB = 5.0, 300.0  # limits of the startup cost with the longer index
HW_DECODER_LOADS = ("0.0", "0.3", "0.65", "0.8", "1.0")  # shares of the JPEGs for the GPU's hardware decoder
LOADER_MODES = {
    "read_only": ("cold",),
    "decode_only": ("dali", "opencv"),
    "dali_cpu": ("targets", "images"),
    "dali_gpu": ("targets", "images", *(f"hw {share}" for share in HW_DECODER_LOADS), "preloaded"),
    "torch": ("targets", "images"),
    "seed_style": ("augmented", "plain"),
}
"""Modes by loader. `targets` is `images` plus heatmaps, which princeton's loader renders too; that loader has no `plain` mode for
people. On a GPU, `hw SHARE` sets --loading.hw-decoder-load and `preloaded` keeps the files in memory, both with heatmaps."""


@dataclass(kw_only=True)
class LoaderConfig:
    """Settings of the loader benchmark."""

    data_freihand: Path | None = None
    """root folder of FreiHAND; none: synthetic hands"""
    data_mpii: Path | None = None
    """root folder of MPII; none: synthetic people"""
    layouts: list[Layout] = field(default_factory=lambda: ["freihand", "mpii"])
    """data sets to measure"""
    mpii_bytes_per_pixel: float = IMAGE_STATISTICS["mpii"].bytes_per_pixel
    """bytes per pixel of the synthetic photographs; the default is that of a few real ones, the official ones have about 0.43"""
    rounds: int = 5
    """trials per row"""
    seconds: float = 2.0
    """minimum length of a trial"""
    num_images: int = 256
    """number of images per data set, synthetic or evenly sampled from the real ones"""
    threads: int = 2
    """decoding threads or worker processes, and cores, of every loader"""
    batch_size: int = 32
    """samples per batch"""
    size: int = 256
    """side of the network's input, pixels"""
    seed: int = 0
    """random seed of order and augmentation"""
    work: Path | None = None
    """folder of synthetic images and crops, which later runs reuse; none: a temporary folder"""
    index: bool = True
    """also measure the cost of an index of 130240 entries"""
    quick: bool = False
    """short trials on few images, for a smoke test; the results are not meaningful"""
    json: Path | None = None
    """write the record to this file"""
    chart: Path | None = None
    """write a bar chart to this PNG file; requires matplotlib"""

    def __post_init__(self) -> None:
        if self.quick:
            self.rounds, self.seconds, self.num_images, self.batch_size = 3, 0.1, 16, 4

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of range."""
        for name in ("rounds", "num_images", "threads", "batch_size"):
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
    def trial_settings(self) -> TrialSettings:
        return TrialSettings(self.seconds, batches=1, warm=1) if self.quick else TrialSettings(self.seconds)


@dataclass(frozen=True)
class LoaderResult:
    """A variant and its result, or a note if it was not measured. noise: relative error of images/s."""

    variant: LoaderVariant
    result: Result | None
    note: str = ""
    noise: float | None = None

    def speedup_over(self, other: LoaderResult) -> float | None:
        """Return the median over the rounds of the ratio of images/s to those of another variant."""
        if self.result is None or other.result is None:
            return None
        return median(a.images_per_s / b.images_per_s for a, b in zip(self.result.trials, other.result.trials))

    def matches(self, loader: str, mode: str, layout: str, cached: bool) -> bool:
        variant = self.variant
        return (variant.loader, variant.mode, variant.layout, variant.cached) == (loader, mode, layout, cached)


@dataclass(frozen=True)
class Comparison:
    """Two rows of a layout, each as loader, mode and whether on cached crops; the candidate should reach `target_speedup`."""

    layout: str
    baseline: tuple[str, str, bool]
    candidate: tuple[str, str, bool]
    target_speedup: float | None = None


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
        from hgfast.bench.tables import loader_chart  # before measuring, because it fails without matplotlib
    machine = machine_info()
    temp_dir = tempfile.TemporaryDirectory(prefix="hgfast-loader-") if config.work is None else nullcontext(str(config.work))
    with temp_dir as folder:
        entries = measure(config, open_sources(config, Path(folder)))
        rows = [make_row(entry, entries) for entry in entries]
    verdicts = conclusions(entries)
    record = make_record(rows, machine, ["matplotlib"] if config.chart else [], verdicts)
    print_report(entries, rows, verdicts)
    if config.json is not None:
        write_record(record, config.json)
        print(f"record: {config.json}")
    if config.chart is not None:
        loader_chart.draw_loader_chart([row for row in rows if row["variant"] != "index"], config.chart, machine["processor"])
        print(f"chart: {config.chart}")


# ---- measuring ----


def open_sources(config: LoaderConfig, folder: Path) -> dict[tuple[str, bool], Samples]:
    """Return the samples by layout and whether they are cached crops (True) or whole images (False)."""
    sources: dict[tuple[str, bool], Samples] = {}
    for layout in config.layouts:
        samples = open_images(config, layout, folder)
        crops = folder / layout / "crops"
        build(samples, crops, AugmentConfig(), config.size, config.threads)
        sources[layout, False] = samples
        sources[layout, True] = use_cache(samples, crops, AugmentConfig(), config.size)
    return sources


def open_images(config: LoaderConfig, layout: Layout, folder: Path) -> Samples:
    """Return real samples, or synthetic ones with the same decoding cost."""
    data = config.data_freihand if layout == "freihand" else config.data_mpii
    if data is None:
        statistics = IMAGE_STATISTICS[layout]
        if layout == "mpii":
            statistics = replace(statistics, bytes_per_pixel=config.mpii_bytes_per_pixel)
        samples = make_images(layout, statistics, folder, config.num_images, config.threads)
        origin = f"synthetic, target {statistics.bytes_per_pixel:.3f} bytes per pixel"
    else:
        choice = DataConfig(dataset=layout, data=data, skip_missing=True)
        samples = open_samples(choice, "all" if layout == "freihand" else "train")
        samples = take_evenly(samples, config.num_images)
        origin = f"from {data}"
    file_stats = file_statistics(samples.paths)
    print(
        f"{layout}: {len(samples)} samples, {origin}; {file_stats.bytes_per_pixel:.3f} bytes per pixel, "
        f"{file_stats.kilobytes:.0f} kB and {file_stats.megapixels:.2f} megapixels per image; "
        f"median side of the crops {median(samples.side):.0f} pixels",
        flush=True,
    )
    return samples


def measure(config: LoaderConfig, sources: dict[tuple[str, bool], Samples]) -> list[LoaderResult]:
    """Measure all variants; without a GPU, variants that need one have no result."""
    variants = [
        LoaderVariant(
            loader, mode, layout, on_crops, samples, EPOCH_LENGTH, config.batch_size, config.size, config.threads, config.seed
        )
        for (layout, on_crops), samples in sources.items()
        for loader, modes in LOADER_MODES.items()
        for mode in modes
        if not (loader == "seed_style" and mode == "plain" and layout == "mpii")
    ]
    if config.index:
        first = next(variant for variant in variants if variant.loader == "dali_cpu")
        variants += [replace(first, mode="index", entries=entries) for entries in INDEX_LENGTHS]
    has_gpu = gpu_name() is not None
    variants = [v for v in variants if v.mode in ("targets", "images") or v.loader != "dali_gpu" or has_gpu]
    runnable = [variant for variant in variants if variant.loader != "dali_gpu" or has_gpu]
    results = run_interleaved(runnable, config.rounds, config.trial_settings, config.threads, config.seed)
    noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in results])
    by_name = {v.name: LoaderResult(v, result, "", noise) for v, result, noise in zip(runnable, results, noise_levels)}
    return [by_name.get(variant.name, LoaderResult(variant, None, "no GPU here")) for variant in variants]


def make_row(entry: LoaderResult, entries: Sequence[LoaderResult]) -> Row:
    """Return the row of a variant."""
    variant, result, file_stats = entry.variant, entry.result, file_statistics(entry.variant.samples.paths)
    princeton_results = [
        find_result(entries, "seed_style", "augmented", variant.layout, crops) for crops in (variant.cached, False)
    ]
    speedup, speedup_originals = (entry.speedup_over(princeton) for princeton in princeton_results)
    rates = [trial.images_per_s for trial in result.trials] if result else []
    return {
        "loader": variant.loader,
        "variant": variant.mode,
        "layout": variant.layout,
        "cached": variant.cached,
        "images_per_s": round(result.images_per_s, 1) if result else None,
        "images_per_s_min": round(min(rates), 1) if rates else None,
        "images_per_s_max": round(max(rates), 1) if rates else None,
        "noise": entry.noise,
        "cpu_ms_per_image": round(result.cpu_ms_per_image, 4) if result else None,
        "times_seed_style": round(speedup, 3) if speedup else None,
        "times_seed_style_originals": round(speedup_originals, 3) if speedup_originals else None,
        "start_s": round(result.startup.seconds, 3) if result else None,
        "start_memory_mb": round(result.startup.memory_mb, 1) if result else None,
        "rounds": len(rates),
        "entries": variant.entries,
        "threads": variant.threads,
        "batch_size": variant.batch_size,
        "size": variant.size,
        "bytes_per_pixel": round(file_stats.bytes_per_pixel, 4),
        "kilobytes": round(file_stats.kilobytes, 1),
        "megapixels": round(file_stats.megapixels, 3),
        "note": entry.note,
    }


def find_result(entries: Sequence[LoaderResult], loader: str, mode: str, layout: str, cached: bool) -> LoaderResult:
    """Return the entry with these properties."""
    return next(entry for entry in entries if entry.matches(loader, mode, layout, cached))


# ---- the report ----


def conclusions(entries: Sequence[LoaderResult]) -> list[str]:
    """Return the bottleneck of DALI on the CPU, for every layout on images and on crops."""
    layouts = dict.fromkeys(entry.variant.layout for entry in entries)
    return [summarize_bottleneck(entries, layout, cached) for layout in layouts for cached in (False, True)]


def print_report(entries: Sequence[LoaderResult], rows: Sequence[Row], verdicts: Sequence[str]) -> None:
    """Print the tables and the verdicts."""
    layouts = list(dict.fromkeys(entry.variant.layout for entry in entries))
    print(main_table(rows))
    print("x princeton: images/s relative to princeton's loader, augmented, on the same files. Values are medians over rounds.\n")
    print(comparison_table([c for c in COMPARISONS if c.layout in layouts], entries) + "\n")
    print("\n".join(verdicts))
    if any(entry.variant.mode == "index" for entry in entries):
        print("\n" + index_report(entries), flush=True)


def main_table(rows: Sequence[Row]) -> str:
    table = [
        {
            "layout": row["layout"],
            "files": source_name(row["cached"]),
            "loader": row["loader"],
            "variant": row["variant"],
            "images/s": row["images_per_s"],
            "lowest": row["images_per_s_min"],
            "highest": row["images_per_s_max"],
            "CPU ms/image": row["cpu_ms_per_image"],
            "x princeton": row["times_seed_style"] if row["loader"] not in ("read_only", "decode_only") else None,
            "": row["note"],
        }
        for row in rows
        if row["variant"] != "index"
    ]
    formats = (*[""] * 4, ".0f", ".0f", ".0f", ".2f", ".2f", "")
    return tabulate(table, headers="keys", floatfmt=formats, missingval="-")


def comparison_table(comparisons: Sequence[Comparison], entries: Sequence[LoaderResult]) -> str:
    """Format the speedups of the comparisons, in images/s and in CPU time."""
    table = []
    for c in comparisons:
        baseline, candidate = (
            find_result(entries, row_key[0], row_key[1], c.layout, row_key[2]) for row_key in (c.baseline, c.candidate)
        )
        if baseline.result is None or candidate.result is None:
            continue
        row: Row = {"layout": c.layout}
        row |= {"from": describe_row(c.baseline), "to": describe_row(c.candidate), "x images/s": candidate.speedup_over(baseline)}
        row |= {
            "x CPU": baseline.result.cpu_ms_per_image / candidate.result.cpu_ms_per_image,
            "target": f">= {c.target_speedup:g}" if c.target_speedup else None,
        }
        table.append(row)
    return tabulate(table, headers="keys", floatfmt=".2f")


def describe_row(row_key: tuple[str, str, bool]) -> str:
    return f"{row_key[0]} {row_key[1]}, {source_name(row_key[2])}"


def source_name(cached: bool) -> str:
    return "crops" if cached else "images"


def summarize_bottleneck(entries: Sequence[LoaderResult], layout: str, cached: bool) -> str:
    """Describe the bottleneck of DALI on the CPU: the disk if reading uncached files is slower than loading, else the larger
    part of the CPU time, decoding or augmentation. Decoding is measured alone on whole images; the loader decodes only the
    part that it needs."""
    full, decode, read = (
        find_result(entries, loader, mode, layout, cached).result
        for loader, mode in (("dali_cpu", "targets"), ("decode_only", "dali"), ("read_only", "cold"))
    )
    assert full and decode and read  # none of these needs a GPU
    share = min(1.0, decode.cpu_ms_per_image / full.cpu_ms_per_image)
    bottleneck = "disk" if read.images_per_s < full.images_per_s else "decode" if share >= 0.5 else "augmentation"
    return (
        f"{layout} {source_name(cached)}: the bottleneck is {bottleneck} (DALI loads {full.images_per_s:.0f} files per second, "
        f"uncached files are read at {read.images_per_s:.0f}; decoding takes {decode.cpu_ms_per_image:.2f} of "
        f"{full.cpu_ms_per_image:.2f} CPU ms per image)"
    )


def index_report(entries: Sequence[LoaderResult]) -> str:
    """Format the startup cost and the throughput by index length."""
    results = [(e.variant.entries, e.result) for e in entries if e.variant.mode == "index" and e.result is not None]
    table = [
        {
            "entries": length,
            "start, s": result.startup.seconds,
            "memory, MB": result.startup.memory_mb,
            "images/s": result.images_per_s,
            "CPU ms/image": result.cpu_ms_per_image,
        }
        for length, result in results
    ]
    (_, small), (count, large) = results
    within_limits = large.startup.seconds < MAX_INDEX_SECONDS and large.startup.memory_mb < MAX_INDEX_MB
    verdict = (
        f"{count} entries: start {large.startup.seconds:.2f} s (target < {MAX_INDEX_SECONDS:g}), {large.startup.memory_mb:.0f} "
        f"MB (target < {MAX_INDEX_MB:g}): {'good' if within_limits else 'too much'}; CPU time of a batch "
        f"x {large.cpu_ms_per_image / small.cpu_ms_per_image:.3f}"
    )
    return tabulate(table, headers="keys", floatfmt=("", ".2f", ".0f", ".0f", ".3f")) + "\n" + verdict


if __name__ == "__main__":
    run_main(main)
