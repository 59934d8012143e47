"""Worker processes that return results in order, prefetch a few tasks, and are watched for sudden death.

torch's DataLoader is not used: its workers share one pipe, and a worker that is killed while writing a batch to it (the usual
moment, as a batch exceeds a pipe's buffer) blocks everybody else for ever. Here each worker has its own pipe, which closes when
the worker dies. Nothing is stored in /dev/shm, which is small in containers.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar

from hgfast.errors import HgfastError

Task = TypeVar("Task")
TaskResult = TypeVar("TaskResult")
PREFETCH_FACTOR = 2
"""Tasks that a worker has at a time: it works on the second while the result of the first is received."""


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


class WorkerPool(Generic[Task, TaskResult]):
    """Processes that start with the first task and end with this object, or with the process that created it.

    Args:
        function: computes a result from a task; pickled once per worker.
        count: number of processes; 0 works in this process.
        initializer: called once in each process.
        preload_module: name of the module that defines all of this, imported once for all workers.
    """

    def __init__(
        self, function: Callable[[Task], TaskResult], count: int, initializer: Callable[[], object], preload_module: str
    ) -> None:
        self._function, self._count, self._initializer, self._preload_module = function, count, initializer, preload_module
        self._workers: list[_Worker] = []
        self._outstanding: list[int] = []  # results that each worker still has to send
        self._busy = False

    def answers(self, tasks: Sequence[Task]) -> Generator[TaskResult, None, None]:
        """Yield the results in the order of the tasks. The iterator may be closed early.

        Raises:
            HgfastError: a worker has died.
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
            process = context.Process(target=_worker_loop, args=(child_end, self._function, self._initializer), daemon=True)  # type: ignore[attr-defined]
            process.start()
            child_end.close()  # so that reading fails when the worker dies
            self._workers.append(_Worker(process, parent_end))
            self._outstanding.append(0)

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
            worker.pipe.close()
        self._workers, self._outstanding = [], []
        if code is not None and code < 0:
            reason = f"was killed by signal {-code} ({signal.strsignal(-code)})"
            advice = "if memory ran out, use fewer with --threads, or --loader dali"
        else:
            reason = f"exited with code {code}"
            advice = "see its output above"
        return HgfastError(f"worker process {process.pid} of --loader opencv {reason}: {advice}")


def _worker_loop(pipe: Connection, function: Callable[[Any], Any], initializer: Callable[[], object]) -> None:
    """Run tasks until the pipe closes. Ctrl-C reaches all processes of a terminal; only the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    initializer()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):  # the parent has closed the pipe or died
            return
        result = function(task)
        try:
            pipe.send(result)
        except OSError:
            return


def _process_context(preload_module: str) -> BaseContext:
    """Return a context whose processes do not inherit this process's threads: forking while a thread works may deadlock."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload_module])
    return context
