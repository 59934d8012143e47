"""Measure several variants of a batch iterator in interleaved rounds in shuffled order, each in its own process.

Every process and its workers are bound to the same number of cores; the main thread computes on one. A trial starts after a
warm-up that consumes the prefetched batches, and begins and ends with the arrival of a batch. CPU time is that of the process
and of its running child processes (from /proc), so it includes the work of workers during the trial but not before. On a GPU a
variant must synchronize before it yields.
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
from hgfast.training.shutdown import raise_on_sigterm

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BatchInfo(NamedTuple):
    """A batch that a variant yields. data_wait_s: seconds spent waiting for data. gpu_ms: time on the GPU by CUDA events."""

    images: int
    data_wait_s: float = 0.0
    gpu_ms: float = 0.0


BatchIterator = Generator[BatchInfo, None, None]
SINGLE_THREAD_ENV = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Variant(Protocol):
    """One of the compared implementations. It is pickled; `start` runs in the measuring process."""

    @property
    def name(self) -> str:
        """Unique name, also for error messages."""

    @property
    def process(self) -> str:
        """Variants with the same value share a process; only one of them runs at a time."""

    def load(self) -> None:
        """Import what `start` needs, so that the startup cost does not include it."""

    def start(self) -> BatchIterator:
        """Yield batches without end, each when it is ready for use."""


@dataclass(frozen=True)
class TrialSettings:
    """Length of a trial: at least so many seconds and so many batches, after `warm` batches of warm-up."""

    seconds: float = 2.0
    batches: int = 16
    warm: int = 8


@dataclass(frozen=True)
class StartupCost:
    """Seconds from the start to the first batch, and the growth of the process's memory in 10^6 bytes."""

    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Trial:
    """One measurement of a variant.

    cpu_seconds: of all its processes. data_wait_s: seconds spent waiting for data. gpu_mb: peak GPU memory reserved by torch in
    10^6 bytes. batch_ms, gpu_ms: time of each batch by the host's clock and by CUDA events; gpu_ms is empty if not measured.
    """

    images: int
    seconds: float
    cpu_seconds: float
    data_wait_s: float = 0.0
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
    """All trials of a variant, in the order of the rounds."""

    startup: StartupCost
    trials: list[Trial]

    @property
    def images_per_s(self) -> float:
        return median(trial.images_per_s for trial in self.trials)

    @property
    def cpu_ms_per_image(self) -> float:
        return median(trial.cpu_ms for trial in self.trials)

    @property
    def round_ms(self) -> list[float]:
        """Median milliseconds per batch of each round."""
        return [median(trial.batch_ms) for trial in self.trials]

    @property
    def gpu_ms(self) -> float | None:
        """GPU milliseconds per batch, the median over the rounds; None if not measured."""
        rounds = [median(trial.gpu_ms) for trial in self.trials if trial.gpu_ms]
        return median(rounds) if rounds else None

    @property
    def batch_ms(self) -> list[float]:
        """Milliseconds of every batch of every trial."""
        return [ms for trial in self.trials for ms in trial.batch_ms]


def run_interleaved(
    variants: Sequence[Variant], rounds: int, settings: TrialSettings, threads: int, seed: int = 0, progress: bool = True
) -> list[Result]:
    """Start all variants one after the other, then run one trial of each per round, in an order shuffled for each round.

    Raises:
        HgfastError: a variant failed; the message contains its name.
    """
    rng = random.Random(seed)  # noqa: S311  (no secret)
    trials: list[list[Trial]] = [[] for _ in variants]
    bar = tqdm(total=len(variants) * (rounds + 1), unit="trial", disable=None if progress else True)
    with raise_on_sigterm(), bar, WorkerPool(threads) as pool:  # on SIGTERM the pool closes its processes
        startup_costs = []
        for variant in variants:
            startup_costs.append(pool.start(variant))
            bar.update()
        for _ in range(rounds):
            for index in rng.sample(range(len(variants)), len(variants)):
                trials[index].append(pool.run_trial(variants[index], settings))
                bar.update()
    return [Result(startup, variant_trials) for startup, variant_trials in zip(startup_costs, trials)]


class WorkerPool:
    """The measuring processes, by the `process` of their variants."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()

    def start(self, variant: Variant) -> StartupCost:
        """Start a variant in its process, which is created if needed."""
        if variant.process not in self._workers:
            self._workers[variant.process] = Worker(variant.process, self._threads)
        reply = self._workers[variant.process].request(variant.name, variant)
        assert isinstance(reply, StartupCost)
        return reply

    def run_trial(self, variant: Variant, settings: TrialSettings) -> Trial:
        """Measure a started variant."""
        reply = self._workers[variant.process].request(variant.name, settings)
        assert isinstance(reply, Trial)
        return reply


class Worker:
    """One process that measures variants."""

    def __init__(self, name: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, child_connection = context.Pipe()
        self._process = context.Process(
            target=worker_loop, args=(child_connection, threads, multiprocessing.get_start_method()), name=name
        )
        before = {key: os.environ.get(key) for key in SINGLE_THREAD_ENV}
        os.environ.update(dict.fromkeys(SINGLE_THREAD_ENV, "1"))  # the BLAS of numpy reads them on import
        try:
            self._process.start()
        finally:
            for key, value in before.items():
                os.environ.pop(key)
                if value is not None:
                    os.environ[key] = value
        child_connection.close()

    def request(self, name: str, command: Variant | TrialSettings) -> StartupCost | Trial:
        """Start a variant, or run a trial of it. Raises `HgfastError` if it failed."""
        try:
            self._pipe.send((name, command))
            reply = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise HgfastError(f"the process that measures {self._name} died: see its output above") from error
        if isinstance(reply, str):
            raise HgfastError(f"{name}: {reply}")
        return reply

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def worker_loop(pipe: Connection, threads: int, start_method: str) -> None:
    """Serve requests of `Worker`: start variants and run trials until the pipe closes.

    `start_method` is the multiprocessing start method of the parent, so that loaders start their workers as they would there;
    this process itself is spawned.
    """
    multiprocessing.set_start_method(start_method, force=True)
    pin_to_cores(threads)
    iterators: dict[str, BatchIterator] = {}
    while True:
        try:
            name, command = pipe.recv()
        except EOFError:
            break
        try:
            if isinstance(command, TrialSettings):
                pipe.send(run_trial(iterators[name], command))
            else:
                iterators[name], start = start_variant(command)
                pipe.send(start)
        except HgfastError as error:
            pipe.send(str(error))
    for batches in iterators.values():
        batches.close()


def pin_to_cores(threads: int) -> None:
    """Bind this process and its children to the first `threads` cores, and limit its main thread to one thread."""
    import cv2
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def start_variant(variant: Variant) -> tuple[BatchIterator, StartupCost]:
    """Start a variant and wait for its first batch."""
    variant.load()
    gc.collect()
    memory, start_time = rss_mb(), time.perf_counter()
    batches = variant.start()
    next(batches)
    return batches, StartupCost(time.perf_counter() - start_time, rss_mb() - memory)


def run_trial(batches: BatchIterator, settings: TrialSettings) -> Trial:
    """Warm up, then measure from the arrival of one batch to that of a later one."""
    for _ in range(settings.warm):
        next(batches)
    reset_peak_gpu_mb()
    infos, cpu = list[BatchInfo](), cpu_seconds()
    arrivals = [time.perf_counter()]
    while len(arrivals) <= settings.batches or arrivals[-1] - arrivals[0] < settings.seconds:
        infos.append(next(batches))
        arrivals.append(time.perf_counter())
    durations_ms = tuple(1000 * (end - start) for start, end in itertools.pairwise(arrivals))
    return Trial(
        images=sum(info.images for info in infos),
        seconds=arrivals[-1] - arrivals[0],
        cpu_seconds=cpu_seconds() - cpu,
        data_wait_s=sum(info.data_wait_s for info in infos),
        gpu_mb=peak_gpu_mb(),
        batch_ms=durations_ms,
        gpu_ms=tuple(info.gpu_ms for info in infos if info.gpu_ms),
    )


def cpu_seconds() -> float:
    """CPU time of all threads of this process and of its running children; the latter in clock ticks (10 ms)."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S  # utime and stime, fields 14 and 15 of proc(5)
    return total


def rss_mb() -> float:
    """Resident memory of this process in 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_gpu_mb() -> float:
    """Peak GPU memory reserved by torch since `reset_peak_gpu_mb`, in 10^6 bytes; 0 if torch does not use a GPU."""
    import torch

    return torch.cuda.max_memory_reserved() / 1e6 if torch.cuda.is_initialized() else 0.0  # type: ignore[no-untyped-call]


def reset_peak_gpu_mb() -> None:
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
