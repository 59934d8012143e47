"""Ranks and workers that die or hang: the run ends with one sentence, and the saved state can be resumed.

Kills at any moment and restarts by torchrun are in test_kill_and_resume.py, several machines in test_nodes.py.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from hgfast.errors import HgfastError
from hgfast.pipelines.loaders.workers import PREFETCH_FACTOR, WorkerPool
from tests.robustness.runs import TrainProcess, saved_step, train_flags
from tests.robustness.usage import process_tree

SIZE = 4 << 20  # bytes of an answer, more than a pipe holds


def big(number: int) -> tuple[int, np.ndarray]:
    return number, np.full(SIZE, number % 256, np.uint8)


def fails(number: int) -> int:
    raise ValueError(f"a bug at {number}")


def nothing() -> None:
    """No preparation."""


def workers_of(pid: int) -> list[int]:
    return process_tree(pid)[1:]


# ---- workers by themselves ----


@pytest.mark.parametrize("count", [0, 1, 3])
def test_imap_is_ordered_and_may_be_left_early(count: int) -> None:
    pool = WorkerPool(big, count, nothing, __name__)
    for questions in (range(0), range(1), range(7), range(20, 31)):
        assert [number for number, _ in pool.answers(questions)] == list(questions)
    for left_after in (0, 1, 3):
        answers = pool.answers(range(100, 120))
        assert [next(answers)[0] for _ in range(left_after)] == list(range(100, 100 + left_after))
        answers.close()
        assert [(n, int(a.sum())) for n, a in pool.answers(range(5))] == [(n, n * SIZE) for n in range(5)]


def test_two_iterators_at_a_time_are_refused() -> None:
    pool = WorkerPool(big, 1, nothing, __name__)
    first = pool.answers(range(3))
    next(first)
    with pytest.raises(RuntimeError, match="exhaust or close"):
        next(pool.answers(range(3)))


def test_a_worker_killed_in_the_midst_of_its_answer_is_noticed() -> None:
    """Those that share one pipe would wait for the rest of the answer for ever."""
    pool = WorkerPool(big, 2, nothing, __name__)
    answers = pool.answers(range(50))
    next(answers)
    time.sleep(0.5)  # now both have written as much as their pipes hold
    victim = pool._workers[1].process
    os.kill(victim.pid or 0, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(HgfastError, match=rf"worker process {victim.pid} of --loader opencv was killed by signal 9 \(Killed\)"):
        list(answers)
    assert time.monotonic() - began < 100
    assert [number for number, _ in pool.answers(range(2 * PREFETCH_FACTOR))] == list(range(2 * PREFETCH_FACTOR))  # by new ones


def test_a_bug_in_a_worker_ends_the_iterator() -> None:
    with pytest.raises(HgfastError, match="exited with code 1: see its output above"):
        list(WorkerPool(fails, 1, nothing, __name__).answers(range(3)))


# ---- workers and ranks of a run ----


def opencv_loader_flags(hands: Path, out: Path) -> list[object]:
    return [*train_flags(hands, out), "-m", 100, "--loader", "opencv", "--threads", 2]


def test_a_killed_worker_ends_the_run(hands: Path, tmp_path: Path) -> None:
    run = TrainProcess(tmp_path, *opencv_loader_flags(hands, tmp_path))
    run.wait_until((tmp_path / "run/checkpoint.pt").exists, "checkpoint")
    os.kill(run.workers()[-1], signal.SIGKILL)
    assert run.finish() == 2
    assert "of --loader opencv was killed by signal 9" in run.err and "Traceback" not in run.err
    assert f"step {saved_step(tmp_path)} is saved: resume with -c run" in run.err


def test_ctrl_c_in_a_terminal_reaches_workers_too(hands: Path, tmp_path: Path) -> None:
    """And they go on, so that the run can end its step and save."""
    run = TrainProcess(tmp_path, *opencv_loader_flags(hands, tmp_path))
    run.wait_until((tmp_path / "run/checkpoint.pt").exists, "checkpoint")
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.finish() == 128 + signal.SIGINT
    assert f"stopped at step {saved_step(tmp_path)}, which is saved" in run.err and "Traceback" not in run.err


def test_workers_do_not_outlive_a_killed_run(hands: Path, tmp_path: Path) -> None:
    run = TrainProcess(tmp_path, *opencv_loader_flags(hands, tmp_path))
    run.wait_until((tmp_path / "run/checkpoint.pt").exists, "checkpoint")
    left = workers_of(run.process.pid)
    assert len(left) >= 4  # two for training, two for validation, besides what starts them
    run.process.kill()
    run.process.wait()
    end = time.monotonic() + 150
    while (alive := [pid for pid in left if process_tree(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_unresponsive_or_dead_rank(hands: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The other one says so after --train.dist-timeout, or at once, and the job ends; so does a rank that wakes up too late.

    One that does not wake up is killed by torchrun, 30 seconds later.
    """
    run = TrainProcess(tmp_path, *train_flags(hands, tmp_path), "-m", 100, "--train.dist-timeout", 0.08, ranks=2)
    run.wait_until((tmp_path / "run/checkpoint.pt").exists, "checkpoint")
    ranks = run.processes("hgfast/train.py")
    os.kill(ranks[-1], number)
    run.wait_until(run.errors, "sentence")
    if number == signal.SIGSTOP:
        os.kill(ranks[-1], signal.SIGCONT)
    assert run.finish(30) != 0
    step = saved_step(tmp_path)
    first, *others = run.errors()
    assert first.startswith("error: rank 0 has lost contact with another rank")
    assert f"step {step} is saved: resume with -c run" in first
    assert all(line.startswith("error: rank 1 has lost contact") and "resume with -c run" in line for line in others)
    assert not run.tracebacks()
    assert not [pid for pid in ranks if process_tree(pid)]
    if number == signal.SIGKILL:  # test_kill_and_resume.py resumes after that
        return
    again = TrainProcess(tmp_path, "-c", "run", "--out", tmp_path, "-m", (step + 4) / 1000)
    assert again.finish() == 0, again.err
    assert saved_step(tmp_path) == step + 4
