"""Measure the variants of `loader.py`, and compare them with each other and with the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tabulate import tabulate

from hgfast.bench.harness.config import ImagesConfig, Layout, LoaderConfig
from hgfast.bench.harness.interleaved import ROUNDS_MISSING, Result, TrialSettings, raise_failures, run_interleaved
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.realistic_images import IMAGE_STATISTICS, file_statistics, make_images, take_evenly
from hgfast.bench.harness.record import Row, gpu_name, machine_info, make_record, save_record, write_record
from hgfast.bench.tables.charts import draw_chart
from hgfast.bench.tables.columns import print_rows
from hgfast.bench.variants.loader import LoaderVariant
from hgfast.config import AugmentConfig, DataConfig
from hgfast.fileio.files import temporary_folder
from hgfast.pipelines.crop_cache.builder import build, use_cache
from hgfast.pipelines.datasets import open_samples
from hgfast.pipelines.samples import Samples

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


class RowKey(NamedTuple):
    """Identifies a row; `mode` "index" occurs twice."""

    loader: str
    mode: str
    layout: str
    cached: bool


class LoaderResult(NamedTuple):
    """A variant and its result, None if it needs a GPU and there is none. noise: relative error of images/s."""

    variant: LoaderVariant
    result: Result | None
    noise: float | None = None

    @property
    def done(self) -> Result | None:
        """The result, or None if there is none or the variant failed."""
        return None if self.result is None or self.result.error else self.result


Results = Mapping[RowKey, LoaderResult]
COMPARISONS = (
    ("freihand", ("seed_style", "augmented", False), ("dali_cpu", "targets", False), 2.5),
    ("freihand", ("seed_style", "plain", False), ("dali_cpu", "targets", False), None),
    ("mpii", ("seed_style", "augmented", False), ("dali_cpu", "targets", True), 6.0),
    ("mpii", ("seed_style", "augmented", False), ("dali_cpu", "targets", False), 2.0),
    ("mpii", ("seed_style", "augmented", True), ("dali_cpu", "targets", True), None),
    ("mpii", ("seed_style", "augmented", False), ("seed_style", "augmented", True), None),
)
"""Two rows of a layout, each as loader, mode and whether on cached crops, and the speedup that the second should reach."""


def run(config: LoaderConfig) -> None:
    """Measure, print the tables, and write the record and the chart."""
    machine = machine_info()
    temp_dir = temporary_folder() if config.work is None else nullcontext(config.work)
    packages = ["matplotlib"] if config.chart else []

    def save(measured: list[LoaderResult]) -> None:
        save_record(make_record(make_rows(measured), machine, packages, incomplete=ROUNDS_MISSING), config.json)

    with temp_dir as folder:
        measured = measure(config, open_sources(config, folder), save)
        rows = make_rows(measured)
    results = {key_of(entry.variant): entry for entry in measured}
    texts = [summarize_bottleneck(results, layout, cached) for layout in config.layouts for cached in (False, True)]
    conclusions = [text for text in texts if text]
    print_rows(rows, "loader")
    print("× princeton: images/s relative to princeton's loader, augmented, on the same files. Values are medians over rounds.\n")
    print(comparison_table(results) + "\n")
    print("\n".join([*conclusions, *([index_verdict(measured)] if config.index else [])]), flush=True)
    write_record(make_record(rows, machine, packages, conclusions), config.json)
    if config.chart is not None:
        draw_chart("loader", rows, config.chart, f"{machine['processor']}, {config.threads} threads")
        print(f"chart: {config.chart}")
    raise_failures([entry.result for entry in measured if entry.result is not None])


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


def open_images(config: ImagesConfig, layout: Layout, folder: Path) -> Samples:
    """Return real samples, or synthetic ones with the same decoding cost."""
    data = config.data_freihand if layout == "freihand" else config.data_mpii
    if data is None:
        statistics = IMAGE_STATISTICS[layout]
        if layout == "mpii" and config.mpii_bytes_per_pixel is not None:
            statistics = replace(statistics, bytes_per_pixel=config.mpii_bytes_per_pixel)
        samples = make_images(layout, statistics, folder, config.num_images, config.threads)
        origin = f"synthetic, target {statistics.bytes_per_pixel:.3f} bytes per pixel"
    else:
        choice = DataConfig(dataset=layout, data=data, skip_missing=True)
        samples = take_evenly(open_samples(choice, "all" if layout == "freihand" else "train"), config.num_images)
        origin = f"from {data}"
    file_stats = file_statistics(samples.paths)
    print(
        f"{layout}: {len(samples)} samples, {origin}; {file_stats.bytes_per_pixel:.3f} bytes per pixel, "
        f"{file_stats.kilobytes:.0f} kB and {file_stats.megapixels:.2f} megapixels per image; "
        f"median side of the crops {median(samples.side):.0f} pixels",
        flush=True,
    )
    return samples


def measure(
    config: LoaderConfig, sources: Mapping[tuple[str, bool], Samples], save: Callable[[list[LoaderResult]], object]
) -> list[LoaderResult]:
    """Measure all variants, and `save` the results of the rounds so far; without a GPU, variants that need one have no result."""
    options = (EPOCH_LENGTH, config.batch_size, config.size, config.threads, config.seed)
    has_gpu = gpu_name() is not None
    variants = [
        LoaderVariant(loader, mode, layout, on_crops, samples, *options)
        for (layout, on_crops), samples in sources.items()
        for loader, modes in LOADER_MODES.items()
        for mode in modes
        if not (loader == "seed_style" and mode == "plain" and layout == "mpii")
        if has_gpu or loader != "dali_gpu" or mode in ("targets", "images")
    ]
    if config.index:
        first = next(variant for variant in variants if variant.loader == "dali_cpu")
        variants += [replace(first, mode="index", entries=entries) for entries in INDEX_LENGTHS]
    runnable = [variant for variant in variants if variant.loader != "dali_gpu" or has_gpu]
    trial = TrialSettings(config.seconds, 1, 1, quick=True) if config.quick else TrialSettings(config.seconds)

    def with_variants(results: list[Result]) -> list[LoaderResult]:
        noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in results])
        by_name = {v.name: LoaderResult(v, result, noise) for v, result, noise in zip(runnable, results, noise_levels)}
        return [by_name.get(variant.name, LoaderResult(variant, None)) for variant in variants]

    def on_round(results: list[Result]) -> None:
        save(with_variants(results))

    return with_variants(run_interleaved(runnable, config.rounds, trial, config.threads, config.seed, on_round))


def key_of(variant: LoaderVariant) -> RowKey:
    return RowKey(variant.loader, variant.mode, variant.layout, variant.cached)


def make_rows(measured: Sequence[LoaderResult]) -> list[Row]:
    """Return the rows of all variants."""
    results = {key_of(entry.variant): entry for entry in measured}
    return [make_row(entry, results) for entry in measured]


def make_row(entry: LoaderResult, results: Results) -> Row:
    """Return the row of a variant, without metrics if it was not measured."""
    variant, result, file_stats = entry.variant, entry.done, file_statistics(entry.variant.samples.paths)
    keys = [RowKey("seed_style", "augmented", variant.layout, cached) for cached in (variant.cached, False)]
    speedups = [round(s, 3) if (s := speedup_over(results[key], entry)) else None for key in keys]
    no_rates = dict.fromkeys(("images_per_s", "images_per_s_min", "images_per_s_max"))
    return {
        "loader": variant.loader,
        "variant": variant.mode,
        "layout": variant.layout,
        "cached": variant.cached,
        **(result.rates(1) if result else no_rates),
        "noise": entry.noise,
        "cpu_ms_per_image": round(result.cpu_ms_per_image, 4) if result else None,
        "times_seed_style": speedups[0],
        "times_seed_style_originals": speedups[1],
        "start_s": round(result.startup.seconds, 3) if result else None,
        "start_memory_mb": round(result.startup.memory_mb, 1) if result else None,
        "rounds": len(result.trials) if result else 0,
        "entries": variant.entries,
        "threads": variant.threads,
        "batch_size": variant.batch_size,
        "size": variant.size,
        "bytes_per_pixel": round(file_stats.bytes_per_pixel, 4),
        "kilobytes": round(file_stats.kilobytes, 1),
        "megapixels": round(file_stats.megapixels, 3),
        "note": "" if result else entry.result.error if entry.result else "no GPU here",
    }


def speedup_over(baseline: LoaderResult, candidate: LoaderResult) -> float | None:
    """Return the median ratio of images/s, or None if one was not measured."""
    return candidate.done.times(baseline.done) if candidate.done and baseline.done else None


# ---- the report ----


def comparison_table(results: Results) -> str:
    """Format the speedups of `COMPARISONS`, in images/s and in CPU time."""
    table = []
    for layout, *pair, target in COMPARISONS:
        keys = [RowKey(loader, mode, layout, cached) for loader, mode, cached in pair]
        if all(key in results and results[key].done for key in keys):
            baseline, candidate = (results[key].done for key in keys)
            assert baseline and candidate
            names = [f"{key.loader} {key.mode}, {source_name(key.cached)}" for key in keys]
            row: Row = {"layout": layout, "from": names[0], "to": names[1], "x images/s": candidate.times(baseline)}
            row |= {"x CPU": baseline.cpu_ms_per_image / candidate.cpu_ms_per_image}
            table.append({**row, "target": f">= {target:g}" if target else None})
    return tabulate(table, headers="keys", floatfmt=".2f")


def source_name(cached: bool) -> str:
    return "crops" if cached else "images"


def summarize_bottleneck(results: Results, layout: str, cached: bool) -> str:
    """Describe the bottleneck of DALI on the CPU: the disk if reading uncached files is slower than loading, else the larger
    part of the CPU time, decoding or augmentation. Decoding is measured alone on whole images; the loader decodes only the
    part that it needs. Returns "" if one of these variants failed."""
    modes = (("dali_cpu", "targets"), ("decode_only", "dali"), ("read_only", "cold"))
    full, decode, read = (results[RowKey(loader, mode, layout, cached)].done for loader, mode in modes)
    if not (full and decode and read):
        return ""
    share = min(1.0, decode.cpu_ms_per_image / full.cpu_ms_per_image)
    bottleneck = "disk" if read.images_per_s < full.images_per_s else "decode" if share >= 0.5 else "augmentation"
    return (
        f"{layout} {source_name(cached)}: the bottleneck is {bottleneck} (DALI loads {full.images_per_s:.0f} files per second, "
        f"uncached files are read at {read.images_per_s:.0f}; decoding takes {decode.cpu_ms_per_image:.2f} of "
        f"{full.cpu_ms_per_image:.2f} CPU ms per image)"
    )


def index_verdict(measured: Sequence[LoaderResult]) -> str:
    """Compare the startup cost of the longer index with its limits, and the CPU time of a batch with that of the shorter one.
    Returns "" if one of them failed."""
    small, large = (entry.done for entry in measured if entry.variant.mode == "index")
    if not (small and large):
        return ""
    start = large.startup
    verdict = "good" if start.seconds < MAX_INDEX_SECONDS and start.memory_mb < MAX_INDEX_MB else "too much"
    return (
        f"{INDEX_LENGTHS[1]} entries: start {start.seconds:.2f} s (target < {MAX_INDEX_SECONDS:g}), {start.memory_mb:.0f} MB "
        f"(target < {MAX_INDEX_MB:g}): {verdict}; CPU time of a batch x {large.cpu_ms_per_image / small.cpu_ms_per_image:.3f}"
    )
