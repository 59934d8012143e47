"""What an application pays for `hgfast.runtime.Session` beside the network itself: time, threads, memory.

    python bench/embedding.py
    python bench/embedding.py --checkpoint exp/mpii/best.pt --cli build/hgfast_cli --json embedding.json

Beside the network alone (normalised floats in, heatmaps out, batch 1) stands a session's whole call on a photograph in memory:
crop, copy, network, decoding, keypoints in the photograph's pixels. Four threads that feed one session are measured in the same
rounds. Then a tiny network runs many times in a process of its own, whose memory and open files are looked at before and after;
--cli does the same with the program of export/cpp. Without --checkpoint the network is an untrained hg1.
What may enter: the flags, the rows, and what is said about them.
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
from contest import Batches, Made, Pace, Result, compete, resident_mb
from networks import MAPS, ONNX, exported, fresh
from noise import shares
from numpy.typing import NDArray
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast.cli import parse
from hgfast.draw import write_image
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_file, prepare_folder
from hgfast.machine import cores
from hgfast.runtime import Session
from hgfast.runtimes import RUNTIMES, Artefact, Place, Runtime
from pipelines.drawn.pictures import draw_pictures

PHOTO = 640  # pixels a side
BOX = (130.0, 80.0, 300.0, 420.0)
PADDING = 1.25
FEEDERS = 4  # threads that feed one session
MOST_OVERHEAD, LEAST_WITH_THREADS, MOST_GROWTH_KB = 0.10, 1.0, 5000
PACKAGES = ("onnxruntime", "openvino")


@dataclass(kw_only=True)
class EmbeddingConfig:
    """One look at what embedding costs."""

    checkpoint: Path | None = None
    """network to embed; none: an untrained hg1"""
    cli: Path | None = None
    """hgfast_cli, as export/cpp builds it, whose memory is looked at too"""
    runs: int = 20000
    """small inferences of which memory and open files are looked at"""
    rounds: int = 7
    """laps of every row"""
    seconds: float = 1.5
    """a lap's least length"""
    threads: int | None = None
    """of the CPU; none: one a core"""
    work: Path = Path("exp/bench")
    """folder for what is exported, kept and used again"""
    quick: bool = False
    """short laps and few runs, to see that it works"""
    json: Path | None = None
    """write the record here"""

    def __post_init__(self) -> None:
        if self.quick:
            self.runs, self.rounds, self.seconds = min(self.runs, 1000), 4, 0.4

    def validate(self) -> None:
        """Raise `HgfastError` for what is out of its range."""
        if min(self.runs, self.rounds, self.threads or 1) < 1 or self.seconds <= 0:
            raise HgfastError("--runs, --rounds and --threads must be at least 1, --seconds above 0")
        if self.cli is not None and not self.cli.is_file():
            raise HgfastError(f"there is no file {self.cli}: build it as export/cpp/README.md says")
        if self.json is not None:
            prepare_file(self.json, "--json")
        prepare_folder(self.work, "--work")


# ---- time ----


@dataclass(frozen=True, eq=False)
class EmbeddingWay:
    """A row: `what` is "network alone", "session" or "N threads"; the ways of a runtime share a process."""

    what: str
    runtime: Runtime
    file: Path
    threads: int

    @property
    def name(self) -> str:
        return f"{self.what}, {self.runtime}"

    @property
    def process(self) -> str:
        return self.runtime

    def load(self) -> None:
        """Nothing is heavy."""

    def start(self) -> Batches:
        return {"network alone": alone, "session": one_by_one}.get(self.what, from_threads)(self)


def alone(way: EmbeddingWay) -> Batches:
    """The runtime with the same few images."""
    artefact = Artefact(way.file, way.runtime, Place(way.threads))
    rng, shape = np.random.default_rng(0), artefact.sidecar.input.shape[1:]
    images = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(4)]  # type: ignore[arg-type]
    for number in count():
        artefact(images[number % len(images)])
        yield Made(1)


def one_by_one(way: EmbeddingWay) -> Batches:
    """Whole calls, one after the other."""
    photos = photographs()
    with Session(way.file, way.runtime, threads=way.threads) as session:
        for number in count():
            session(photos[number % len(photos)], [BOX], padding=PADDING)
            yield Made(1)


def from_threads(way: EmbeddingWay) -> Batches:
    """Whole calls from several threads, all of which always have one to wait for."""
    photos, session = photographs(), Session(way.file, way.runtime, threads=way.threads)
    pool = ThreadPoolExecutor(FEEDERS)

    def look(number: int) -> object:
        return session(photos[number % len(photos)], [BOX], padding=PADDING)

    waiting: set[Future[object]] = set()
    try:
        for number in count():
            while len(waiting) < FEEDERS:
                waiting.add(pool.submit(look, number))
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()
            yield Made(len(done))
    finally:
        wait(waiting)  # so that they are not in the way of others
        pool.shutdown()
        session.close()


def photographs() -> list[NDArray[np.uint8]]:
    return list(draw_pictures(PHOTO, 4))


def race(config: EmbeddingConfig) -> list[Row]:
    """The rows of every runtime."""
    checkpoint, threads = config.checkpoint or fresh("hg1", config.work), config.threads or cores()
    whole, maps = (exported(checkpoint, export, 8, config.work, [], config.quick) for export in (ONNX, MAPS))
    kinds = {"network alone": maps, "session": whole, f"{FEEDERS} threads": whole}
    ways = [EmbeddingWay(what, runtime, file, threads) for runtime in RUNTIMES["onnx"] for what, file in kinds.items()]
    results = compete(ways, config.rounds, Pace(config.seconds, batches=4, warm=3), threads)
    spreads = shares([[lap.images_per_s for lap in result.laps] for result in results])
    found = dict(zip(((way.runtime, way.what) for way in ways), results))
    return [make_row(way, result, share, found) for way, result, share in zip(ways, results, spreads)]


def make_row(way: EmbeddingWay, result: Result, share: float | None, found: dict[tuple[Runtime, str], Result]) -> Row:
    """A row of the record; ratios are medians of those within a round."""
    network, session = found[way.runtime, "network alone"].laps, found[way.runtime, "session"].laps
    row: Row = {"what": way.what, "runtime": way.runtime, "file": way.file.name, "threads": way.threads, "noise": share}
    row |= {"images_per_s": round(result.images_per_s, 2), "median_ms": round(median(result.rounds), 3)}
    row |= {
        "overhead": None,
        "times_one_thread": None,
        "calls": None,
        "growth_kb": None,
        "files_before": None,
        "files_after": None,
    }
    if way.what == "session":
        row["overhead"] = round(median(a.images_per_s / b.images_per_s for a, b in zip(network, session)) - 1, 4)
    elif way.what != "network alone":
        row["median_ms"] = round(1000 / result.images_per_s, 3)  # calls overlap
        row["times_one_thread"] = round(median(b.images_per_s / a.images_per_s for a, b in zip(session, result.laps)), 4)
    return row


# ---- memory ----


def endurance(config: EmbeddingConfig, folder: Path) -> list[Row]:
    """A tiny network many times, in Python and, with --cli, in C++."""
    small = exported(fresh("tiny", config.work), ONNX, 8, config.work, [], config.quick)
    rows = []
    for runtime in RUNTIMES["onnx"]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(endurance_row("python", runtime, small, pool.apply(live, (small, runtime, config.runs))))
    if config.cli is not None:
        rows.append(endurance_row("c++", "openvino", small, live_in_cpp(config.cli, small, config.runs, folder)))
    return rows


def live(file: Path, runtime: Runtime, runs: int) -> Row:
    """Run a session in this process; a tenth of it, 200 times at least, to warm up. Memory is that of the process, in RAM."""
    photo = draw_pictures(96, 1)[0]
    with Session(file, runtime, threads=1) as session:
        for _ in range(max(200, runs // 10)):
            session(photo)
        gc.collect()
        memory, files = resident_mb(), open_files()
        for _ in range(runs):
            session(photo)
        gc.collect()
        grown = resident_mb() - memory
    return {"calls": runs, "growth_kb": round(1000 * grown), "files_before": files, "files_after": open_files()}


def open_files() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def live_in_cpp(cli: Path, file: Path, runs: int, folder: Path) -> Row:
    """The same by hgfast_cli, in its own words."""
    write_image(folder / "photo.jpg", draw_pictures(96, 1)[0])
    words: list[str | Path] = [cli.resolve(), file.resolve(), folder / "photo.jpg", "--threads", "1", "--repeat", str(runs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HgfastError(f"{cli} failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    told: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    names = {"calls": "runs", "growth_kb": "memory_growth_kb", "files_before": "files_before", "files_after": "files_after"}
    return {ours: told[theirs] for ours, theirs in names.items()}


def endurance_row(language: str, runtime: str, file: Path, figures: Row) -> Row:
    blank = {"threads": 1, "noise": None, "images_per_s": None, "median_ms": None, "overhead": None, "times_one_thread": None}
    return {"what": f"endurance, {language}", "runtime": runtime, "file": file.name, **blank, **figures}


# ---- what is said ----


def conclusions(rows: list[Row]) -> list[str]:
    """Each figure that has a goal, beside it."""
    said = []
    for row in rows:
        if row["overhead"] is not None:
            good = "good" if row["overhead"] < MOST_OVERHEAD else "too much"
            said.append(f"{row['runtime']}: a session's call takes {row['overhead']:+.1%} (wanted < {MOST_OVERHEAD:.0%}): {good}")
        elif row["times_one_thread"] is not None:
            share = row["times_one_thread"]
            least = LEAST_WITH_THREADS - (row["noise"] or 0)
            good = "good" if share >= least else "too little"
            said.append(
                f"{row['runtime']}: {row['what']} reach {share:.2f} of one thread's images/s (wanted >= 1, within noise): {good}"
            )
        elif row["growth_kb"] is not None:
            flat = row["growth_kb"] < MOST_GROWTH_KB and row["files_after"] <= row["files_before"]
            said.append(
                f"{row['what']}, {row['runtime']}: {row['calls']} calls, memory {row['growth_kb']:+d} kB "
                f"(wanted < {MOST_GROWTH_KB}), open files {row['files_before']} before and {row['files_after']} after: "
                f"{'good' if flat else 'a leak'}"
            )
    return said


def main() -> None:
    config = parse(EmbeddingConfig, description=__doc__ or "")
    config.validate()
    where = machine()
    with tempfile.TemporaryDirectory(prefix="hgfast-embedding-") as folder:
        rows = [*race(config), *endurance(config, Path(folder))]
    said = conclusions(rows)
    shown = ("what", "runtime", "threads", "median_ms", "images_per_s", "overhead", "times_one_thread", "noise", "growth_kb")
    print(tabulate([{key: row[key] for key in shown} for row in rows], headers="keys", floatfmt=".3f"))
    print("\n".join(said), flush=True)
    if config.json is not None:
        write_record(make_record(rows, where, PACKAGES, said), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run(main)
