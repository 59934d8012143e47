"""Measure several variants of a batch iterator in interleaved rounds in shuffled order, each in its own process.

Every process and its workers are bound to the same number of cores; the main thread computes on one. A trial starts after a
warm-up that consumes the prefetched batches, and begins and ends with the arrival of a batch. CPU time is that of the process
and of its running child processes (from /proc), so it includes the work of workers during the trial but not before. On a GPU a
variant must synchronize before it yields.
"""

from __future__ import annotations

import gc
import itertools
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from hgfast.errors import HgfastError, one_line

ROUNDS_MISSING = "the run has not ended; the rows contain the rounds so far"
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
    """Length of a trial: at least so many seconds and so many batches, after `warm` batches of warm-up.

    quick: fork the measuring processes from one that has imported torch, for smoke tests: it saves seconds per process, but the
    memory of a variant then includes pages of torch.
    """

    seconds: float = 2.0
    batches: int = 16
    warm: int = 8
    quick: bool = False


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
    """All trials of a variant, in the order of the rounds; none if it failed, for the reason `error`."""

    startup: StartupCost
    trials: list[Trial]
    error: str = ""

    @property
    def images_per_s(self) -> float:
        return median(trial.images_per_s for trial in self.trials)

    @property
    def cpu_ms_per_image(self) -> float:
        return median(trial.cpu_ms for trial in self.trials)

    def times(self, other: Result) -> float:
        """Return the median over the rounds of the ratio of images/s to those of another variant."""
        return median(a.images_per_s / b.images_per_s for a, b in zip(self.trials, other.trials))

    def rates(self, digits: int) -> dict[str, float]:
        """Return the keys of a row: images/s in the median, the lowest and the highest round."""
        rates = [trial.images_per_s for trial in self.trials]
        values = {"images_per_s": self.images_per_s, "images_per_s_min": min(rates), "images_per_s_max": max(rates)}
        return {key: round(value, digits) for key, value in values.items()}

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
    variants: Sequence[Variant],
    rounds: int,
    settings: TrialSettings,
    threads: int,
    seed: int = 0,
    on_round: Callable[[list[Result]], object] | None = None,
) -> list[Result]:
    """Start all variants one after the other, then run one trial of each per round, in an order shuffled for each round.

    A variant that fails, or whose process dies, takes no part in the remaining rounds, nor do others of that process.

    Args:
        on_round: called with the results so far after each round but the last.

    Raises:
        HgfastError: all variants failed; the message is that of the first.
    """
    rng = random.Random(seed)  # noqa: S311  (no secret)
    trials: list[list[Trial]] = [[] for _ in variants]
    bar = tqdm(total=len(variants) * (rounds + 1), unit="trial", disable=None)
    startup_costs, errors = [StartupCost(math.nan, math.nan)] * len(variants), [""] * len(variants)

    def request(index: int, command: Variant | TrialSettings) -> Any:
        """Return the reply, or None if the variant fails now or failed before."""
        bar.update()
        if errors[index]:
            return None
        try:
            return pool.request(variants[index], command)
        except HgfastError as error:
            errors[index], trials[index] = str(error), []
            bar.write(f"failed: {error}", file=sys.stderr)
            return None

    def results() -> list[Result]:
        return [Result(startup, list(done), error) for startup, done, error in zip(startup_costs, trials, errors)]

    with bar, closing(WorkerPool(threads, settings.quick)) as pool:  # on SIGTERM the pool ends its processes
        for index, variant in enumerate(variants):
            startup_costs[index] = request(index, variant) or startup_costs[index]
        for number in range(rounds):
            for index in rng.sample(range(len(variants)), len(variants)):
                if trial := request(index, settings):
                    trials[index].append(trial)
            if all(errors):
                raise HgfastError(errors[0])
            if on_round is not None and number < rounds - 1:
                on_round(results())
    return results()


def raise_failures(results: Sequence[Result]) -> None:
    """Raise `HgfastError` if a variant failed; call it once the rows of the others are written."""
    errors = [result.error for result in results if result.error]
    if errors:
        raise HgfastError(f"{len(errors)} of {len(results)} variants failed, the others are measured; the first: {errors[0]}")


@contextmanager
def single_thread_env() -> Iterator[None]:
    """Set `SINGLE_THREAD_ENV` to 1 for processes that are started inside the block: the BLAS of numpy reads them on import."""
    before = {key: os.environ.get(key) for key in SINGLE_THREAD_ENV}
    os.environ.update(dict.fromkeys(SINGLE_THREAD_ENV, "1"))
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


class WorkerPool:
    """The measuring processes, by the `process` of their variants; each is created on its first request."""

    def __init__(self, threads: int, quick: bool = False) -> None:
        self._threads = threads
        self._context: Any = multiprocessing.get_context("forkserver" if quick else "spawn")
        self._workers: dict[str, tuple[Any, Connection]] = {}
        if quick:
            self._context.set_forkserver_preload(["cv2", "torch", __name__])
            with single_thread_env():
                forkserver.ensure_running()

    def request(self, variant: Variant, command: Variant | TrialSettings) -> Any:
        """Start a variant, or run a trial of it. Returns `StartupCost` or `Trial`. Raises `HgfastError` if it failed."""
        if variant.process not in self._workers:
            self._workers[variant.process] = self._start(variant.process)
        process, pipe = self._workers[variant.process]
        try:
            pipe.send((variant.name, command))
            reply = pipe.recv()
        except (EOFError, OSError) as error:
            process.join(10)
            end = f"signal {-process.exitcode}" if (process.exitcode or 0) < 0 else f"exit code {process.exitcode}"
            raise HgfastError(f"{variant.name}: its process died ({end}): see its output above") from error
        if isinstance(reply, str):
            raise HgfastError(f"{variant.name}: {reply}")
        return reply

    def _start(self, name: str) -> tuple[Any, Connection]:
        pipe, child_pipe = self._context.Pipe()
        args = (child_pipe, self._threads, multiprocessing.get_start_method())
        process = self._context.Process(target=worker_loop, args=args, name=name)
        with single_thread_env():
            process.start()
        child_pipe.close()
        return process, pipe

    def close(self) -> None:
        """End the processes."""
        for _, pipe in self._workers.values():
            pipe.close()
        for process, _ in self._workers.values():
            process.join(10)
            if process.is_alive():
                process.terminate()
                process.join()


def worker_loop(pipe: Connection, threads: int, start_method: str) -> None:
    """Serve requests of `WorkerPool` until the pipe closes.

    `start_method` is the multiprocessing start method of the parent, so that loaders start their workers as they would there.
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
        except Exception as error:  # on a GPU, other variants of this process may be unusable now
            pipe.send(one_line(f"{type(error).__name__}: {error}"))
            raise
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
        fields = Path(f"/proc/{child.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S  # utime and stime, fields 14 and 15 of proc(5)
    return total


def rss_mb() -> float:
    """Resident memory of this process in 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_gpu_mb() -> float:
    """Peak GPU memory reserved by torch since `reset_peak_gpu_mb`, in 10^6 bytes; 0 if torch does not use a GPU."""
    import torch

    return torch.cuda.max_memory_reserved() / 1e6 if torch.cuda.is_initialized() else 0.0  # type: ignore[no-untyped-call]


def reset_peak_gpu_mb() -> None:
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
