"""Measure hgfast's training throughput from files to updated weights, compared with princeton's loop; also step and loader alone.

    python bench/train_step.py --json train_step.json
    python bench/train_step.py --presets [hg1,hg2,hg8] --batch-size 32 --threads 16 --device cuda
    python bench/train_step.py --layouts [freihand,mpii] --data-freihand DIR --data-mpii DIR

Both loops have the same images, network, batch size and cores; the input is 256 x 256, the only size of princeton's loader. Each
method runs in its own process, with one trial of every phase per round, in shuffled order. Results are medians over the rounds,
speedups are medians of the ratios within a round. The default data set is people, on which princeton's network was trained and
whose photographs are the most work for a loader. Without --data-* the images are synthetic, with the size and bytes per pixel
of real ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import torch
from tabulate import tabulate

from hgfast.architectures import architecture
from hgfast.bench.harness.interleaved import Result, TrialSettings, run_interleaved
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.harness.roofline import DeviceRates, measure_rates
from hgfast.bench.loader import Layout, LoaderConfig, open_images
from hgfast.bench.variants.train_step import INPUT_SIZE, Phase, TrainVariant, repeat_samples
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_file
from hgfast.pipelines.samples import Samples
from hgfast.system_info import available_cores
from hgfast.training.amp import resolve_amp
from hgfast.training.distributed import select_device
from hgfast.training.throughput import forward_flops

EPOCH_LENGTH = 32768  # samples per epoch: long enough that an epoch starts in few trials
PHASES: dict[str, tuple[Phase, ...]] = {
    "seed_style": ("whole", "step", "load"),
    "hgfast": ("whole", "step", "load"),
    "hgfast_compile": ("whole", "step"),
    "hgfast_graphs": ("whole", "step"),
    "hgfast_ddp": ("whole", "step"),
}
"""Measured phases of every method; the last three use hgfast's loader."""
FIXED_BATCH_METHODS = {"seed_style": "seed_style_fixed", "hgfast": "hgfast_fixed"}
"""Names of the additional rows for the network alone, without a loader."""
GPU_METHODS = ("hgfast_compile", "hgfast_graphs", "hgfast_ddp")
TARGET_SPEEDUPS = {"cpu": 1.9, "cuda": 3.0}  # relative to princeton; on a CPU for hg1 with bf16 and batches of 4


@dataclass(kw_only=True)
class TrainStepConfig:
    """Settings of the training benchmark."""

    presets: list[str] = field(default_factory=lambda: ["hg1"])
    """networks to train: hg1, hg2, hg8, small or tiny"""
    data_freihand: Path | None = None
    """root folder of FreiHAND; none: synthetic hands"""
    data_mpii: Path | None = None
    """root folder of MPII; none: synthetic people"""
    layouts: list[Layout] = field(default_factory=lambda: ["mpii"])
    """data sets to measure"""
    rounds: int = 5
    """trials per row"""
    seconds: float = 5.0
    """minimum length of a trial, which also has a minimum number of steps"""
    num_images: int = 128
    """number of images per data set, synthetic or evenly sampled from the real ones"""
    threads: int = 2
    """cores per method, which the threads of the network and as many loader threads or worker processes share"""
    batch_size: int = 4
    """samples per step"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    seed: int = 0
    """random seed of order, augmentation and initial weights"""
    work: Path | None = None
    """folder of synthetic images, which later runs reuse; none: a temporary folder"""
    quick: bool = False
    """short trials of the tiny preset, for a smoke test; the results are not meaningful"""
    json: Path | None = None
    """write the record to this file"""

    def __post_init__(self) -> None:
        if self.quick:
            self.presets, self.rounds, self.seconds, self.num_images = ["tiny"], 4, 0.05, 8

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of range."""
        for name in ("rounds", "num_images", "threads", "batch_size"):
            if getattr(self, name) < 1:
                raise HgfastError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.threads > available_cores():
            raise HgfastError(
                f"--threads is {self.threads}, but only {available_cores()} cores are available: give at most that many"
            )
        if self.seconds <= 0 or not self.layouts or not self.presets:
            raise HgfastError("--seconds must be above 0, --layouts and --presets not empty")
        for preset in self.presets:
            architecture(preset)
        if self.json is not None:
            prepare_file(self.json, "--json")

    @property
    def trial_settings(self) -> TrialSettings:
        return TrialSettings(self.seconds, batches=2, warm=1) if self.quick else TrialSettings(self.seconds, batches=4, warm=4)


def main() -> None:
    config = parse(TrainStepConfig, description=__doc__ or "")
    config.validate()
    device, where, rows = select_device(config.device), machine_info(), []
    temp_dir = tempfile.TemporaryDirectory(prefix="hgfast-train-") if config.work is None else nullcontext(str(config.work))
    with temp_dir as folder:
        data = {"data_freihand": config.data_freihand, "data_mpii": config.data_mpii}
        choice = LoaderConfig(**data, num_images=config.num_images, threads=config.threads)  # type: ignore[arg-type]
        samples = {layout: repeat_samples(open_images(choice, layout, Path(folder)), EPOCH_LENGTH) for layout in config.layouts}
        rates = measure_rates(device, config.threads)
        for layout, preset in product(config.layouts, config.presets):
            rows += measure(config, preset, layout, samples[layout], rates, device)
    print(results_table(rows))
    print(
        "images/s and x princeton: from files to updated weights; step, loader: each alone; waits: fraction of the time that the "
        "loop waits for a batch; beyond step: fraction by which the loader lengthens a step, with or without waiting; roofline: "
        "time of a step at the rate of torch's matrix product.\n"
    )
    pairs = product(config.layouts, config.presets)
    conclusions = [summarize([row for row in rows if (row["layout"], row["preset"]) == pair]) for pair in pairs]
    print("\n".join(conclusions), flush=True)
    if config.json is not None:
        write_record(make_record(rows, {**where, **rates.row}, conclusions=conclusions), config.json)
        print(f"record: {config.json}")


# ---- measuring ----


@dataclass(frozen=True)
class LoopResults:
    """Results by method and phase for one network and layout. flops: per image of a training step. noise: relative error of
    images/s."""

    results: Mapping[tuple[str, Phase], Result]
    batch_size: int
    flops: float
    noise: Mapping[tuple[str, Phase], float | None] = field(default_factory=dict)

    def ms(self, method: str, phase: Phase) -> float:
        """Milliseconds per batch."""
        return 1e3 * self.batch_size / self.results[method, phase].images_per_s

    def times(self, method: str, phase: Phase, baseline: str = "seed_style", baseline_phase: Phase | None = None) -> float:
        """Return the median over the rounds of the ratio of images/s to those of another method or phase."""
        fast, slow = self.results[method, phase], self.results[baseline, baseline_phase or phase]
        return median(a.images_per_s / b.images_per_s for a, b in zip(fast.trials, slow.trials))

    def metrics(self, method: str, *, fixed_batch: bool = False) -> Row:
        """Return the metrics of a row: from files to updated weights, or of the network alone if `fixed_batch`."""
        phase: Phase = "step" if fixed_batch else "whole"
        result = self.results[method, phase]
        loader = method if (method, "load") in self.results else "hgfast"
        rates = [trial.images_per_s for trial in result.trials]
        memory = max(trial.gpu_mb for trial in result.trials)
        return {
            "images_per_s": round(result.images_per_s, 2),
            "images_per_s_min": round(min(rates), 2),
            "images_per_s_max": round(max(rates), 2),
            "noise": self.noise.get((method, phase)),
            "speedup": round(self.times(method, phase, baseline_phase="whole"), 3),
            "step_ms": round(self.ms(method, "step"), 2),
            "step_speedup": round(self.times(method, "step"), 3),
            "loader_ms": None if fixed_batch else round(self.ms(loader, "load"), 3),
            "loader_speedup": None if fixed_batch else round(self.times(loader, "load"), 3),
            "data_wait": round(median(trial.data_wait_s / trial.seconds for trial in result.trials), 4),
            "beyond_step": None if fixed_batch else round(1 - self.times(method, "whole", method, "step"), 4),
            "cpu_ms_per_image": round(result.cpu_ms_per_image, 3),
            "memory_gb": round(memory / 1e3, 2) if memory else None,
            "tflops": round(result.images_per_s * self.flops / 1e12, 3),
            "rounds": len(rates),
            "reason": "",
        }


def measure(
    config: TrainStepConfig, preset: str, layout: Layout, samples: Samples, rates: DeviceRates, device: torch.device
) -> list[Row]:
    """Measure a network on a layout and return its rows; methods that need a GPU have no metrics without one."""
    runnable = [method for method in PHASES if device.type == "cuda" or method not in GPU_METHODS]
    variants = [
        TrainVariant(method, phase, preset, layout, samples, config.batch_size, config.threads, str(device), config.seed)
        for method in runnable
        for phase in PHASES[method]
    ]
    measured = run_interleaved(variants, config.rounds, config.trial_settings, config.threads, config.seed)
    noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in measured])
    results = LoopResults(
        {(variant.method, variant.phase): result for variant, result in zip(variants, measured)},
        config.batch_size,
        3 * forward_flops(architecture(preset, input_size=INPUT_SIZE), len(samples.skeleton.joints)),
        {(variant.method, variant.phase): noise for variant, noise in zip(variants, noise_levels)},
    )
    unavailable = dict.fromkeys(results.metrics("seed_style")) | {"rounds": 0, "reason": "needs a GPU"}
    rows: list[Row] = []
    for method in PHASES:
        precision = conv_precision(method, device)
        common = {
            "preset": preset,
            "layout": layout,
            "precision": precision,
            "device": device.type,
            "size": INPUT_SIZE,
        }
        common |= {"batch_size": config.batch_size, "threads": config.threads}
        flops_per_s = rates.flops.get(precision)
        common["floor_ms"] = round(1e3 * config.batch_size * results.flops / flops_per_s, 3) if flops_per_s else None
        rows.append({"way": method} | common | (results.metrics(method) if method in runnable else unavailable))
        if method in FIXED_BATCH_METHODS:
            rows.append({"way": FIXED_BATCH_METHODS[method]} | common | results.metrics(method, fixed_batch=True))
    return rows


def conv_precision(method: str, device: torch.device) -> str:
    """Return the precision of a method's convolutions."""
    amp = "off" if method == "seed_style" else resolve_amp("auto", device)
    if amp != "off":
        return amp
    tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if tensor_cores and torch.backends.cudnn.allow_tf32 else "fp32"


# ---- the report ----


def results_table(rows: Sequence[Row]) -> str:
    cells = [
        {
            "layout": row["layout"],
            "network": row["preset"],
            "method": row["way"],
            "": row["precision"],
            "images/s": row["images_per_s"],
            "lowest": row["images_per_s_min"],
            "highest": row["images_per_s_max"],
            "x princeton": row["speedup"],
            "step, ms": row["step_ms"],
            "step, x": row["step_speedup"],
            "loader, ms": row["loader_ms"],
            "waits": format_percent(row["data_wait"]),
            "beyond step": format_percent(row["beyond_step"]),
            "roofline, ms": row["floor_ms"],
            "TFLOP/s": row["tflops"],
            "GPU GB": row["memory_gb"],
            "not measured": row["reason"],
        }
        for row in rows
    ]
    formats = (*[""] * 4, *[".1f"] * 3, ".2f", ".1f", ".2f", ".1f", "", "", ".1f", ".2f", ".1f", "")
    return tabulate(cells, headers="keys", floatfmt=formats, missingval="-", disable_numparse=[0, 1, 2, 3, 11, 12, 16])


def format_percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{fraction:.1%}"


def summarize(rows: Sequence[Row]) -> str:
    """Return the speedups over princeton and the bottlenecks: the slower of loader and network, each alone."""
    rows_by_method = {row["way"]: row for row in rows}
    princeton, hgfast = rows_by_method["seed_style"], rows_by_method["hgfast"]
    target = target_speedup(hgfast)
    text = (
        f"{hgfast['layout']} {hgfast['preset']}: hgfast trains {hgfast['speedup']:.2f} times as many images per second as "
        f"princeton{f' (target: {target:g})' if target else ''}, its step is {hgfast['step_speedup']:.2f} times as fast and its "
        f"loader {hgfast['loader_speedup']:.2f} times; {describe_bottleneck(princeton)}, {describe_bottleneck(hgfast)}"
    )
    others = [row for row in rows if row["way"] in GPU_METHODS and not row["reason"]]
    best = max(others, key=lambda row: row["images_per_s"], default=hgfast)
    if best["images_per_s"] > hgfast["images_per_s"]:
        text += f"; the fastest is {best['way']} with {best['speedup']:.2f} times princeton, {describe_bottleneck(best)}"
    return text + "."


def target_speedup(row: Row) -> float | None:
    """Return the target speedup, or None: there are targets on GPUs, and for hg1 in batches of 4 on a CPU with bf16."""
    if row["device"] == "cpu" and (row["preset"], row["batch_size"], row["precision"]) != ("hg1", 4, "bf16"):
        return None
    return TARGET_SPEEDUPS[row["device"]]


def describe_bottleneck(row: Row) -> str:
    """Describe which of loader and network is the bottleneck of a method, and by how much."""
    step, load = row["step_ms"], row["loader_ms"]
    name, slow, other, fast = ("network", step, "loader", load) if step >= load else ("loader", load, "network", step)
    return (
        f"the bottleneck of {row['way']} is the {name} ({slow:.1f} ms per batch alone, {slow / fast:.1f} times the {other}'s "
        f"{fast:.1f})"
    )


if __name__ == "__main__":
    run_main(main)
