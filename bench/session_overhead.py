"""Measure the overhead of `hgfast.runtime.Session` over the network alone: time, threads, memory.

    python bench/session_overhead.py
    python bench/session_overhead.py --checkpoint exp/mpii/best.pt --cli build/hgfast_cli --json embedding.json

The network alone (normalized float input, heatmaps as output, batch 1) is compared with a complete session call on a photograph
in memory: crop, copy, network, decoding, keypoints in pixels of the photograph. Four threads that share one session are measured
in the same rounds. Then a tiny network runs many times in its own process, whose memory and open files are measured before and
after; --cli does the same with the program of export/cpp. Without --checkpoint the network is an untrained hg1.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import subprocess
import tempfile
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.bench.harness.interleaved import BatchInfo, BatchIterator, Result, TrialSettings, rss_mb, run_interleaved
from hgfast.bench.harness.networks import ONNX, ONNX_HEATMAPS, find_or_export, untrained_checkpoint
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_file, prepare_folder
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime.backends import RUNTIMES_BY_FORMAT, Artifact, DeviceOptions, RuntimeName
from hgfast.runtime.session import Session
from hgfast.system_info import available_cores
from hgfast.visualization.draw import write_image

PHOTO_SIZE = 640  # pixels a side
BOX = (130.0, 80.0, 300.0, 420.0)
PADDING = 1.25
CLIENT_THREADS = 4  # threads that share one session
MAX_OVERHEAD, MIN_THREADED_RATIO, MAX_GROWTH_KB = 0.10, 1.0, 5000
PACKAGES = ("onnxruntime", "openvino")


@dataclass(kw_only=True)
class SessionOverheadConfig:
    """Settings of the session benchmark."""

    checkpoint: Path | None = None
    """network to measure; none: an untrained hg1"""
    cli: Path | None = None
    """path of hgfast_cli, built in export/cpp, whose memory is measured too"""
    runs: int = 20000
    """number of calls for the growth of memory and open files"""
    rounds: int = 7
    """trials per row"""
    seconds: float = 1.5
    """minimum length of a trial"""
    threads: int | None = None
    """CPU threads; none: one per core"""
    work: Path = Path("exp/bench")
    """folder of the exported files, which later runs reuse"""
    quick: bool = False
    """short trials and few runs, for a smoke test"""
    json: Path | None = None
    """write the record to this file"""

    def __post_init__(self) -> None:
        if self.quick:
            self.runs, self.rounds, self.seconds = min(self.runs, 1000), 4, 0.4

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings."""
        if min(self.runs, self.rounds, self.threads or 1) < 1 or self.seconds <= 0:
            raise HgfastError("--runs, --rounds and --threads must be at least 1, --seconds above 0")
        if self.cli is not None and not self.cli.is_file():
            raise HgfastError(f"there is no file {self.cli}: build it as export/cpp/README.md says")
        if self.json is not None:
            prepare_file(self.json, "--json")
        prepare_folder(self.work, "--work")


# ---- time ----


@dataclass(frozen=True, eq=False)
class SessionVariant:
    """A row: `case` is "network alone", "session" or "N threads"; the cases of a runtime share a process."""

    case: str
    runtime: RuntimeName
    file: Path
    threads: int

    @property
    def name(self) -> str:
        return f"{self.case}, {self.runtime}"

    @property
    def process(self) -> str:
        return self.runtime

    def load(self) -> None:
        """Nothing to import."""

    def start(self) -> BatchIterator:
        return {"network alone": network_batches, "session": session_batches}.get(self.case, threaded_batches)(self)


def network_batches(way: SessionVariant) -> BatchIterator:
    """Run the network on a few images in turn."""
    artifact = Artifact(way.file, way.runtime, DeviceOptions(way.threads))
    rng, shape = np.random.default_rng(0), artifact.sidecar.input.shape[1:]
    images = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(4)]  # type: ignore[arg-type]
    for number in count():
        artifact(images[number % len(images)])
        yield BatchInfo(1)


def session_batches(way: SessionVariant) -> BatchIterator:
    """Call a session, one call after the other."""
    photos = make_photos()
    with Session(way.file, way.runtime, threads=way.threads) as session:
        for number in count():
            session(photos[number % len(photos)], [BOX], padding=PADDING)
            yield BatchInfo(1)


def threaded_batches(way: SessionVariant) -> BatchIterator:
    """Call a session from several threads, each of which always has a pending call."""
    photos, session = make_photos(), Session(way.file, way.runtime, threads=way.threads)
    pool = ThreadPoolExecutor(CLIENT_THREADS)

    def call_session(number: int) -> object:
        return session(photos[number % len(photos)], [BOX], padding=PADDING)

    pending: set[Future[object]] = set()
    try:
        for number in count():
            while len(pending) < CLIENT_THREADS:
                pending.add(pool.submit(call_session, number))
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            yield BatchInfo(len(finished))
    finally:
        wait(pending)  # so that they do not disturb other variants
        pool.shutdown()
        session.close()


def make_photos() -> list[NDArray[np.uint8]]:
    return list(render_images(PHOTO_SIZE, 4))


def measure_times(config: SessionOverheadConfig) -> list[Row]:
    """Measure the times of every runtime and return the rows."""
    checkpoint, threads = config.checkpoint or untrained_checkpoint("hg1", config.work), config.threads or available_cores()
    keypoints_onnx, heatmaps_onnx = (
        find_or_export(checkpoint, export, 8, config.work, [], config.quick) for export in (ONNX, ONNX_HEATMAPS)
    )
    files = {"network alone": heatmaps_onnx, "session": keypoints_onnx, f"{CLIENT_THREADS} threads": keypoints_onnx}
    variants = [
        SessionVariant(case, runtime, file, threads) for runtime in RUNTIMES_BY_FORMAT["onnx"] for case, file in files.items()
    ]
    results = run_interleaved(variants, config.rounds, TrialSettings(config.seconds, batches=4, warm=3), threads)
    noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in results])
    by_case = dict(zip(((variant.runtime, variant.case) for variant in variants), results))
    return [make_row(variant, result, noise, by_case) for variant, result, noise in zip(variants, results, noise_levels)]


def make_row(variant: SessionVariant, result: Result, noise: float | None, by_case: dict[tuple[RuntimeName, str], Result]) -> Row:
    """Return the row of a variant; ratios are medians of the ratios within a round."""
    network, session = by_case[variant.runtime, "network alone"].trials, by_case[variant.runtime, "session"].trials
    row: Row = {
        "what": variant.case,
        "runtime": variant.runtime,
        "file": variant.file.name,
        "threads": variant.threads,
        "noise": noise,
    }
    row |= {"images_per_s": round(result.images_per_s, 2), "median_ms": round(median(result.round_ms), 3)}
    row |= {
        "overhead": None,
        "times_one_thread": None,
        "calls": None,
        "growth_kb": None,
        "files_before": None,
        "files_after": None,
    }
    if variant.case == "session":
        row["overhead"] = round(median(a.images_per_s / b.images_per_s for a, b in zip(network, session)) - 1, 4)
    elif variant.case != "network alone":
        row["median_ms"] = round(1000 / result.images_per_s, 3)  # the calls overlap
        row["times_one_thread"] = round(median(b.images_per_s / a.images_per_s for a, b in zip(session, result.trials)), 4)
    return row


# ---- memory ----


def measure_leaks(config: SessionOverheadConfig, folder: Path) -> list[Row]:
    """Run a tiny network many times, in Python and, with --cli, in C++; return the rows."""
    tiny_onnx = find_or_export(untrained_checkpoint("tiny", config.work), ONNX, 8, config.work, [], config.quick)
    rows = []
    for runtime in RUNTIMES_BY_FORMAT["onnx"]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(leak_row("python", runtime, tiny_onnx, pool.apply(run_python_session, (tiny_onnx, runtime, config.runs))))
    if config.cli is not None:
        rows.append(leak_row("c++", "openvino", tiny_onnx, run_cpp_session(config.cli, tiny_onnx, config.runs, folder)))
    return rows


def run_python_session(file: Path, runtime: RuntimeName, runs: int) -> Row:
    """Run a session in this process and return the growth of resident memory and open files, after a warm-up of a tenth of the
    runs, at least 200."""
    photo = render_images(96, 1)[0]
    with Session(file, runtime, threads=1) as session:
        for _ in range(max(200, runs // 10)):
            session(photo)
        gc.collect()
        memory, files = rss_mb(), count_open_files()
        for _ in range(runs):
            session(photo)
        gc.collect()
        growth_mb = rss_mb() - memory
    return {"calls": runs, "growth_kb": round(1000 * growth_mb), "files_before": files, "files_after": count_open_files()}


def count_open_files() -> int:
    """Return the number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def run_cpp_session(cli: Path, file: Path, runs: int, folder: Path) -> Row:
    """Run hgfast_cli and return the same values from its report."""
    write_image(folder / "photo.jpg", render_images(96, 1)[0])
    command: list[str | Path] = [cli.resolve(), file.resolve(), folder / "photo.jpg", "--threads", "1", "--repeat", str(runs)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise HgfastError(f"{cli} failed: {process.stderr.strip().rpartition(chr(10))[2]}")
    report: dict[str, Any] = json.loads(process.stderr.splitlines()[-1])
    names = {"calls": "runs", "growth_kb": "memory_growth_kb", "files_before": "files_before", "files_after": "files_after"}
    return {key: report[cpp_key] for key, cpp_key in names.items()}


def leak_row(language: str, runtime: str, file: Path, figures: Row) -> Row:
    blank = {"threads": 1, "noise": None, "images_per_s": None, "median_ms": None, "overhead": None, "times_one_thread": None}
    return {"what": f"endurance, {language}", "runtime": runtime, "file": file.name, **blank, **figures}


# ---- the report ----


def conclusions(rows: list[Row]) -> list[str]:
    """Compare each metric that has a target with it."""
    verdicts = []
    for row in rows:
        if row["overhead"] is not None:
            outcome = "good" if row["overhead"] < MAX_OVERHEAD else "too much"
            verdicts.append(
                f"{row['runtime']}: overhead of a session call {row['overhead']:+.1%} (target < {MAX_OVERHEAD:.0%}): {outcome}"
            )
        elif row["times_one_thread"] is not None:
            ratio = row["times_one_thread"]
            outcome = "good" if ratio >= MIN_THREADED_RATIO - (row["noise"] or 0) else "too little"
            verdicts.append(
                f"{row['runtime']}: {row['what']} reach {ratio:.2f} of one thread's images/s (target >= 1 ± noise): {outcome}"
            )
        elif row["growth_kb"] is not None:
            no_leak = row["growth_kb"] < MAX_GROWTH_KB and row["files_after"] <= row["files_before"]
            verdicts.append(
                f"{row['what']}, {row['runtime']}: {row['calls']} calls, memory {row['growth_kb']:+d} kB "
                f"(target < {MAX_GROWTH_KB}), open files {row['files_before']} before and {row['files_after']} after: "
                f"{'good' if no_leak else 'a leak'}"
            )
    return verdicts


def main() -> None:
    config = parse(SessionOverheadConfig, description=__doc__ or "")
    config.validate()
    machine = machine_info()
    with tempfile.TemporaryDirectory(prefix="hgfast-session-") as folder:
        rows = [*measure_times(config), *measure_leaks(config, Path(folder))]
    verdicts = conclusions(rows)
    columns = ("what", "runtime", "threads", "median_ms", "images_per_s", "overhead", "times_one_thread", "noise", "growth_kb")
    print(tabulate([{key: row[key] for key in columns} for row in rows], headers="keys", floatfmt=".3f"))
    print("\n".join(verdicts), flush=True)
    if config.json is not None:
        write_record(make_record(rows, machine, PACKAGES, verdicts), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run_main(main)
