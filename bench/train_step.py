"""How fast hgfast trains: from files to the next weights, beside a loop written the seed's way, split into loader and step.

    python bench/train_step.py --json train_step.json
    python bench/train_step.py --presets [hg1,hg2,hg8] --batch-size 32 --threads 16 --device cuda
    python bench/train_step.py --layouts [freihand,mpii] --data-freihand DIR --data-mpii DIR

Both loops get the same pictures, network, batch size and cores; the input is 256 x 256, the only size the seed knows. Each
way runs in a process of its own, a lap of every leg a round, in shuffled order; figures are medians over the rounds, and
how many times faster one is, the median of the ratios within a round. People are the default: that is what the published
network was trained on, and their photographs are what a loader has most to do with. Without --data-* pictures are drawn
that have the size and the bytes a pixel of real ones. `contest` says how a lap is measured, `train_ways` what each way does.
What may enter: the flags, the rows, and what is said about them.
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
from contest import Pace, Result, compete
from floors import Rates, measure_rates
from loader import Layout, LoaderConfig, pictures
from noise import shares
from record import Row, machine, make_record, write_record
from tabulate import tabulate
from train_ways import SIZE, Leg, TrainWay, repeated

from hgfast.cli import parse
from hgfast.costs import forward_flops
from hgfast.distributed import pick_device
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_file
from hgfast.machine import cores
from hgfast.model import architecture
from hgfast.precision import resolve
from pipelines.samples import Samples

ENTRIES = 32768  # of an epoch: long enough that few laps see one begin
LEGS: dict[str, tuple[Leg, ...]] = {
    "seed_style": ("whole", "step", "load"),
    "hgfast": ("whole", "step", "load"),
    "hgfast_compile": ("whole", "step"),
    "hgfast_graphs": ("whole", "step"),
    "hgfast_ddp": ("whole", "step"),
}
"""What is measured of every way; the last three have hgfast's loader."""
ALONE = {"seed_style": "seed_style_fixed", "hgfast": "hgfast_fixed"}
"""Rows of their own for the network alone, without a loader."""
ON_GPUS = ("hgfast_compile", "hgfast_graphs", "hgfast_ddp")
WANTED = {"cpu": 1.9, "cuda": 3.0}  # times the seed's way: hg1, on a CPU with bf16 and batches of 4


@dataclass(kw_only=True)
class TrainStepConfig:
    """One comparison of ways to train."""

    presets: list[str] = field(default_factory=lambda: ["hg1"])
    """which networks: hg1, hg2, hg8, small or tiny"""
    data_freihand: Path | None = None
    """FreiHAND's root folder; none: synthetic hands"""
    data_mpii: Path | None = None
    """MPII's root folder; none: synthetic people"""
    layouts: list[Layout] = field(default_factory=lambda: ["mpii"])
    """which data sets"""
    rounds: int = 5
    """laps of every row"""
    seconds: float = 5.0
    """a lap's least length, beside its least number of steps"""
    pictures: int = 128
    """different pictures a layout, drawn or taken evenly from the real ones"""
    threads: int = 2
    """cores of every way, and on them the threads of the network, and as many of the loader or worker processes"""
    batch_size: int = 4
    """samples a step"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    seed: int = 0
    """fixes order, augmentation and initial weights"""
    work: Path | None = None
    """folder for drawn pictures, kept and used again; none: a temporary one"""
    quick: bool = False
    """short laps of a tiny network, to see that it works; the figures mean little"""
    json: Path | None = None
    """write the record here"""

    def __post_init__(self) -> None:
        if self.quick:
            self.presets, self.rounds, self.seconds, self.pictures = ["tiny"], 4, 0.05, 8

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of its range."""
        for name in ("rounds", "pictures", "threads", "batch_size"):
            if getattr(self, name) < 1:
                raise HgfastError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.threads > cores():
            raise HgfastError(f"--threads is {self.threads}, and there are {cores()} cores: what shares a core measures nothing")
        if self.seconds <= 0 or not self.layouts or not self.presets:
            raise HgfastError("--seconds must be above 0, --layouts and --presets not empty")
        for preset in self.presets:
            architecture(preset)
        if self.json is not None:
            prepare_file(self.json, "--json")

    @property
    def pace(self) -> Pace:
        return Pace(self.seconds, batches=2, warm=1) if self.quick else Pace(self.seconds, batches=4, warm=4)


def main() -> None:
    config = parse(TrainStepConfig, description=__doc__ or "")
    config.validate()
    device, where, rows = pick_device(config.device), machine(), []
    made = tempfile.TemporaryDirectory(prefix="hgfast-train-") if config.work is None else nullcontext(str(config.work))
    with made as folder:
        data = {"data_freihand": config.data_freihand, "data_mpii": config.data_mpii}
        choice = LoaderConfig(**data, pictures=config.pictures, threads=config.threads)  # type: ignore[arg-type]
        samples = {layout: repeated(pictures(choice, layout, Path(folder)), ENTRIES) for layout in config.layouts}
        rates = measure_rates(device, config.threads)
        for layout, preset in product(config.layouts, config.presets):
            rows += measure(config, preset, layout, samples[layout], rates, device)
    print(table(rows))
    print(
        "images/s and x seed: from files to the next weights; step, loader: each alone; waits: share of the time that the loop "
        "waits for a batch; beyond step: share by which the loader lengthens a step, waited for or not; floor: of a step, what "
        "the machine's own matrix product would take.\n"
    )
    pairs = product(config.layouts, config.presets)
    said = [verdict([row for row in rows if (row["layout"], row["preset"]) == pair]) for pair in pairs]
    print("\n".join(said), flush=True)
    if config.json is not None:
        write_record(make_record(rows, {**where, **rates.row}, conclusions=said), config.json)
        print(f"record: {config.json}")


# ---- what is measured ----


@dataclass(frozen=True)
class Race:
    """The results of all ways with a network on a layout; flops: of a training step, an image; noise: share by which a leg's
    images/s may be off."""

    results: Mapping[tuple[str, Leg], Result]
    batch_size: int
    flops: float
    noise: Mapping[tuple[str, Leg], float | None] = field(default_factory=dict)

    def ms(self, way: str, leg: Leg) -> float:
        """Milliseconds a batch."""
        return 1e3 * self.batch_size / self.results[way, leg].images_per_s

    def times(self, way: str, leg: Leg, other: str = "seed_style", other_leg: Leg | None = None) -> float:
        """By how much faster a leg is than another way's, or another leg; median over the rounds."""
        fast, slow = self.results[way, leg], self.results[other, other_leg or leg]
        return median(a.images_per_s / b.images_per_s for a, b in zip(fast.laps, slow.laps))

    def figures(self, way: str, *, alone: bool = False) -> Row:
        """The figures of a row: `alone` is the network by itself, else from files to the next weights."""
        leg: Leg = "step" if alone else "whole"
        result = self.results[way, leg]
        loader = way if (way, "load") in self.results else "hgfast"
        rates = [lap.images_per_s for lap in result.laps]
        memory = max(lap.gpu_mb for lap in result.laps)
        return {
            "images_per_s": round(result.images_per_s, 2),
            "images_per_s_min": round(min(rates), 2),
            "images_per_s_max": round(max(rates), 2),
            "noise": self.noise.get((way, leg)),
            "speedup": round(self.times(way, leg, other_leg="whole"), 3),
            "step_ms": round(self.ms(way, "step"), 2),
            "step_speedup": round(self.times(way, "step"), 3),
            "loader_ms": None if alone else round(self.ms(loader, "load"), 3),
            "loader_speedup": None if alone else round(self.times(loader, "load"), 3),
            "data_wait": round(median(lap.waited / lap.seconds for lap in result.laps), 4),
            "beyond_step": None if alone else round(1 - self.times(way, "whole", way, "step"), 4),
            "cpu_ms_per_image": round(result.cpu_ms, 3),
            "memory_gb": round(memory / 1e3, 2) if memory else None,
            "tflops": round(result.images_per_s * self.flops / 1e12, 3),
            "rounds": len(rates),
            "reason": "",
        }


def measure(
    config: TrainStepConfig, preset: str, layout: Layout, samples: Samples, rates: Rates, device: torch.device
) -> list[Row]:
    """The rows of a network on a layout; a way that needs a GPU where there is none says so."""
    possible = [way for way in LEGS if device.type == "cuda" or way not in ON_GPUS]
    ways = [
        TrainWay(way, leg, preset, layout, samples, config.batch_size, config.threads, str(device), config.seed)
        for way in possible
        for leg in LEGS[way]
    ]
    found = compete(ways, config.rounds, config.pace, config.threads, config.seed)
    spreads = shares([[lap.images_per_s for lap in result.laps] for result in found])
    race = Race(
        {(way.way, way.leg): result for way, result in zip(ways, found)},
        config.batch_size,
        3 * forward_flops(architecture(preset, input_size=SIZE), len(samples.skeleton.joints)),
        {(way.way, way.leg): share for way, share in zip(ways, spreads)},
    )
    missing = dict.fromkeys(race.figures("seed_style")) | {"rounds": 0, "reason": "needs a GPU"}
    rows: list[Row] = []
    for way in LEGS:
        same = {"preset": preset, "layout": layout, "precision": precision(way, device), "device": device.type, "size": SIZE}
        same |= {"batch_size": config.batch_size, "threads": config.threads}
        floor = rates.flops.get(precision(way, device))
        same["floor_ms"] = round(1e3 * config.batch_size * race.flops / floor, 3) if floor else None
        rows.append({"way": way} | same | (race.figures(way) if way in possible else missing))
        if way in ALONE:
            rows.append({"way": ALONE[way]} | same | race.figures(way, alone=True))
    return rows


def precision(way: str, device: torch.device) -> str:
    """What the convolutions compute in."""
    amp = "off" if way == "seed_style" else resolve("auto", device)
    if amp != "off":
        return amp
    tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if tensor_cores and torch.backends.cudnn.allow_tf32 else "fp32"


# ---- what is said ----


def table(rows: Sequence[Row]) -> str:
    shown = [
        {
            "layout": row["layout"],
            "network": row["preset"],
            "way": row["way"],
            "": row["precision"],
            "images/s": row["images_per_s"],
            "lowest": row["images_per_s_min"],
            "highest": row["images_per_s_max"],
            "x seed": row["speedup"],
            "step, ms": row["step_ms"],
            "x seed's": row["step_speedup"],
            "loader, ms": row["loader_ms"],
            "waits": percent(row["data_wait"]),
            "beyond step": percent(row["beyond_step"]),
            "floor, ms": row["floor_ms"],
            "TFLOP/s": row["tflops"],
            "GPU GB": row["memory_gb"],
            "not measured": row["reason"],
        }
        for row in rows
    ]
    formats = (*[""] * 4, *[".1f"] * 3, ".2f", ".1f", ".2f", ".1f", "", "", ".1f", ".2f", ".1f", "")
    return tabulate(shown, headers="keys", floatfmt=formats, missingval="-", disable_numparse=[0, 1, 2, 3, 11, 12, 16])


def percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def verdict(rows: Sequence[Row]) -> str:
    """How many times the seed's way is reached, and what binds: the slower of loader and network, each alone."""
    found = {row["way"]: row for row in rows}
    seed, ours = found["seed_style"], found["hgfast"]
    goal = wanted(ours)
    text = (
        f"{ours['layout']} {ours['preset']}: hgfast trains {ours['speedup']:.2f} times as many images a second as the seed's "
        f"way{f' (wanted: {goal:g})' if goal else ''}, its step is {ours['step_speedup']:.2f} times as fast and its loader "
        f"{ours['loader_speedup']:.2f} times; {binds(seed)}, {binds(ours)}"
    )
    others = [row for row in rows if row["way"] in ON_GPUS and not row["reason"]]
    best = max(others, key=lambda row: row["images_per_s"], default=ours)
    if best["images_per_s"] > ours["images_per_s"]:
        text += f"; the fastest is {best['way']} with {best['speedup']:.2f} times the seed's way, {binds(best)}"
    return text + "."


def wanted(row: Row) -> float | None:
    """The factor aimed at, where one was named: on GPUs, and for hg1 in batches of 4 on a CPU with bf16."""
    if row["device"] == "cpu" and (row["preset"], row["batch_size"], row["precision"]) != ("hg1", 4, "bf16"):
        return None
    return WANTED[row["device"]]


def binds(row: Row) -> str:
    """Which of the two is the bottleneck of a way, and by how much."""
    step, load = row["step_ms"], row["loader_ms"]
    name, slow, other, fast = ("network", step, "loader", load) if step >= load else ("loader", load, "network", step)
    return f"in {row['way']} the {name} binds ({slow:.1f} ms a batch alone, {slow / fast:.1f} times the {other}'s {fast:.1f})"


if __name__ == "__main__":
    run(main)
