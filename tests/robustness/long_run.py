"""Check a long training run of two ranks for leaks of memory, files, threads and shared memory.

    python -m tests.robustness.long_run
    python -m tests.robustness.long_run --loader opencv --chart long-run-opencv.png --json long-run-opencv.json

Renders synthetic hands, trains the tiny network on them with validations and checkpoints, and measures memory, open files,
threads and /dev/shm of torchrun and its descendants twice per second. After a warm-up a line is fitted to each measure
(Theil-Sen: the median of the slopes between all pairs of points). The exit code is 1 if a slope exceeds `LIMITS` per 1 000 steps.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import theilslopes
from tqdm import tqdm

from hgfast.bench.harness.record import machine_info, make_record, write_record
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.pipelines.synthetic import generate_freihand
from tests.robustness.runs import TrainProcess
from tests.robustness.usage import Usage, measure_usage

BATCH = 8
LIMITS = {"own_kb": 2000.0, "rss_kb": 3000.0, "descriptors": 1.0, "threads": 1.0, "shm_kb": 100.0}
"""Largest slope per 1 000 steps of all processes together. A leak of one batch per epoch of 200 hands would be 9 000 kB."""
WARM_UP = 0.3
"""Fraction of the steps in which caches, pools and allocators fill up."""


@dataclass(kw_only=True)
class Options:
    loader: Literal["dali", "opencv"] = "dali"
    """loader that decodes and warps"""
    steps: int = 6000
    """training steps"""
    hands: int = 200
    """synthetic hands to train on"""
    ranks: int = 2
    """training processes"""
    threads: int = 2
    """decoding threads or worker processes per rank"""
    every: float = 0.5
    """seconds between measurements"""
    chart: Path | None = None
    """write a chart of the measurements to this PNG file"""
    json: Path | None = None
    """write the record to this file"""


@dataclass(frozen=True)
class Measurement:
    """Usage after `seconds`, when `step` was the last step in metrics.jsonl."""

    seconds: float
    step: int
    usage: Usage


def train(options: Options, folder: Path) -> list[Measurement]:
    """Train to the end and return the measurements. Raises `HgfastError` if the run fails."""
    generate_freihand(folder / "hands", options.hands, seed=0, workers=1)
    words = ["--data", folder / "hands", "--out", folder, "-e", "run", "--versions", "[gs]", "--model.preset", "tiny"]
    words += ["--batch-size", BATCH, "--threads", options.threads, "--loader", options.loader, "--device", "cpu"]
    words += ["-m", options.steps / 1000, "--train.val-interval", 2, "--train.save-steps", 50, "--train.keep-checkpoints", 3]
    words += ["--train.log-every", 10]
    metrics = folder / "run/metrics.jsonl"
    began, measurements, last = time.monotonic(), list[Measurement](), 0
    job = TrainProcess(folder, *words, ranks=options.ranks)
    try:
        with tqdm(total=options.steps, unit="step", disable=None) as bar:
            while job.process.poll() is None:
                step = _last_step(metrics)
                bar.update(step - last)
                last = step
                measurements.append(Measurement(time.monotonic() - began, step, measure_usage(job.process.pid)))
                time.sleep(options.every)
    finally:
        job.end()
    if job.process.returncode or _last_step(metrics) != options.steps:
        raise HgfastError(f"the run did not finish: {' '.join(job.err.split())[-600:]}")
    return measurements


def _last_step(metrics: Path) -> int:
    try:
        lines = metrics.read_text().splitlines()
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def steps_at(measurements: Sequence[Measurement]) -> NDArray[np.float64]:
    """Return the step of each measurement, interpolated between the ends of epochs."""
    first_seconds = {one.step: one.seconds for one in reversed(measurements)}
    known = sorted(first_seconds)
    steps = np.interp([one.seconds for one in measurements], [first_seconds[step] for step in known], known)
    return np.asarray(steps, np.float64)


def fit_slopes(measurements: Sequence[Measurement], warm_up: float = WARM_UP) -> list[dict[str, Any]]:
    """Return for each measure its slope per 1 000 steps with the 90 % confidence interval.

    Measurements during the warm-up and after the last step, when processes end, do not count.
    """
    steps = steps_at(measurements)
    last = max(one.step for one in measurements)
    used = (steps >= warm_up * last) & (steps < last)
    if used.sum() < 10:
        raise HgfastError(f"only {used.sum()} measurements after the warm-up: give more --steps")
    rows = []
    for measure, limit in LIMITS.items():
        values = np.array([getattr(one.usage, measure) for one in measurements], np.float64)[used]
        slope, _, low, high = (1000 * float(value) for value in theilslopes(values, steps[used], 0.9))
        rows.append(
            {
                "measure": measure,
                "rise": round(slope, 2),
                "rise_low": round(low, 2),
                "rise_high": round(high, 2),
                "limit": limit,
                "flat": slope <= limit,
                "median": float(np.median(values)),
                "largest": float(values.max()),
                "measurements": int(used.sum()),
                "from_step": int(warm_up * last),
                "to_step": int(last),
            }
        )
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'':12} {'median':>10} {'largest':>10} {'per 1 000 steps':>15} {'90 % interval':>22} {'limit':>8}")
    for row in rows:
        interval = f"{row['rise_low']:.1f} to {row['rise_high']:.1f}"
        values = f"{row['measure']:12} {row['median']:10.0f} {row['largest']:10.0f}"
        print(f"{values} {row['rise']:15.1f} {interval:>22} {row['limit']:8.0f}  {'flat' if row['flat'] else 'RISES'}")


def plot(measurements: Sequence[Measurement], rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw a panel per measure over the steps, with the end of the warm-up and the fitted slope."""
    from matplotlib.figure import Figure

    from hgfast.visualization.charts import write_figure

    steps = steps_at(measurements)
    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, 3).flat
    for row, panel in zip(rows, panels):
        scale, unit = (1024, "MB") if row["measure"].endswith("_kb") else (1, "")
        values = np.array([getattr(one.usage, row["measure"]) for one in measurements]) / scale
        panel.plot(steps, values, ".", markersize=2)
        panel.axvline(row["from_step"], color="gray", linewidth=0.8)
        panel.set_ylim(0, max(1.0, 1.1 * values.max()))
        panel.set_title(f"{row['measure'].removesuffix('_kb')} {unit}: {row['rise'] / scale:+.3g} per 1 000 steps", fontsize=9)
        panel.set_xlabel("step")
    next(panels).axis("off")
    write_figure(figure, path, "--chart")


def main(argv: Sequence[str]) -> bool:
    """Run the check; returns whether every measure is flat."""
    options = parse(Options, list(argv), description=__doc__ or "")
    machine = machine_info()
    with tempfile.TemporaryDirectory() as folder:
        measurements = train(options, Path(folder))
    rows = fit_slopes(measurements)
    print_table(rows)
    minutes = (measurements[-1].seconds - measurements[0].seconds) / 60
    flat = all(row["flat"] for row in rows)
    title = f"{options.steps} steps of {options.ranks} ranks, --loader {options.loader}, {minutes:.1f} minutes"
    print(f"{title}: {'flat' if flat else 'not flat'}")
    if options.json is not None:
        record = make_record([{"loader": options.loader, **row} for row in rows], machine)
        columns = [{"seconds": round(s.seconds, 1), "step": s.step, **asdict(s.usage)} for s in measurements]
        record["samples"] = {name: [column[name] for column in columns] for name in columns[0]}
        write_record(record, options.json)
    if options.chart is not None:
        plot(measurements, rows, options.chart, title)
    return flat


if __name__ == "__main__":
    run_main(lambda: sys.exit(0 if main(sys.argv[1:]) else 1))
