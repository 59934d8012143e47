"""A process that opens what is broken, watched from outside: what crashes, hangs or takes too much memory is told, not suffered.

Every case is a number, from which the process makes the file and opens it.
What may enter: watching; what is opened is for others.
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

ADDRESSES_GB = 8.0  # of address space; runtimes reserve more than they use
MEMORY_GB = 2.0  # that a process may hold at its worst, its libraries included
SECONDS = 30.0  # for one case
IMPORTING = 90.0  # more for the first
GOOD = ("answered", "refused")


class Case(NamedTuple):
    """What came of a case. found: one of `GOOD`, or what went wrong. seconds, megabytes: what it took, at its worst."""

    number: int
    found: str
    seconds: float
    megabytes: float

    @property
    def wrong(self) -> bool:
        return self.found not in GOOD


Work = Callable[[int], str]
"""From a case's number to one of `GOOD`. Whatever it raises is what went wrong."""


def serve(pipe: Connection, start: Callable[..., Work], parts: tuple[Any, ...]) -> None:
    """Cases by their numbers until there are no more."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = int(ADDRESSES_GB * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print about broken files
    work = start(*parts)
    while (number := pipe.recv()) is not None:
        forget_peak()
        began = time.perf_counter()
        try:
            found = work(number)
        except BaseException as error:  # whatever it is, is what was looked for
            found = f"{type(error).__name__}: {str(error)[:300]}"
        pipe.send(Case(number, found, time.perf_counter() - began, peak_megabytes()))


def forget_peak() -> None:
    """Begin a new measurement of the most memory that this process holds (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """The most memory that this process has held since."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def ended(work: Callable[[], object]) -> str:
    """How it ended: with an answer, or with one sentence. Whatever is neither is raised."""
    try:
        work()
    except HgfastError as error:
        if "\n" in str(error) or not 10 < len(str(error)) < 1000:
            raise AssertionError(f"no sentence: {error}") from error
        return "refused"
    return "answered"


class Watched:
    """A process that does cases, and another when it is gone. `start(*parts)` is called there, and gives the `Work`."""

    def __init__(self, start: Callable[..., Work], parts: tuple[Any, ...]) -> None:
        self._start, self._parts = start, parts
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, self._start, self._parts), daemon=True)
        self._process.start()
        there.close()
        self._patience, self._idle = SECONDS + IMPORTING, False

    def try_one(self, number: int) -> Case:
        """What came of a case."""
        began, self._idle = time.perf_counter(), False
        self._pipe.send(number)
        if self._pipe.poll(self._patience):
            try:
                case: Case = self._pipe.recv()
            except EOFError:
                self._process.join()
                code = self._process.exitcode or 0
                found = f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
            else:
                self._patience, self._idle = SECONDS, True
                if not case.wrong and case.megabytes > 1024 * MEMORY_GB:
                    return case._replace(found=f"memory: {case.megabytes:.0f} MB")
                return case
        else:
            found = f"hangs: more than {SECONDS:g} s"
        self.close()
        self._begin()
        return Case(number, found, time.perf_counter() - began, 0.0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10 if self._idle else 0)
        self._process.kill()
        self._process.join()
        self._pipe.close()


def watch(start: Callable[..., Work], parts: tuple[Any, ...], numbers: Iterable[int], processes: int = 1) -> Iterator[Case]:
    """What came of cases; several processes share them."""
    all_numbers = list(numbers)
    done: queue.SimpleQueue[Case | BaseException] = queue.SimpleQueue()

    def share(part: list[int]) -> None:
        try:
            with closing(Watched(start, parts)) as watched:
                for number in part:
                    done.put(watched.try_one(number))
        except BaseException as error:
            done.put(error)

    with ThreadPoolExecutor(processes) as pool:
        for place in range(processes):
            pool.submit(share, all_numbers[place::processes])
        for _ in all_numbers:
            case = done.get()
            if isinstance(case, BaseException):
                raise case
            yield case
