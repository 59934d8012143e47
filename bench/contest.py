"""Fair measurement of several ways to make batches: each in a process of its own, in rounds, in shuffled order.

The way's process and its workers are bound to the same number of cores for all, and its main thread computes on one. A
lap starts after a warm-up that empties what was prefetched, and begins and ends with the arrival of a batch. CPU time is
the process's own and that of its living child processes, from /proc, so that what workers spend counts and what they
spent before the lap does not. On a GPU a way must have waited for it when it says what it made.
What may enter: measuring any iterator that counts what it makes. What it makes is elsewhere.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import NamedTuple, Protocol

from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.signals import raising

TICK = os.sysconf("SC_CLK_TCK")


class Made(NamedTuple):
    """What a way has made since the last time, as far as it knows. waited: seconds of it that it waited for data. gpu_ms:
    milliseconds that the GPU took, by its own clock."""

    images: int
    waited: float = 0.0
    gpu_ms: float = 0.0


Batches = Generator[Made, None, None]
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Way(Protocol):
    """One way to make batches. It is pickled; `start` runs in the process that measures."""

    @property
    def name(self) -> str:
        """No two have the same; for error messages too."""

    @property
    def process(self) -> str:
        """Ways that name the same process share it; only one of them works at a time."""

    def load(self) -> None:
        """Import what `start` needs, so that its time and memory are not counted."""

    def start(self) -> Batches:
        """Endless batches: yields what was made, once it is ready to be used."""


@dataclass(frozen=True)
class Pace:
    """How long a lap takes: both the seconds and the batches must be reached; the warm-up is `warm` batches."""

    seconds: float = 2.0
    batches: int = 16
    warm: int = 8


@dataclass(frozen=True)
class Start:
    """Seconds from nothing to the first batch, and by how much the process's memory grew, in 10^6 bytes."""

    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Lap:
    """What was made in `seconds`, with CPU seconds of all processes; `waited` of the seconds went by waiting for data, as far as
    the way says so, and torch held `gpu_mb` of the GPU at most, in 10^6 bytes. `batch_ms`: of every batch, one after the other,
    and `gpu_ms` likewise by the GPU's clock, where the way knows it.
    """

    images: int
    seconds: float
    cpu_seconds: float
    waited: float = 0.0
    gpu_mb: float = 0.0
    batch_ms: tuple[float, ...] = ()
    gpu_ms: tuple[float, ...] = ()

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_seconds / self.images


@dataclass(frozen=True)
class Result:
    """All laps of a way, in the order of the rounds."""

    start: Start
    laps: list[Lap]

    @property
    def images_per_s(self) -> float:
        return median(lap.images_per_s for lap in self.laps)

    @property
    def cpu_ms(self) -> float:
        return median(lap.cpu_ms for lap in self.laps)

    @property
    def rounds(self) -> list[float]:
        """Milliseconds a batch in every round, the median of its lap each."""
        return [median(lap.batch_ms) for lap in self.laps]

    @property
    def gpu_ms(self) -> float | None:
        """Milliseconds of the GPU a batch, the median over the rounds; None where the way does not know them."""
        rounds = [median(lap.gpu_ms) for lap in self.laps if lap.gpu_ms]
        return median(rounds) if rounds else None

    @property
    def batch_ms(self) -> list[float]:
        """Milliseconds of every batch of every lap."""
        return [ms for lap in self.laps for ms in lap.batch_ms]


def compete(ways: Sequence[Way], rounds: int, pace: Pace, threads: int, seed: int = 0, progress: bool = True) -> list[Result]:
    """Start all ways one after the other, then let each run a lap a round; the order is shuffled anew for every round.

    Raises:
        HgfastError: a way failed; it is named.
    """
    order = random.Random(seed)  # noqa: S311  (no secret)
    laps: list[list[Lap]] = [[] for _ in ways]
    bar = tqdm(total=len(ways) * (rounds + 1), unit="lap", disable=None if progress else True)
    with raising(), bar, Stable(threads) as stable:  # SIGTERM ends the processes too
        starts = []
        for way in ways:
            starts.append(stable.start(way))
            bar.update()
        for _ in range(rounds):
            for number in order.sample(range(len(ways)), len(ways)):
                laps[number].append(stable.lap(ways[number], pace))
                bar.update()
    return [Result(start, own) for start, own in zip(starts, laps)]


class Stable:
    """The processes that measure."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._stalls: dict[str, Stall] = {}

    def __enter__(self) -> Stable:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for stall in self._stalls.values():
            stall.close()

    def start(self, way: Way) -> Start:
        """Open a way in its process, which is started if need be."""
        if way.process not in self._stalls:
            self._stalls[way.process] = Stall(way.process, self._threads)
        answer = self._stalls[way.process].ask(way.name, way)
        assert isinstance(answer, Start)
        return answer

    def lap(self, way: Way, pace: Pace) -> Lap:
        """Measure a way that was started."""
        answer = self._stalls[way.process].ask(way.name, pace)
        assert isinstance(answer, Lap)
        return answer


class Stall:
    """One process that measures the ways it is given."""

    def __init__(self, name: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, threads, multiprocessing.get_start_method()), name=name)
        before = {key: os.environ.get(key) for key in ONE_THREAD}
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # numpy's BLAS reads it when it is imported
        try:
            self._process.start()
        finally:
            for key, value in before.items():
                os.environ.pop(key)
                if value is not None:
                    os.environ[key] = value
        there.close()

    def ask(self, name: str, order: Way | Pace) -> Start | Lap:
        try:
            self._pipe.send((name, order))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise HgfastError(f"the process that measures {self._name} ended; its last words are above") from error
        if isinstance(answer, str):
            raise HgfastError(f"{name}: {answer}")
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def serve(pipe: Connection, threads: int, method: str) -> None:
    """The life of a process that measures: start a way when it is first named, then run laps with it.

    `method` is how workers are started, as they would be without this process in between, which is spawned.
    """
    multiprocessing.set_start_method(method, force=True)
    bind(threads)
    running: dict[str, Batches] = {}
    while True:
        try:
            name, order = pipe.recv()
        except EOFError:
            break
        try:
            if isinstance(order, Pace):
                pipe.send(run_lap(running[name], order))
            else:
                running[name], start = begin(order)
                pipe.send(start)
        except HgfastError as error:
            pipe.send(str(error))
    for batches in running.values():
        batches.close()


def bind(threads: int) -> None:
    """Keep this process and its children on so many cores, and its main thread's arithmetic on one."""
    import cv2
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def begin(way: Way) -> tuple[Batches, Start]:
    """A way after its first batch."""
    way.load()
    gc.collect()
    memory, begun = resident_mb(), time.perf_counter()
    batches = way.start()
    next(batches)
    return batches, Start(time.perf_counter() - begun, resident_mb() - memory)


def run_lap(batches: Batches, pace: Pace) -> Lap:
    """Warm up, then count from the arrival of one batch to that of another."""
    for _ in range(pace.warm):
        next(batches)
    forget_gpu_mb()
    made, cpu = list[Made](), cpu_seconds()
    arrivals = [time.perf_counter()]
    while len(arrivals) <= pace.batches or arrivals[-1] - arrivals[0] < pace.seconds:
        made.append(next(batches))
        arrivals.append(time.perf_counter())
    took = tuple(1000 * (end - begin) for begin, end in itertools.pairwise(arrivals))
    return Lap(
        images=sum(one.images for one in made),
        seconds=arrivals[-1] - arrivals[0],
        cpu_seconds=cpu_seconds() - cpu,
        waited=sum(one.waited for one in made),
        gpu_mb=gpu_mb(),
        batch_ms=took,
        gpu_ms=tuple(one.gpu_ms for one in made if one.gpu_ms),
    )


def cpu_seconds() -> float:
    """CPU time of this process, all threads, and of its living children; theirs in steps of a clock tick (10 ms)."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICK  # utime and stime, fields 14 and 15 of proc(5)
    return total


def resident_mb() -> float:
    """Memory of this process that is in RAM, in 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def gpu_mb() -> float:
    """The most that torch has held of the GPU since `forget_gpu_mb`, in 10^6 bytes; 0 where it does not use one."""
    import torch

    return torch.cuda.max_memory_reserved() / 1e6 if torch.cuda.is_initialized() else 0.0  # type: ignore[no-untyped-call]


def forget_gpu_mb() -> None:
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
