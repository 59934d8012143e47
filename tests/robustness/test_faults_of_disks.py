"""Full or read-only disks: the error is one sentence, no data is lost, and the run can be resumed.

tests/hgfast/training/test_run_logger.py and test_trainer.py test the log and the checkpoint of one process when
files cannot grow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hgfast import checkpoints, train
from hgfast.errors import HgfastError
from tests.conftest import ErrorOf
from tests.robustness.runs import TrainProcess, resume, run_until_saved, saved_step, train_flags

FULL = Path("/dev/full")


def system(name: str, *words: object) -> str:
    """Run a system command; returns its error, or an empty string."""
    program = shutil.which(name)
    if program is None:
        return f"{name} is not installed"
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"{name} fails" if done.returncode else ""


def run_or_skip(name: str, *words: object) -> None:
    """Skip the test if the command fails, such as without the necessary permissions."""
    if problem := system(name, *words):
        pytest.skip(problem)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run_or_skip("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk)
    yield disk
    assert not system("umount", "--lazy", disk)


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A run's folder that the test may make immutable."""
    folder = tmp_path / "out/run"
    folder.mkdir(parents=True)
    yield folder
    system("chattr", "-i", folder)


def fill(disk: Path) -> Path:
    """Write a file that takes all free space; returns its path."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.slow
def test_disk_fills_up_under_two_ranks(hands: Path, tmp_path: Path, small_disk: Path, error_of: ErrorOf) -> None:
    """On a real file system. The main rank reports it, the other one the lost contact; saved files, config.yaml included, stay
    valid."""
    run = TrainProcess(tmp_path, *train_flags(hands, small_disk), "-m", 100, "--train.save-steps", 3, ranks=2)
    run.wait_until((small_disk / "run/checkpoint.pt").exists, "checkpoint")
    ballast = fill(small_disk)
    assert run.finish() != 0
    errors = run.errors()
    assert any("cannot write" in line and "No space left on device" in line for line in errors), run.err
    step = saved_step(small_disk)
    assert any(f"step {step} is saved: resume with -c run" in line for line in errors), run.err
    assert not run.tracebacks()
    assert not list(small_disk.glob("run/.*.writing"))

    config = (small_disk / "run/config.yaml").read_bytes()
    assert "cannot write" in error_of(train.main, "-c", "run", "--out", small_disk)
    assert (small_disk / "run/config.yaml").read_bytes() == config and saved_step(small_disk) == step

    ballast.unlink()
    resume(small_disk, step + 4)


@pytest.mark.slow
def test_run_folder_becomes_read_only(hands: Path, tmp_path: Path, read_only_folder: Path, error_of: ErrorOf) -> None:
    """The folder is made immutable during the run, which holds for root too, unlike permissions."""
    out = read_only_folder.parent
    run = run_until_saved(out, *train_flags(hands, out), "-m", 100, "--train.save-steps", 3, "--train.keep-checkpoints", 2)
    try:
        run_or_skip("chattr", "+i", read_only_folder)
        code = run.finish()
    finally:
        run.end()
    assert code == 2 and "Operation not permitted" in run.err and "Traceback" not in run.err
    step = saved_step(out)
    assert f"step {step} is saved: resume with -c run" in run.err
    error = error_of(train.main, "-c", "run", "--out", out)
    assert "cannot write" in error and "choose another folder with --exp or --out" in error
    run_or_skip("chattr", "-i", read_only_folder)
    resume(out, step + 4)


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full does not exist")
def test_output_on_a_full_disk(hands: Path, tmp_path: Path) -> None:
    """As with `> log` on a full disk."""
    run = TrainProcess(tmp_path, *train_flags(hands, tmp_path), output=FULL)
    assert run.finish() == 2
    assert "cannot write the output (No space left on device): free some space" in run.err
    assert "Traceback" not in run.err and "Exception ignored" not in run.err


def test_out_is_a_file(hands: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    (tmp_path / "out").touch()
    assert "choose another with --exp or --out" in error_of(train.main, *train_flags(hands, tmp_path / "out"))


def test_failed_copies_of_older_checkpoints_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links, the copy of the previous checkpoint may not fit."""

    def fail_to_link(*_: object) -> None:
        raise OSError("no links here")

    def fail_to_copy(_: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    (tmp_path / "checkpoint.pt").write_bytes(b"whole")
    monkeypatch.setattr(checkpoints.os, "link", fail_to_link)
    monkeypatch.setattr(checkpoints.shutil, "copyfile", fail_to_copy)
    with pytest.raises(HgfastError, match=r"cannot keep .*No space left"):
        checkpoints.write_checkpoint({"training": {"step": 9}}, tmp_path, keep_checkpoints=2, previous_step=3)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"whole"
