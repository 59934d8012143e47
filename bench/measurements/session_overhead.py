"""Measure the variants of `session_overhead.py`: times, and the growth of memory and open files."""

from __future__ import annotations

import gc
import json
import multiprocessing
import subprocess
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.bench.harness.config import SessionOverheadConfig
from hgfast.bench.harness.interleaved import (
    BatchInfo,
    BatchIterator,
    Result,
    TrialSettings,
    raise_failures,
    rss_mb,
    run_interleaved,
)
from hgfast.bench.harness.networks import ONNX, ONNX_HEATMAPS, Exports, untrained_checkpoint
from hgfast.bench.harness.noise import relative_noise
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.tables.columns import print_rows
from hgfast.errors import HgfastError
from hgfast.fileio.files import temporary_folder
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
ROW_KEYS = ("what", "runtime", "file", "threads", "noise", "images_per_s", "median_ms", "overhead", "times_one_thread")
LEAK_KEYS = ("calls", "growth_kb", "files_before", "files_after")


def run(config: SessionOverheadConfig) -> None:
    """Measure, print the table and the conclusions, and write the record."""
    machine, checkpoint = machine_info(), config.checkpoint or untrained_checkpoint("hg1", config.work)
    with closing(Exports(config.work, 8, quick=config.quick)) as exports:
        files = [exports.find_or_export(checkpoint, export) for export in (ONNX, ONNX_HEATMAPS)]
        tiny_onnx = exports.find_or_export(untrained_checkpoint("tiny", config.work), ONNX)
    with temporary_folder() as folder:
        rows = [*measure_times(config, *files), *measure_leaks(config, tiny_onnx, folder)]
    verdicts = conclusions(rows)
    print_rows(rows, "embedding")
    print("\n".join(verdicts), flush=True)
    write_record(make_record(rows, machine, PACKAGES, verdicts), config.json)


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


def network_batches(variant: SessionVariant) -> BatchIterator:
    """Run the network on a few images in turn."""
    artifact = Artifact(variant.file, variant.runtime, DeviceOptions(variant.threads))
    rng, shape = np.random.default_rng(0), artifact.sidecar.input.shape[1:]
    images = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(4)]  # type: ignore[arg-type]
    for number in count():
        artifact(images[number % len(images)])
        yield BatchInfo(1)


def session_batches(variant: SessionVariant) -> BatchIterator:
    """Call a session, one call after the other."""
    photos = make_photos()
    with Session(variant.file, variant.runtime, threads=variant.threads) as session:
        for number in count():
            session(photos[number % len(photos)], [BOX], padding=PADDING)
            yield BatchInfo(1)


def threaded_batches(variant: SessionVariant) -> BatchIterator:
    """Call a session from several threads, each of which always has a pending call."""
    photos, session = make_photos(), Session(variant.file, variant.runtime, threads=variant.threads)
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


def measure_times(config: SessionOverheadConfig, keypoints_onnx: Path, heatmaps_onnx: Path) -> list[Row]:
    """Measure the times of every runtime and return the rows."""
    threads = config.threads or available_cores()
    files = {"network alone": heatmaps_onnx, "session": keypoints_onnx, f"{CLIENT_THREADS} threads": keypoints_onnx}
    variants = [
        SessionVariant(case, runtime, file, threads) for runtime in RUNTIMES_BY_FORMAT["onnx"] for case, file in files.items()
    ]
    results = run_interleaved(variants, config.rounds, TrialSettings(config.seconds, 4, 3, config.quick), threads)
    raise_failures(results)
    noise_levels = relative_noise([[trial.images_per_s for trial in result.trials] for result in results])
    by_case = dict(zip(((variant.runtime, variant.case) for variant in variants), results))
    return [make_row(variant, result, noise, by_case) for variant, result, noise in zip(variants, results, noise_levels)]


def make_row(variant: SessionVariant, result: Result, noise: float | None, by_case: dict[tuple[RuntimeName, str], Result]) -> Row:
    """Return the row of a variant; ratios are medians of the ratios within a round."""
    row: Row = dict.fromkeys((*ROW_KEYS, *LEAK_KEYS))
    row |= {"what": variant.case, "runtime": variant.runtime, "file": variant.file.name, "threads": variant.threads}
    row |= {"noise": noise, "images_per_s": round(result.images_per_s, 2), "median_ms": round(median(result.round_ms), 3)}
    if variant.case == "session":
        row["overhead"] = round(by_case[variant.runtime, "network alone"].times(result) - 1, 4)
    elif variant.case != "network alone":
        row["median_ms"] = round(1000 / result.images_per_s, 3)  # the calls overlap
        row["times_one_thread"] = round(result.times(by_case[variant.runtime, "session"]), 4)
    return row


# ---- memory ----


def measure_leaks(config: SessionOverheadConfig, tiny_onnx: Path, folder: Path) -> list[Row]:
    """Run a tiny network many times, in Python and, with --cli, in C++; return the rows."""
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
    return dict(zip(LEAK_KEYS, (runs, round(1000 * growth_mb), files, count_open_files())))


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
    return dict(zip(LEAK_KEYS, (report[key] for key in ("runs", "memory_growth_kb", "files_before", "files_after"))))


def leak_row(language: str, runtime: str, file: Path, figures: Row) -> Row:
    names = {"what": f"endurance, {language}", "runtime": runtime, "file": file.name, "threads": 1}
    return {**dict.fromkeys(ROW_KEYS), **names, **figures}


# ---- conclusions ----


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
