"""Ranks and workers that die or hang: the run ends with an error of one sentence, and the saved state can be resumed.

Kills at any moment and restarts by torchrun are in test_kill_and_resume.py, several machines in test_nodes.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hgfast import evaluate, report, train
from hgfast.errors import HgfastError
from hgfast.pipelines.processes import PREFETCH_FACTOR, WorkerPool
from tests.conftest import ROOT, TIMEOUT, Command, ErrorOf
from tests.robustness.runs import TrainProcess, resume, run_until_saved, saved_step, train_flags
from tests.robustness.usage import process_tree

SIZE = 4 << 20  # bytes of a result, more than a pipe holds


def large_result(number: int) -> tuple[int, np.ndarray]:
    return number, np.full(SIZE, number % 256, np.uint8)


def raise_error(number: int) -> int:
    raise ValueError(f"a bug at {number}")


# ---- worker pools ----


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_are_ordered_and_iterators_may_be_closed_early(count: int) -> None:
    pool = WorkerPool(large_result, count, __name__)
    for tasks in (range(0), range(1), range(7), range(20, 31)):
        assert [number for number, _ in pool.answers(tasks)] == list(tasks)
    for num_results in (0, 1, 3):
        results = pool.answers(range(100, 120))
        assert [next(results)[0] for _ in range(num_results)] == list(range(100, 100 + num_results))
        results.close()
        assert [(n, int(a.sum())) for n, a in pool.answers(range(5))] == [(n, n * SIZE) for n in range(5)]


def test_workers_start_with_a_long_path_for_temporary_files(tmp_path: Path) -> None:
    """A fork server's socket would not fit in it."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = f"""if __name__ == "__main__":
        from hgfast.pipelines.processes import WorkerPool
        from tests.robustness.test_faults_of_processes import large_result
        print(sum(number for number, _ in WorkerPool(large_result, 2, "{__name__}").answers(range(5))))"""
    (tmp_path / "script.py").write_text(code)
    variables = {"TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env={**os.environ, **variables}, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


def test_simultaneous_iterators_are_refused() -> None:
    pool = WorkerPool(large_result, 1, __name__)
    first = pool.answers(range(3))
    next(first)
    with pytest.raises(RuntimeError, match="exhaust or close"):
        next(pool.answers(range(3)))


def test_worker_killed_while_sending_is_detected() -> None:
    """With a pipe shared by all workers, the rest of the result would never arrive."""
    pool = WorkerPool(large_result, 2, __name__)
    results = pool.answers(range(50))
    next(results)
    time.sleep(0.5)  # until both have filled their pipes
    victim = pool._workers[1].process
    os.kill(victim.pid or 0, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(HgfastError, match=rf"worker process {victim.pid} of this command was killed by signal 9 \(Killed\)"):
        list(results)
    assert time.monotonic() - began < 100
    tasks = range(2 * PREFETCH_FACTOR)
    assert [number for number, _ in pool.answers(tasks)] == list(tasks)  # by new workers


def test_exception_in_a_worker_ends_the_iterator() -> None:
    with pytest.raises(HgfastError, match="exited with code 1: see its output above"):
        list(WorkerPool(raise_error, 1, __name__).answers(range(3)))


# ---- workers and ranks of a training run ----


def opencv_loader_flags(hands: Path, out: Path) -> list[object]:
    return [*train_flags(hands, out), "-m", 100, "--loader", "opencv", "--threads", 2]


def test_killed_worker_ends_the_run(hands: Path, tmp_path: Path) -> None:
    run = run_until_saved(tmp_path, *opencv_loader_flags(hands, tmp_path))
    os.kill(run.workers()[-1], signal.SIGKILL)
    assert run.finish() == 2
    assert "of --loader opencv was killed by signal 9" in run.err and "Traceback" not in run.err
    assert f"step {saved_step(tmp_path)} is saved: resume with -c run" in run.err


def test_workers_survive_ctrl_c_in_a_terminal(hands: Path, tmp_path: Path) -> None:
    """SIGINT reaches all processes of a terminal; the workers ignore it, so that the run can end its step and save."""
    run = run_until_saved(tmp_path, *opencv_loader_flags(hands, tmp_path))
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.finish() == 128 + signal.SIGINT
    assert f"stopped at step {saved_step(tmp_path)}, which is saved" in run.err and "Traceback" not in run.err


def test_workers_do_not_outlive_a_killed_run(hands: Path, tmp_path: Path) -> None:
    run = run_until_saved(tmp_path, *opencv_loader_flags(hands, tmp_path))
    descendants = process_tree(run.process.pid)[1:]
    assert len(descendants) >= 4  # two workers for training, two for validation, and their fork server
    run.process.kill()
    run.process.wait()
    end = time.monotonic() + 150
    while (alive := [pid for pid in descendants if process_tree(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_unresponsive_or_dead_rank(hands: Path, tmp_path: Path, signum: signal.Signals) -> None:
    """The other rank reports it, after --train.dist-timeout or at once, and the job ends; so does a rank that resumes too late.

    torchrun kills a rank that stays stopped, 30 seconds later.
    """
    run = run_until_saved(tmp_path, *train_flags(hands, tmp_path), "-m", 100, "--train.dist-timeout", 0.08, ranks=2)
    ranks = run.ranks()
    os.kill(ranks[-1], signum)
    run.wait_until(run.errors, "error")
    if signum == signal.SIGSTOP:
        os.kill(ranks[-1], signal.SIGCONT)
    assert run.finish(30) != 0
    step = saved_step(tmp_path)
    first, *others = run.errors()
    assert first.startswith("error: rank 0 has lost contact with another rank")
    assert f"step {step} is saved: resume with -c run" in first
    assert all(line.startswith("error: rank 1 has lost contact") and "resume with -c run" in line for line in others)
    assert not run.tracebacks()
    assert not [pid for pid in ranks if process_tree(pid)]
    if signum == signal.SIGSTOP:  # test_kill_and_resume.py resumes after a kill
        resume(tmp_path, step + 4)


# ---- two runs, and closed output ----


def test_a_second_run_in_the_folder_is_refused_and_changes_nothing(hands: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    run = run_until_saved(tmp_path, *train_flags(hands, tmp_path), "-m", "100")
    flags = train_flags(hands, tmp_path)
    for words in ([*flags], [*flags, "--overwrite"], ["-c", "run", "--out", tmp_path]):
        assert f"run is in use by process {run.process.pid} on" in error_of(train.main, *words)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 128 + signal.SIGTERM
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    resume(tmp_path, saved_step(tmp_path) + 5)
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("ranks", [0, 2])
def test_training_goes_on_when_its_output_is_closed(hands: Path, tmp_path: Path, ranks: int) -> None:
    """As with `| head -1`, or when `| tee` dies."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1]).read(1)", str(tmp_path / "pipe")]):
        run = TrainProcess(tmp_path, *train_flags(hands, tmp_path), ranks=ranks, output=tmp_path / "pipe")
        code = run.finish()
    assert (code, run.errors(), run.tracebacks()) == (0, [], 0) and "BrokenPipe" not in run.err
    assert saved_step(tmp_path) == 40 and len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 7


def test_reports_and_evaluations_while_training_writes(hands: Path, tmp_path: Path, in_process: Command) -> None:
    run = run_until_saved(tmp_path, *train_flags(hands, tmp_path), "-m", "100")
    for _ in range(3):
        for main, words in (
            (report.main, [tmp_path / "run", "--out", tmp_path / "report.html"]),
            (evaluate.main, [tmp_path / "run/checkpoint.pt", "--data", hands, "--threads", 1, "--device", "cpu"]),
        ):
            result = in_process(main, *words)
            assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    run.process.send_signal(signal.SIGTERM)
    assert run.finish() == 128 + signal.SIGTERM


# ---- commands with worker processes ----


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}  # noqa: S108


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("verb", ["cache", "synthetic"])
def test_workers_and_semaphores_do_not_outlive_a_command(people: Path, tmp_path: Path, signum: signal.Signals, verb: str) -> None:
    flags: list[object] = ["freihand", "--out", tmp_path / "hands", "--count", 2000, "--workers", 2]
    if verb == "cache":
        flags = ["--dataset", "mpii", "--data", people, "--cache", tmp_path / "crops", "--threads", 2]
    before = shared_memory()
    command = [sys.executable, "-m", "hgfast", verb, *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + TIMEOUT
        while not list(tmp_path.rglob("*.jpg")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        descendants = process_tree(process.pid)[1:]
        process.send_signal(signum)
        stderr = process.communicate(timeout=TIMEOUT)[1]
    assert len(descendants) >= 3 and "Traceback" not in stderr  # two workers and their fork server
    assert process.returncode in ((-signum,) if signum == signal.SIGKILL else (128 + signum, 0))  # or it was done already
    while (alive := [pid for pid in descendants if process_tree(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive and shared_memory() <= before
    if signum != signal.SIGKILL:
        assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_never_come_are_waited_for_no_longer_than_asked(hands: Path, tmp_path: Path, rank: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    variables = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "hgfast/train.py", *map(str, train_flags(hands, tmp_path)), "--train.dist-timeout", "0.05"]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 2
    lost = f"error: rank {rank} has " + ("not reached rank 0 at 127.0.0.1" if rank else "lost contact with another rank")
    assert (
        result.stderr.startswith(lost)
        and result.stderr.count("\n") == 1
        and len(result.stderr) < 400
        and not (tmp_path / "run").exists()
    )
