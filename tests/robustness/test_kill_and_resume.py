"""Kills at any moment, signals, and restarts by torchrun: a resumed run is bitwise equal to an uninterrupted one.

Ranks and workers that hang are tested in test_faults_of_processes.py.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hgfast import checkpoints
from tests.conftest import Command
from tests.robustness.runs import TrainProcess, saved_step, train_flags

pytestmark = pytest.mark.slow


def assert_equal_content(one: Any, other: Any) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(assert_equal_content(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(assert_equal_content(a, b) for a, b in zip(one, other))
    return bool(one == other)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages, optimizer, the best network, and a line for each epoch with the same losses and figures."""
    for name in ("checkpoint.pt", "best.pt"):
        first, second = checkpoints.read(one / name), checkpoints.read(other / name)
        for part in ("weights", "ema"):
            assert assert_equal_content(first.get(part), second.get(part)), (name, part)
        if "training" in first:
            assert assert_equal_content(first["training"]["optimizer"], second["training"]["optimizer"])
            assert first["training"]["step"] == second["training"]["step"]
            assert first["training"]["ema_updates"] == second["training"]["ema_updates"]
    kept = ("epoch", "step", "loss", "lr", "valid")
    lines = [
        [{key: line.get(key) for key in kept} for line in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())]
        for f in (one, other)
    ]
    assert lines[0] == lines[1]
    assert len({line["step"] for line in lines[0]}) == len(lines[0])


def complete(folder: Path, *what: object, ranks: int = 0) -> None:
    """A run that ends well."""
    run = TrainProcess(folder, *what, ranks=ranks)
    assert run.finish() == 0, run.err


def until_saved(folder: Path, *what: object, ranks: int = 0, restarts: int = 0) -> TrainProcess:
    """A run that has a checkpoint and goes on."""
    run = TrainProcess(folder, *what, ranks=ranks, restarts=restarts)
    run.wait_until((folder / "run/checkpoint.pt").exists, "checkpoint")
    return run


@pytest.mark.parametrize("ranks", [0, 2])
def test_killed_and_resumed_run_equals_uninterrupted(hands: Path, tmp_path: Path, ranks: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    complete(whole, *train_flags(hands, whole), ranks=ranks)
    until_saved(parts, *train_flags(hands, parts), ranks=ranks).end()
    assert 17 <= saved_step(parts) < 40
    complete(parts, "-c", "run", "--out", parts, ranks=ranks)
    assert_same_run(whole / "run", parts / "run")


def test_thirty_kills_at_random_moments(tmp_path: Path, command: Command) -> None:
    """Also while a checkpoint is being written; the run always goes on, and ends as one that was never killed."""
    done = command("-m", "tests.robustness.kill_and_resume", tmp_path, 30, 7)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert result["killed"] == 30 and result["writing"] >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGTERM, 2)])
def test_signals_save_and_print_resume_hint(hands: Path, tmp_path: Path, number: signal.Signals, ranks: int) -> None:
    run = until_saved(tmp_path, *train_flags(hands, tmp_path), "-m", "100", ranks=ranks)  # far more steps than there is time for
    run.process.send_signal(number)
    code = run.finish()
    assert "which is saved: resume with -c run" in run.err and run.err.count("which is saved") == 1
    assert "Traceback" not in run.err.split("which is saved")[0]
    if not ranks:
        assert code == 128 + number
    stopped = saved_step(tmp_path)
    assert stopped > 17 and f"stopped at step {stopped}" in run.err
    complete(tmp_path, "-c", "run", "--out", tmp_path, "-m", (stopped + 5) / 1000, ranks=ranks)
    assert saved_step(tmp_path) == stopped + 5


def test_restarted_ranks_ignore_the_previous_rendezvous(command: Command) -> None:
    done = command("tests/robustness/late_rank.py", ranks=2, restarts=1)
    assert done.returncode == 0 and done.stdout.count("RESULT 2") == 2, done.stderr


def test_torchrun_restarts_resume_automatically(hands: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    complete(whole, *train_flags(hands, whole), ranks=2)
    run = until_saved(parts, *train_flags(hands, parts), ranks=2, restarts=2)
    os.kill(run.processes("hgfast/train.py")[0], signal.SIGKILL)
    assert run.finish() == 0, run.err
    assert run.out.count("samples to train on") == 2  # the summary, once a start
    assert_same_run(whole / "run", parts / "run")
