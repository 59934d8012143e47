"""Worker processes that answer questions in their order, a few ahead, and whose death is noticed at once.

torch's DataLoader is not used: its workers share one pipe, and one that is killed while a batch is on its way there (the usual
moment, as a batch does not fit a pipe) leaves everybody waiting for the rest of it for ever. Here each has a pipe of its own,
whose end is its end. Nothing lies in /dev/shm, which is small in containers.
What may enter: handing out work to processes that stay. What the work is stays outside.
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

Question = TypeVar("Question")
Answer = TypeVar("Answer")
AHEAD = 2
"""Questions that a worker is given at a time: it works on the second while the answer to the first is fetched."""


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


class Workers(Generic[Question, Answer]):
    """Processes that are started with the first question and end with this object, or with the process that made it.

    Args:
        answer: what they do; pickled once for each.
        count: of processes; 0 does the work in this one.
        prepare: called once in each process.
        preload: name of the module that all of it lives in, which is imported once for all.
    """

    def __init__(self, answer: Callable[[Question], Answer], count: int, prepare: Callable[[], object], preload: str) -> None:
        self._answer, self._count, self._prepare, self._preload = answer, count, prepare, preload
        self._workers: list[_Worker] = []
        self._owed: list[int] = []  # answers that each worker still has to give
        self._busy = False

    def answers(self, questions: Sequence[Question]) -> Generator[Answer, None, None]:
        """The answers in the order of the questions. Leaving early is fine.

        Raises:
            HgfastError: a worker has died.
        """
        if not self._count:
            yield from map(self._answer, questions)
            return
        if self._busy:
            raise RuntimeError("other questions are still being answered: exhaust or close their iterator first")
        self._busy = True
        try:
            self._start()
            for number, owed in enumerate(self._owed):  # to those who left early
                for _ in range(owed):
                    self._fetch(number)
            for place, question in enumerate(questions[: AHEAD * self._count]):
                self._ask(place % self._count, question)
            for place in range(len(questions)):
                given = self._fetch(place % self._count)
                if place + AHEAD * self._count < len(questions):
                    self._ask(place % self._count, questions[place + AHEAD * self._count])
                yield given
        finally:
            self._busy = False

    def _start(self) -> None:
        if self._workers:
            return
        context = _context(self._preload)
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._answer, self._prepare), daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()  # so that the worker's death is the end of what can be read
            self._workers.append(_Worker(process, ours))
            self._owed.append(0)

    def _ask(self, number: int, question: Question) -> None:
        try:
            self._workers[number].pipe.send(question)
        except OSError as error:
            raise self._dead(number) from error
        self._owed[number] += 1

    def _fetch(self, number: int) -> Any:
        try:
            given = self._workers[number].pipe.recv()
        except (EOFError, OSError) as error:
            raise self._dead(number) from error
        self._owed[number] -= 1
        return given

    def _dead(self, number: int) -> HgfastError:
        """What is known of a worker that has died; none outlives it."""
        process = self._workers[number].process
        process.join(5)
        code = process.exitcode
        for worker in self._workers:
            worker.process.kill()
            worker.pipe.close()
        self._workers, self._owed = [], []
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
            advice = "where memory ran out, use fewer with --threads, or --loader dali"
        else:
            how = f"has ended with exit code {code}"
            advice = "see what it said"
        return HgfastError(f"worker process {process.pid} of --loader torch {how}: {advice}")


def _serve(pipe: Connection, answer: Callable[[Any], Any], prepare: Callable[[], object]) -> None:
    """A worker's life. Ctrl-C, which reaches all processes of a terminal, is for the one that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    while True:
        try:
            question = pipe.recv()
        except (EOFError, OSError):  # nobody will ask any more
            return
        given = answer(question)
        try:
            pipe.send(given)
        except OSError:
            return


def _context(preload: str) -> BaseContext:
    """Workers that do not inherit this process's threads: a fork in the midst of one's work may hang for ever."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context
