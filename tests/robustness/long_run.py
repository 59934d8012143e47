"""A long training run of two ranks, watched: does what its processes hold stay the same?

    python tests/robustness/long_run.py
    python tests/robustness/long_run.py --loader torch --chart long-run-torch.png --json long-run-torch.json

Draws hands, trains the tiny network on them with validations and checkpoints on the way, and looks twice a second at memory,
open files, threads and /dev/shm of torchrun and all it has started. After a warm-up a line is fitted to each (Theil and Sen: the
median of the slopes between all pairs of points). It must rise by no more than `LIMITS` in 1 000 steps; else the exit code is 1.
What may enter: running, fitting, saying. What processes hold is in `usage`.
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

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script
sys.path.append(str(Path(__file__).parent))  # likewise, where a test imports this one

from record import machine, make_record, write_record
from runs import Run
from usage import Usage, usage

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.signals import raising
from pipelines.synthetic import draw_freihand

HANDS, BATCH = 200, 8
LIMITS = {"own_kb": 2000.0, "rss_kb": 3000.0, "descriptors": 1.0, "threads": 1.0, "shm_kb": 100.0}
"""How much each may rise in 1 000 steps, all processes together. A batch that stays in memory each epoch would be 9 000 kB."""
WARM_UP = 0.3
"""Share of the steps in which caches, pools and allocators fill up; the last do so for a while, ever more slowly."""


@dataclass(kw_only=True)
class Options:
    loader: Literal["dali", "torch"] = "dali"
    """what decodes and warps"""
    steps: int = 6000
    """of training"""
    ranks: int = 2
    """processes that train"""
    threads: int = 2
    """decoding threads or worker processes a rank"""
    every: float = 0.5
    """seconds between looks"""
    chart: Path | None = None
    """draw what was seen, as PNG"""
    json: Path | None = None
    """write the record here"""


@dataclass(frozen=True)
class Sight:
    """What was seen at a time, in seconds, at which so many steps were done according to metrics.jsonl."""

    seconds: float
    step: int
    usage: Usage


def train(options: Options, folder: Path) -> list[Sight]:
    """Run it to its end, and what was seen on the way. Raises `HgfastError` where it fails."""
    draw_freihand(folder / "hands", HANDS, seed=0, workers=1, progress=False)
    words = ["--data", folder / "hands", "--out", folder, "-e", "run", "--versions", "[gs]", "--model.preset", "tiny"]
    words += ["--batch-size", BATCH, "--threads", options.threads, "--loader", options.loader, "--device", "cpu"]
    words += ["-m", options.steps / 1000, "--train.valid-every", 2, "--train.save-steps", 50, "--train.keep", 3]
    words += ["--train.log-every", 10]
    metrics = folder / "run/metrics.jsonl"
    began, seen, last = time.monotonic(), list[Sight](), 0
    job = Run(folder, *words, ranks=options.ranks)
    try:
        with tqdm(total=options.steps, unit="step", disable=None) as bar:
            while job.process.poll() is None:
                step = _last_step(metrics)
                bar.update(step - last)
                last = step
                seen.append(Sight(time.monotonic() - began, step, usage(job.process.pid)))
                time.sleep(options.every)
    finally:
        job.end()
    if job.process.returncode or _last_step(metrics) != options.steps:
        raise HgfastError(f"the run did not get to its end: {' '.join(job.err.split())[-600:]}")
    return seen


def _last_step(metrics: Path) -> int:
    try:
        lines = metrics.read_text().splitlines()
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def steps_at(seen: Sequence[Sight]) -> NDArray[np.float64]:
    """The step of each sight: epochs are told when they end, between those times steps are taken to be alike."""
    first = {sight.step: sight.seconds for sight in reversed(seen)}
    known = sorted(first)
    steps = np.interp([sight.seconds for sight in seen], [first[step] for step in known], known)
    return np.asarray(steps, np.float64)


def slopes(seen: Sequence[Sight], warm_up: float = WARM_UP) -> list[dict[str, Any]]:
    """For each measure its rise in 1 000 steps, with the ends of the interval that holds it nine times in ten.

    What is seen before the warm-up's last step, and when the last step is done and processes end, does not count.
    """
    steps = steps_at(seen)
    last = max(sight.step for sight in seen)
    counts = (steps >= warm_up * last) & (steps < last)
    if counts.sum() < 10:
        raise HgfastError(f"only {counts.sum()} looks at the run after its warm-up: make it longer with --steps")
    rows = []
    for measure, limit in LIMITS.items():
        values = np.array([getattr(sight.usage, measure) for sight in seen], np.float64)[counts]
        slope, _, low, high = (1000 * float(value) for value in theilslopes(values, steps[counts], 0.9))
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
                "looks": int(counts.sum()),
                "from_step": int(warm_up * last),
                "to_step": int(last),
            }
        )
    return rows


def say(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'':12} {'median':>10} {'largest':>10} {'in 1 000 steps':>15} {'nine in ten':>22} {'limit':>8}")
    for row in rows:
        between = f"{row['rise_low']:.1f} to {row['rise_high']:.1f}"
        seen = f"{row['measure']:12} {row['median']:10.0f} {row['largest']:10.0f}"
        print(f"{seen} {row['rise']:15.1f} {between:>22} {row['limit']:8.0f}  {'flat' if row['flat'] else 'RISES'}")


def draw(seen: Sequence[Sight], rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """A panel for each measure, by step; where the warm-up ends, and the fitted rise."""
    from matplotlib.figure import Figure

    from hgfast.charts import write_figure

    steps = steps_at(seen)
    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, 3).flat
    for row, panel in zip(rows, panels):
        scale, unit = (1024, "MB") if row["measure"].endswith("_kb") else (1, "")
        values = np.array([getattr(sight.usage, row["measure"]) for sight in seen]) / scale
        panel.plot(steps, values, ".", markersize=2)
        panel.axvline(row["from_step"], color="grey", linewidth=0.8)
        panel.set_ylim(0, max(1.0, 1.1 * values.max()))
        panel.set_title(f"{row['measure'].removesuffix('_kb')} {unit}: {row['rise'] / scale:+.3g} in 1 000 steps", fontsize=9)
        panel.set_xlabel("step")
    next(panels).axis("off")
    write_figure(figure, path, "--chart")


def main(argv: Sequence[str]) -> bool:
    """Did everything stay the same?"""
    options = parse(Options, list(argv), description=__doc__ or "")
    where = machine()
    with raising(), tempfile.TemporaryDirectory() as folder:  # so that the run ends with this
        seen = train(options, Path(folder))
    rows = slopes(seen)
    say(rows)
    minutes = (seen[-1].seconds - seen[0].seconds) / 60
    flat = all(row["flat"] for row in rows)
    title = f"{options.steps} steps of {options.ranks} ranks, --loader {options.loader}, {minutes:.1f} minutes"
    print(f"{title}: {'flat' if flat else 'not flat'}")
    if options.json is not None:
        record = make_record([{"loader": options.loader, **row} for row in rows], where)
        columns = [{"seconds": round(s.seconds, 1), "step": s.step, **asdict(s.usage)} for s in seen]
        record["samples"] = {name: [column[name] for column in columns] for name in columns[0]}
        write_record(record, options.json)
    if options.chart is not None:
        draw(seen, rows, options.chart, title)
    return flat


if __name__ == "__main__":
    run(lambda: sys.exit(0 if main(sys.argv[1:]) else 1))
