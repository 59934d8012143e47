"""Measure the variants of `train_step.py`: from files to updated weights, and step and loader alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch

from hgfast.architectures import architecture
from hgfast.bench.harness.config import Layout, TrainStepConfig
from hgfast.bench.harness.interleaved import ROUNDS_MISSING, Result, TrialSettings, raise_failures, run_interleaved
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, save_record, write_record
from hgfast.bench.harness.roofline import DeviceRates, measure_rates, step_traffic
from hgfast.bench.measurements.loader import EPOCH_LENGTH, open_images
from hgfast.bench.tables.columns import print_rows
from hgfast.bench.variants.train_step import INPUT_SIZE, Phase, TrainVariant, repeat_samples
from hgfast.fileio.files import temporary_folder
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16, HAND21
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
FIXED_BATCH_METHODS = ("seed_style", "hgfast")
"""Methods with an additional row METHOD_fixed for the network alone; without a loader there are only such rows."""
GPU_METHODS = ("hgfast_compile", "hgfast_graphs", "hgfast_ddp")
NEEDS_GPU = "needs a GPU"
TARGET_SPEEDUPS = {"cpu": 1.9, "cuda": 3.0}  # relative to princeton; on a CPU for hg1 with bf16 and batches of 4


def run(config: TrainStepConfig) -> None:
    """Measure, print the table and the conclusions, and write the record, that of the results so far after every round."""
    device, machine, rows, conclusions = select_device(config.device), machine_info(), list[Row](), list[str]()
    results = list[Result]()
    temp_dir = temporary_folder() if config.work is None else nullcontext(config.work)
    with temp_dir as folder:
        samples = {layout: open_samples(config, layout, folder) for layout in config.layouts}
        rates = measure_rates(device, config.threads)

        def save(network_rows: Sequence[Row]) -> None:
            record = make_record([*rows, *network_rows], {**machine, **rates.row}, incomplete=ROUNDS_MISSING)
            save_record(record, config.json)

        for layout, preset in product(config.layouts, config.presets):
            loops = measure(config, preset, layout, samples[layout], device, lambda loops: save(make_rows(config, loops, rates)))
            network_rows = make_rows(config, loops, rates)
            conclusions += filter(None, [summarize(network_rows)])
            rows += network_rows
            results += loops.results.values()
            save([])
    print_rows(rows, "train_step")
    print(
        "images/s and × princeton: from files to updated weights, unless named fixed; step, loader: each alone; waits for data: "
        "fraction of the time that the loop waits for a batch; beyond step: fraction by which the loader lengthens a step, with "
        "or without waiting; roofline: time of a step at the rate of torch's matrix product; memory of "
        "eager, of convolutions: time of the bytes that every operation, or the convolutions alone, move.\n"
    )
    print("\n".join(conclusions), flush=True)
    write_record(make_record(rows, {**machine, **rates.row}, conclusions=conclusions), config.json)
    raise_failures(results)


def open_samples(config: TrainStepConfig, layout: Layout, folder: Path) -> Samples:
    """Return the samples of a layout, repeated to a long epoch; without a loader, samples that have no images."""
    if config.loader != "none":
        return repeat_samples(open_images(config, layout, folder), EPOCH_LENGTH)
    skeleton = HAND21 if layout == "freihand" else BODY16
    ones, joints = np.ones(EPOCH_LENGTH), (EPOCH_LENGTH, len(skeleton.joints))
    rows, points = np.arange(EPOCH_LENGTH), np.zeros((EPOCH_LENGTH, 2))
    labels = np.zeros((*joints, 2)), np.ones(joints, np.bool_)
    return Samples(np.array([""] * EPOCH_LENGTH), points, ones, *labels, ones, rows, rows, skeleton, 0.0)


@dataclass(frozen=True)
class LoopResults:
    """Results by method and phase for one network and layout. flops: per image of a training step. noise: relative error of
    images/s."""

    preset: str
    layout: Layout
    joints: int
    device: torch.device
    results: Mapping[tuple[str, Phase], Result]
    batch_size: int
    flops: float
    noise: Mapping[tuple[str, Phase], float | None] = field(default_factory=dict)

    def ms(self, method: str, phase: Phase) -> float:
        """Milliseconds per batch."""
        return 1e3 * self.batch_size / self.results[method, phase].images_per_s

    def error(self, method: str) -> str:
        """Why the method was not measured, or "" if it was."""
        found = [result for (name, _), result in self.results.items() if name == method]
        return next((result.error for result in found if result.error), "" if found else NEEDS_GPU)

    def speedup(self, result: Result, phase: Phase, digits: int = 3) -> float | None:
        """Return the speedup over this phase of princeton's loop, None if that failed."""
        baseline = self.results["seed_style", phase]
        return None if baseline.error else round(result.times(baseline), digits)

    def metrics(self, method: str, *, fixed_batch: bool = False) -> Row:
        """Return the metrics of a row: from files to updated weights, or of the network alone if `fixed_batch`."""
        phase: Phase = "step" if fixed_batch else "whole"
        results, result, step = self.results, self.results[method, phase], self.results[method, "step"]
        loader = method if (method, "load") in results else "hgfast"
        load = None if fixed_batch or results[loader, "load"].error else results[loader, "load"]
        memory = max(trial.gpu_mb for trial in result.trials)
        return {
            **result.rates(2),
            "noise": self.noise.get((method, phase)),
            "speedup": self.speedup(result, "whole" if ("seed_style", "whole") in results else "step"),
            "step_ms": round(self.ms(method, "step"), 2),
            "step_speedup": self.speedup(step, "step"),
            "loader_ms": None if load is None else round(self.ms(loader, "load"), 3),
            "loader_speedup": None if load is None else self.speedup(load, "load"),
            "data_wait": round(median(trial.data_wait_s / trial.seconds for trial in result.trials), 4),
            "beyond_step": None if fixed_batch else round(1 - result.times(step), 4),
            "cpu_ms_per_image": round(result.cpu_ms_per_image, 3),
            "memory_gb": round(memory / 1e3, 2) if memory else None,
            "tflops": round(result.images_per_s * self.flops / 1e12, 3),
            "rounds": len(result.trials),
            "reason": "",
        }


METRIC_KEYS = (
    *("images_per_s", "images_per_s_min", "images_per_s_max", "noise", "speedup", "step_ms", "step_speedup", "loader_ms"),
    *("loader_speedup", "data_wait", "beyond_step", "cpu_ms_per_image", "memory_gb", "tflops"),
)
"""Keys of `LoopResults.metrics` that are None in the rows of a method that was not measured."""


def measure(
    config: TrainStepConfig,
    preset: str,
    layout: Layout,
    samples: Samples,
    device: torch.device,
    save: Callable[[LoopResults], object],
) -> LoopResults:
    """Measure a network on a layout, and `save` the results of the rounds so far."""
    runnable = [method for method in PHASES if device.type == "cuda" or method not in GPU_METHODS]
    only_step: tuple[Phase, ...] = ("step",)
    keys = [(method, phase) for method in runnable for phase in (only_step if config.loader == "none" else PHASES[method])]
    options = (preset, layout, samples, config.batch_size, config.threads, str(device), config.seed, config.loader)
    variants = [TrainVariant(method, phase, *options) for method, phase in keys]
    batches = 2 if config.quick else 4
    trial = TrialSettings(config.seconds, batches, 1 if config.quick else 4, config.quick)
    flops = 3 * forward_flops(architecture(preset, input_size=INPUT_SIZE), len(samples.skeleton.joints))

    def by_key(measured: Sequence[Result]) -> LoopResults:
        noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in measured])
        by_phase = dict(zip(keys, measured)), config.batch_size, flops, dict(zip(keys, noise_levels))
        return LoopResults(preset, layout, len(samples.skeleton.joints), device, *by_phase)

    def on_round(measured: Sequence[Result]) -> None:
        save(by_key(measured))

    return by_key(run_interleaved(variants, config.rounds, trial, config.threads, config.seed, on_round))


def make_rows(config: TrainStepConfig, results: LoopResults, rates: DeviceRates) -> list[Row]:
    """Return the rows of a network; methods that need a GPU have no metrics without one, nor do those that failed."""
    rows: list[Row] = []
    for method in PHASES:
        precision = conv_precision(method, results.device)
        flops_per_s, error = rates.flops.get(precision), results.error(method)
        arch = architecture(results.preset, input_size=INPUT_SIZE)
        traffic = step_traffic(arch, results.joints, config.batch_size, precision)
        common = {
            "preset": results.preset,
            "layout": results.layout,
            "precision": precision,
            "device": results.device.type,
            "size": INPUT_SIZE,
            "batch_size": config.batch_size,
            "threads": config.threads,
            "floor_ms": round(1e3 * config.batch_size * results.flops / flops_per_s, 3) if flops_per_s else None,
            **traffic.floors_ms(rates),
        }
        whole = [False] if config.loader != "none" else []
        fixed = [True] if config.loader == "none" or method in FIXED_BATCH_METHODS else []
        for fixed_batch in (*whole, *fixed):
            unavailable = {**dict.fromkeys(METRIC_KEYS), "rounds": 0, "reason": error}
            metrics = unavailable if error else results.metrics(method, fixed_batch=fixed_batch)
            rows.append({"way": f"{method}_fixed" if fixed_batch else method} | common | metrics)
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
    """Return the speedups over princeton and the bottlenecks: the slower of loader and network, each alone; "" if one of both
    loops was not measured, or without a loader."""
    measured = {row["way"]: row for row in rows if not row["reason"]}
    if not {"seed_style", "hgfast"} <= set(measured):
        return ""
    princeton, hgfast = measured["seed_style"], measured["hgfast"]
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
