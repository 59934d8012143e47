"""Worker processes that return results in order, prefetch a few tasks, and are watched for sudden death.

Workers import this module, so it must not import torch. They ignore the signals that end a program, which a terminal sends to all
of its processes, and end when their pipe closes: when the pool is closed, or its process has ended, however it ended.

torch's DataLoader and concurrent.futures are not used: their workers share one pipe, and a worker that is killed while writing to
it blocks everybody else for ever; they also outlive a killed parent, and leave semaphores in /dev/shm, which is small or missing
in containers. Here each worker has its own pipe, which closes when the worker dies.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.shutdown import STOP_SIGNALS
from hgfast.system_info import available_cores

Task = TypeVar("Task")
TaskResult = TypeVar("TaskResult")
PREFETCH_FACTOR = 2
"""Tasks that a worker has at a time: it works on the second while the result of the first is received."""
JOBS_PER_PROCESS = 16
"""Fewest jobs for which `map_with_progress` starts another process."""
MAX_SOCKET_FOLDER = 70
"""Largest length of a folder in bytes in which multiprocessing can create a socket: a path has at most 107, and it adds 31."""
CLOSE_SECONDS = 30.0
"""Seconds after which a worker that does not end is killed."""


def map_with_progress(
    function: Callable[[Task], TaskResult], jobs: Sequence[Task], workers: int | None, unit: str
) -> Generator[TaskResult, None, None]:
    """Yield `function(job)` for all jobs in order, computed in this process or in several; show a bar on a terminal.

    Raises OSError and `HgfastError` of the function, and `HgfastError` if a worker has died.
    """
    count = min(workers or available_cores(), math.ceil(len(jobs) / JOBS_PER_PROCESS))
    pool = WorkerPool(function, count if count > 1 else 0, function.__module__)
    with closing(pool), closing(pool.answers(jobs)) as results:
        yield from tqdm(results, total=len(jobs), unit=unit, disable=None if jobs else True)


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


class _Failure(NamedTuple):
    error: Exception


class WorkerPool(Generic[Task, TaskResult]):
    """Processes that start with the first task and end with this object, or with the process that created it.

    Args:
        function: computes a result from a task; pickled once per worker.
        count: number of processes; 0 works in this process.
        preload_module: name of the module that defines all of this, imported once for all workers.
        user: flag or command that the workers belong to, for messages.
        advice: what to do if memory ran out.
    """

    def __init__(
        self,
        function: Callable[[Task], TaskResult],
        count: int,
        preload_module: str,
        user: str = "this command",
        advice: str = "use fewer processes",
    ) -> None:
        self._function, self._count, self._preload_module = function, count, preload_module
        self._user, self._advice = user, advice
        self._workers: list[_Worker] = []
        self._outstanding: list[int] = []  # results that each worker still has to send
        self._busy = False

    def answers(self, tasks: Sequence[Task]) -> Generator[TaskResult, None, None]:
        """Yield the results in the order of the tasks. The iterator may be closed early.

        Raises:
            HgfastError: a worker has died.
            HgfastError, OSError: the function has raised it.
        """
        if not self._count:
            yield from map(self._function, tasks)
            return
        if self._busy:
            raise RuntimeError("other tasks are still running: exhaust or close their iterator first")
        self._busy = True
        try:
            self._start()
            for number, outstanding in enumerate(self._outstanding):  # results of an iterator that was closed early
                for _ in range(outstanding):
                    self._receive(number)
            for position, task in enumerate(tasks[: PREFETCH_FACTOR * self._count]):
                self._send(position % self._count, task)
            for position in range(len(tasks)):
                result = self._receive(position % self._count)
                if isinstance(result, _Failure):
                    raise result.error
                if position + PREFETCH_FACTOR * self._count < len(tasks):
                    self._send(position % self._count, tasks[position + PREFETCH_FACTOR * self._count])
                yield result
        finally:
            self._busy = False

    def _start(self) -> None:
        if self._workers:
            return
        context = _process_context(self._preload_module)
        for _ in range(self._count):
            parent_end, child_end = context.Pipe()
            process = context.Process(target=_worker_loop, args=(child_end, self._function), daemon=True)  # type: ignore[attr-defined]
            process.start()
            child_end.close()  # so that reading fails when the worker dies
            self._workers.append(_Worker(process, parent_end))
            self._outstanding.append(0)
        # before multiprocessing sends its daemons SIGTERM, which they ignore, and waits for them
        Finalize(self, _end_workers, (self._workers,), exitpriority=10)

    def close(self) -> None:
        """End the workers once they have finished their task."""
        _end_workers(self._workers)
        self._outstanding = []

    def _send(self, number: int, task: Task) -> None:
        try:
            self._workers[number].pipe.send(task)
        except OSError as error:
            raise self._worker_error(number) from error
        self._outstanding[number] += 1

    def _receive(self, number: int) -> Any:
        try:
            result = self._workers[number].pipe.recv()
        except (EOFError, OSError) as error:
            raise self._worker_error(number) from error
        self._outstanding[number] -= 1
        return result

    def _worker_error(self, number: int) -> HgfastError:
        """Describe the death of a worker, and stop all others."""
        process = self._workers[number].process
        process.join(5)
        code = process.exitcode
        for worker in self._workers:
            worker.process.kill()
        self.close()
        if code is not None and code < 0:
            reason = f"was killed by signal {-code} ({signal.strsignal(-code)})"
            advice = f"if memory ran out, {self._advice}"
        else:
            reason = f"exited with code {code}"
            advice = "see its output above"
        return HgfastError(f"worker process {process.pid} of {self._user} {reason}: {advice}")


def _end_workers(workers: list[_Worker]) -> None:
    """Close the pipes of all workers, and wait for them."""
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        worker.process.join(CLOSE_SECONDS)
        worker.process.kill()
    workers.clear()


def _worker_loop(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Run tasks until the pipe closes, in one thread: there is a process for each core."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    cv2.setNumThreads(1)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):  # the parent has closed the pipe or died
            return
        try:
            result = function(task)
        except (HgfastError, OSError) as error:
            result = _Failure(error)
        try:
            pipe.send(result)
        except OSError:
            return


def _process_context(preload_module: str) -> BaseContext:
    """Return a context whose processes do not inherit this process's threads: forking while a thread works may deadlock.

    A fork server imports the module once, but listens at a socket in the folder for temporary files, whose path must be short.
    """
    has_short_path = len(os.fsencode(tempfile.gettempdir())) <= MAX_SOCKET_FOLDER
    if "forkserver" not in multiprocessing.get_all_start_methods() or not has_short_path:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload_module])
    return context
