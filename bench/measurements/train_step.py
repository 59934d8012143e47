"""Measure the variants of `train_step.py`: from files to updated weights, and step and loader alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import torch

from hgfast.architectures import architecture
from hgfast.bench.harness.config import Layout, TrainStepConfig
from hgfast.bench.harness.interleaved import Result, TrialSettings, run_interleaved
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.harness.roofline import DeviceRates, measure_rates
from hgfast.bench.measurements.loader import EPOCH_LENGTH, open_images
from hgfast.bench.tables.columns import print_rows
from hgfast.bench.variants.train_step import INPUT_SIZE, Phase, TrainVariant, repeat_samples
from hgfast.pipelines.samples import Samples
from hgfast.training.amp import resolve_amp
from hgfast.training.distributed import select_device
from hgfast.training.throughput import forward_flops

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


def run(config: TrainStepConfig) -> None:
    """Measure, print the table and the conclusions, and write the record."""
    device, machine, rows, conclusions = select_device(config.device), machine_info(), list[Row](), list[str]()
    temp_dir = tempfile.TemporaryDirectory(prefix="hgfast-train-") if config.work is None else nullcontext(str(config.work))
    with temp_dir as folder:
        samples = {layout: repeat_samples(open_images(config, layout, Path(folder)), EPOCH_LENGTH) for layout in config.layouts}
        rates = measure_rates(device, config.threads)
        for layout, preset in product(config.layouts, config.presets):
            network_rows = measure(config, preset, layout, samples[layout], rates, device)
            conclusions.append(summarize(network_rows))
            rows += network_rows
    print_rows(rows, "train_step")
    print(
        "images/s and × princeton: from files to updated weights; step, loader: each alone; waits for data: fraction of the time "
        "that the loop waits for a batch; beyond step: fraction by which the loader lengthens a step, with or without waiting; "
        "roofline: time of a step at the rate of torch's matrix product.\n"
    )
    print("\n".join(conclusions), flush=True)
    write_record(make_record(rows, {**machine, **rates.row}, conclusions=conclusions), config.json)


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

    def metrics(self, method: str, *, fixed_batch: bool = False) -> Row:
        """Return the metrics of a row: from files to updated weights, or of the network alone if `fixed_batch`."""
        phase: Phase = "step" if fixed_batch else "whole"
        results, result, step = self.results, self.results[method, phase], self.results[method, "step"]
        loader = method if (method, "load") in results else "hgfast"
        load, princeton_load = results[loader, "load"], results["seed_style", "load"]
        memory = max(trial.gpu_mb for trial in result.trials)
        return {
            **result.rates(2),
            "noise": self.noise.get((method, phase)),
            "speedup": round(result.times(results["seed_style", "whole"]), 3),
            "step_ms": round(self.ms(method, "step"), 2),
            "step_speedup": round(step.times(results["seed_style", "step"]), 3),
            "loader_ms": None if fixed_batch else round(self.ms(loader, "load"), 3),
            "loader_speedup": None if fixed_batch else round(load.times(princeton_load), 3),
            "data_wait": round(median(trial.data_wait_s / trial.seconds for trial in result.trials), 4),
            "beyond_step": None if fixed_batch else round(1 - result.times(step), 4),
            "cpu_ms_per_image": round(result.cpu_ms_per_image, 3),
            "memory_gb": round(memory / 1e3, 2) if memory else None,
            "tflops": round(result.images_per_s * self.flops / 1e12, 3),
            "rounds": len(result.trials),
            "reason": "",
        }


def measure(
    config: TrainStepConfig, preset: str, layout: Layout, samples: Samples, rates: DeviceRates, device: torch.device
) -> list[Row]:
    """Measure a network on a layout and return its rows; methods that need a GPU have no metrics without one."""
    runnable = [method for method in PHASES if device.type == "cuda" or method not in GPU_METHODS]
    keys = [(method, phase) for method in runnable for phase in PHASES[method]]
    options = (preset, layout, samples, config.batch_size, config.threads, str(device), config.seed)
    variants = [TrainVariant(method, phase, *options) for method, phase in keys]
    batches = 2 if config.quick else 4
    trial = TrialSettings(config.seconds, batches, 1 if config.quick else 4, config.quick)
    measured = run_interleaved(variants, config.rounds, trial, config.threads, config.seed)
    noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in measured])
    flops = 3 * forward_flops(architecture(preset, input_size=INPUT_SIZE), len(samples.skeleton.joints))
    results = LoopResults(dict(zip(keys, measured)), config.batch_size, flops, dict(zip(keys, noise_levels)))
    unavailable = dict.fromkeys(results.metrics("seed_style")) | {"rounds": 0, "reason": "needs a GPU"}
    rows: list[Row] = []
    for method in PHASES:
        precision = conv_precision(method, device)
        flops_per_s = rates.flops.get(precision)
        common = {
            "preset": preset,
            "layout": layout,
            "precision": precision,
            "device": device.type,
            "size": INPUT_SIZE,
            "batch_size": config.batch_size,
            "threads": config.threads,
            "floor_ms": round(1e3 * config.batch_size * flops / flops_per_s, 3) if flops_per_s else None,
        }
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


# ---- conclusions ----


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
