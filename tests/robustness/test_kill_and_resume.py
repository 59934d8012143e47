"""Kills at any moment, signals, and restarts by torchrun: a resumed run is bitwise equal to an uninterrupted one.

Ranks and workers that hang are tested in test_faults_of_processes.py.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from hgfast import checkpoints
from tests.conftest import Command
from tests.robustness.runs import TrainProcess, equal_content, resume, run_until_saved, saved_step, train_flags, train_in_process

pytestmark = pytest.mark.slow


def assert_same_run(one: Path, other: Path) -> None:
    """Check that two runs have equal weights, averages, optimizer and best network, and the same record of each epoch."""
    for name in ("checkpoint.pt", "best.pt"):
        first, second = checkpoints.read(one / name), checkpoints.read(other / name)
        for part in ("weights", "ema"):
            assert equal_content(first.get(part), second.get(part)), (name, part)
        if "training" in first:
            assert equal_content(first["training"]["optimizer"], second["training"]["optimizer"])
            assert first["training"]["step"] == second["training"]["step"]
            assert first["training"]["ema_updates"] == second["training"]["ema_updates"]
    reproducible = ("epoch", "step", "loss", "lr", "valid")
    records = [
        [
            {key: record.get(key) for key in reproducible}
            for record in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        ]
        for folder in (one, other)
    ]
    assert records[0] == records[1]
    assert len({record["step"] for record in records[0]}) == len(records[0])


def train_to_end(out: Path, *words: object, ranks: int) -> None:
    """Run to the end, under torchrun or in this process."""
    if not ranks:
        train_in_process(*words)
        return
    run = TrainProcess(out, *words, ranks=ranks)
    assert run.finish() == 0, run.err


@pytest.fixture(scope="module")
def two_rank_run(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of two ranks."""
    out = tmp_path_factory.mktemp("two-ranks")
    train_to_end(out, *train_flags(hands, out), ranks=2)
    return out / "run"


def test_killed_and_resumed_run_equals_uninterrupted(hands: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_to_end(whole, *train_flags(hands, whole), ranks=0)
    run_until_saved(parts, *train_flags(hands, parts)).end()
    assert 17 <= saved_step(parts) < 40
    train_to_end(parts, "-c", "run", "--out", parts, ranks=0)
    assert_same_run(whole / "run", parts / "run")


def test_killed_and_resumed_ranks_equal_uninterrupted(hands: Path, tmp_path: Path, two_rank_run: Path) -> None:
    run_until_saved(tmp_path, *train_flags(hands, tmp_path), ranks=2).end()
    assert 17 <= saved_step(tmp_path) < 40
    train_to_end(tmp_path, "-c", "run", "--out", tmp_path, ranks=2)
    assert_same_run(two_rank_run, tmp_path / "run")


def test_thirty_kills_at_random_moments(tmp_path: Path, command: Command) -> None:
    """Kill also while a checkpoint is being written; every start resumes, and the result equals an uninterrupted run's."""
    done = command("-m", "tests.robustness.kill_and_resume", tmp_path, 30, 7)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert result["killed"] == 30 and result["writing"] >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("signum", "ranks"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGTERM, 2), (signal.SIGHUP, 2)]
)
def test_signals_save_and_print_resume_hint(hands: Path, tmp_path: Path, signum: signal.Signals, ranks: int) -> None:
    run = run_until_saved(tmp_path, *train_flags(hands, tmp_path), "-m", "100", ranks=ranks)  # more steps than the test has time
    run.process.send_signal(signum)
    code = run.finish()
    assert "which is saved: resume with -c run" in run.err and run.err.count("which is saved") == 1
    assert "Traceback" not in run.err.split("which is saved")[0]
    if not ranks:
        assert code == 128 + signum
    stopped = saved_step(tmp_path)
    assert stopped > 17 and f"stopped at step {stopped}" in run.err
    resume(tmp_path, stopped + 5)


def test_restarted_ranks_ignore_the_previous_rendezvous(command: Command) -> None:
    done = command("tests/robustness/late_rank.py", ranks=2, restarts=1)
    assert done.returncode == 0 and done.stdout.count("RESULT 2") == 2, done.stderr


def test_torchrun_restarts_resume_automatically(hands: Path, tmp_path: Path, two_rank_run: Path) -> None:
    run = run_until_saved(tmp_path, *train_flags(hands, tmp_path), ranks=2, restarts=2)
    os.kill(run.ranks()[0], signal.SIGKILL)
    assert run.finish() == 0, run.err
    assert run.out.count("samples to train on") == 2  # the summary, once per start
    assert_same_run(two_rank_run, tmp_path / "run")
