"""Disks that are full or not writable: one sentence, no data is lost, and the run can be resumed.

tests/hgfast/training/test_run_logger.py and test_training.py test a RunLogger and the checkpoint of one process if files cannot
grow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.robustness.runs import TrainProcess, saved_step, train_flags

FULL = Path("/dev/full")


def system(name: str, *words: object) -> str:
    """Run a command of the system's; what went wrong, or ""."""
    program = shutil.which(name)
    if program is None:
        return f"there is no {name} here"
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"{name} fails" if done.returncode else ""


def run_ok(name: str, *words: object) -> None:
    """Skip the test where the command does not work: it needs leave that not everybody has."""
    if problem := system(name, *words):
        pytest.skip(problem)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    run_ok("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place)
    yield place
    assert not system("umount", "--lazy", place)


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that a test may make immutable."""
    folder = tmp_path / "out/run"
    folder.mkdir(parents=True)
    yield folder
    system("chattr", "-i", folder)


def fill(disk: Path) -> Path:
    """A file that takes what room there is."""
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
def test_a_disk_that_fills_up_under_two_ranks(hands: Path, tmp_path: Path, small_disk: Path) -> None:
    """A real one. The first rank says so, the other that it lost it; what is saved stays whole, config.yaml too."""
    run = TrainProcess(tmp_path, *train_flags(hands, small_disk), "-m", 100, "--train.save-steps", 3, ranks=2)
    run.wait_until((small_disk / "run/checkpoint.pt").exists, "checkpoint")
    ballast = fill(small_disk)
    assert run.finish() != 0
    said = run.errors()
    assert any("cannot write" in line and "No space left on device" in line for line in said), run.err
    step = saved_step(small_disk)
    assert any(f"step {step} is saved: resume with -c run" in line for line in said), run.err
    assert not run.tracebacks()
    assert not list(small_disk.glob("run/.*.writing"))

    config = (small_disk / "run/config.yaml").read_bytes()
    again = TrainProcess(tmp_path, "-c", "run", "--out", small_disk)
    assert again.finish() == 2 and "cannot write" in again.err and "Traceback" not in again.err
    assert (small_disk / "run/config.yaml").read_bytes() == config and saved_step(small_disk) == step

    ballast.unlink()
    again = TrainProcess(tmp_path, "-c", "run", "--out", small_disk, "-m", (step + 4) / 1000)
    assert again.finish() == 0, again.err
    assert saved_step(small_disk) == step + 4


@pytest.mark.slow
def test_a_folder_that_can_no_longer_be_written(hands: Path, tmp_path: Path, read_only_folder: Path) -> None:
    """The folder is made immutable in mid-run, which binds root too, unlike permissions."""
    run = TrainProcess(
        tmp_path, *train_flags(hands, read_only_folder.parent), "-m", 100, "--train.save-steps", 3, "--train.keep-checkpoints", 2
    )
    run.wait_until((read_only_folder / "checkpoint.pt").exists, "checkpoint")
    try:
        run_ok("chattr", "+i", read_only_folder)
        code = run.finish()
    finally:
        run.end()
    assert code == 2 and "Operation not permitted" in run.err and "Traceback" not in run.err
    step = saved_step(read_only_folder.parent)
    assert f"step {step} is saved: resume with -c run" in run.err
    again = TrainProcess(tmp_path, "-c", "run", "--out", read_only_folder.parent)
    assert again.finish() == 2 and "cannot write" in again.err and "choose another folder with --out" in again.err
    run_ok("chattr", "-i", read_only_folder)
    again = TrainProcess(tmp_path, "-c", "run", "--out", read_only_folder.parent, "-m", (step + 4) / 1000)
    assert again.finish() == 0, again.err
    assert saved_step(read_only_folder.parent) == step + 4


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_printed(hands: Path, tmp_path: Path) -> None:
    """As with `> log` on a full disk."""
    run = TrainProcess(tmp_path, *train_flags(hands, tmp_path), output=FULL)
    assert run.finish() == 2
    assert "cannot write the output (No space left on device): free some space" in run.err
    assert "Traceback" not in run.err and "Exception ignored" not in run.err


def test_a_file_in_the_folders_place(hands: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    run = TrainProcess(tmp_path, *train_flags(hands, tmp_path / "out"))
    assert run.finish() == 2 and "choose another folder with --out" in run.err and "Traceback" not in run.err


def test_older_checkpoints_that_cannot_be_copied_leave_no_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where links do not exist, the copy of the one before may not fit."""
    from hgfast import checkpoints
    from hgfast.errors import HgfastError

    def no_link(*_: object) -> None:
        raise OSError("no links here")

    def cut_short(_: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    (tmp_path / "checkpoint.pt").write_bytes(b"whole")
    monkeypatch.setattr(checkpoints.os, "link", no_link)
    monkeypatch.setattr(checkpoints.shutil, "copyfile", cut_short)
    with pytest.raises(HgfastError, match=r"cannot keep .*No space left"):
        checkpoints.write_checkpoint({"training": {"step": 9}}, tmp_path, keep_checkpoints=2, previous_step=3)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"whole"
