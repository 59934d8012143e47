"""Run fuzz cases in monitored processes: crashes, hangs and excessive memory are reported as outcomes.

A case is identified by a number, from which the process writes a file and opens it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from hgfast.errors import HgfastError

ADDRESS_SPACE_GB = 8.0  # limit of the address space; runtimes reserve more than they use
MEMORY_GB = 2.0  # peak memory of a process, libraries included
SECONDS = 30.0  # timeout of a case
STARTUP_SECONDS = 90.0  # additional timeout of the first case
EXPECTED = ("answered", "refused")


class Case(NamedTuple):
    """Result of a case. outcome: one of `EXPECTED`, or a description of the failure. megabytes: peak memory."""

    number: int
    outcome: str
    seconds: float
    megabytes: float

    @property
    def wrong(self) -> bool:
        return self.outcome not in EXPECTED


CaseFunction = Callable[[int], str]
"""Runs the case of this number and returns one of `EXPECTED`; an exception is a failure."""


def case_loop(pipe: Connection, start: Callable[..., CaseFunction], parts: tuple[Any, ...]) -> None:
    """Run cases by their numbers until None arrives."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = int(ADDRESS_SPACE_GB * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries print errors about broken files
    work = start(*parts)
    while (number := pipe.recv()) is not None:
        reset_peak_memory()
        began = time.perf_counter()
        try:
            outcome = work(number)
        except BaseException as error:  # every exception is reported
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
        pipe.send(Case(number, outcome, time.perf_counter() - began, peak_megabytes()))


def reset_peak_memory() -> None:
    """Reset the peak memory of this process (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """Return the peak memory of this process since `reset_peak_memory`."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def outcome_of(work: Callable[[], object]) -> str:
    """Return "answered", or "refused" for an `HgfastError` of one sentence; other exceptions pass through."""
    try:
        work()
    except HgfastError as error:
        if "\n" in str(error) or not 10 < len(str(error)) < 1000:
            raise AssertionError(f"not one sentence: {error}") from error
        return "refused"
    return "answered"


class MonitoredProcess:
    """A process that runs cases, restarted if it dies. `start(*parts)` is called there and returns the `CaseFunction`."""

    def __init__(self, start: Callable[..., CaseFunction], parts: tuple[Any, ...]) -> None:
        self._start, self._parts = start, parts
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=case_loop, args=(child_end, self._start, self._parts), daemon=True)
        self._process.start()
        child_end.close()
        self._timeout, self._idle = SECONDS + STARTUP_SECONDS, False

    def run_case(self, number: int) -> Case:
        """Run a case and return its result."""
        began, self._idle = time.perf_counter(), False
        self._pipe.send(number)
        if self._pipe.poll(self._timeout):
            try:
                case: Case = self._pipe.recv()
            except EOFError:
                self._process.join()
                code = self._process.exitcode or 0
                outcome = f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
            else:
                self._timeout, self._idle = SECONDS, True
                if not case.wrong and case.megabytes > 1024 * MEMORY_GB:
                    return case._replace(outcome=f"memory: {case.megabytes:.0f} MB")
                return case
        else:
            outcome = f"hangs: more than {SECONDS:g} s"
        self.close()
        self._begin()
        return Case(number, outcome, time.perf_counter() - began, 0.0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10 if self._idle else 0)
        self._process.kill()
        self._process.join()
        self._pipe.close()


def run_monitored(
    start: Callable[..., CaseFunction], parts: tuple[Any, ...], numbers: Iterable[int], processes: int = 1
) -> Iterator[Case]:
    """Run cases in several processes and yield their results."""
    all_numbers = list(numbers)
    done: queue.SimpleQueue[Case | BaseException] = queue.SimpleQueue()

    def run_part(part: list[int]) -> None:
        try:
            with closing(MonitoredProcess(start, parts)) as process:
                for number in part:
                    done.put(process.run_case(number))
        except BaseException as error:
            done.put(error)

    with ThreadPoolExecutor(processes) as pool:
        for index in range(processes):
            pool.submit(run_part, all_numbers[index::processes])
        for _ in all_numbers:
            case = done.get()
            if isinstance(case, BaseException):
                raise case
            yield case
