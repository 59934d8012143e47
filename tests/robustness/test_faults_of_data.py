"""Images that disappear during a run: single images are replaced, and the run waits for whole folders.

Bad files are tested in tests/pipelines/loaders/test_loaders.py and tests/hgfast/test_train.py.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hgfast import train
from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.normalization import UNNORMALIZED
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders.base import find_missing_folder
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.training.batch import Batch
from hgfast.training.evaluator import Loader
from tests.conftest import ErrorOf
from tests.robustness.runs import resume, run_until_saved, saved_step, train_flags

CPU = torch.device("cpu")
Make = Callable[[BatchPlan, LoadingConfig], Loader]
LOADERS: list[Make] = [
    lambda plan, options: DaliLoader(plan, CPU, 1, UNNORMALIZED, options=options),
    lambda plan, options: OpenCVLoader(plan, CPU, 0, UNNORMALIZED, options=options),
    lambda plan, options: OpenCVLoader(plan, CPU, 2, UNNORMALIZED, options=options),
]
ALL = pytest.mark.parametrize("make", LOADERS, ids=["dali", "opencv", "opencv-workers"])


@pytest.fixture
def copy(hands: Path, tmp_path: Path) -> Path:
    """A copy of the data set that a test may change."""
    return Path(shutil.copytree(hands, tmp_path / "FreiHAND"))


def make_plan(root: Path) -> BatchPlan:
    return BatchPlan(read_freihand(root, "all"), 32, 12, augment=AugmentConfig(), seed=1)


def move_away(root: Path) -> Path:
    """Rename the data set; returns its new path."""
    return root.rename(root.with_name("elsewhere"))


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and np.array_equal(one.index, other.index)


@ALL
def test_temporarily_missing_data_set_loses_no_sample(copy: Path, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """The batches are bitwise equal to those of an undisturbed epoch."""
    undisturbed = list(make(make_plan(copy), LoadingConfig()).epoch(3))
    loader = make(make_plan(copy), LoadingConfig(storage_timeout=1))
    batches = loader.epoch(3)
    disturbed = [next(batches)]
    hidden = move_away(copy)
    restore = threading.Timer(1.5, lambda: hidden.rename(copy))
    restore.start()
    disturbed += batches
    restore.join()
    assert len(disturbed) == len(undisturbed) > 6 and all(equal(a, b) for a, b in zip(disturbed, undisturbed))
    assert not any(batch.is_replacement.any() for batch in disturbed)
    messages = capfd.readouterr().err
    assert messages.count("is missing or empty; waiting up to 1 minutes") == messages.count("is back") == 1
    assert "another image" not in messages


@ALL
def test_permanently_missing_data_set_ends_the_epoch(copy: Path, make: Make) -> None:
    loader = make(make_plan(copy), LoadingConfig(storage_timeout=0.01))
    batches = loader.epoch(0)
    next(batches)
    hidden = move_away(copy)
    began = time.monotonic()
    with pytest.raises(HgfastError, match=r"training/rgb has been missing or empty for 0.01 minutes .*check that its drive"):
        list(batches)
    assert time.monotonic() - began < 200  # the wait is bounded
    hidden.rename(copy)
    assert len(list(loader.epoch(1))) == len(loader)


def test_find_missing_folder(tmp_path: Path) -> None:
    """A folder is missing if it does not exist, is empty (an unmounted drive) or is a file, but not if it lacks one file."""
    for name in ("full", "empty", "no-folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/other.jpg").touch()
    assert find_missing_folder([str(tmp_path / "full/a.jpg")]) is None and find_missing_folder([]) is None
    for name in ("empty", "missing"):
        assert find_missing_folder([str(tmp_path / "full/a.jpg"), str(tmp_path / name / "a.jpg")]) == tmp_path / name
    (tmp_path / "no-folder").rmdir()
    (tmp_path / "no-folder").touch()
    assert find_missing_folder([str(tmp_path / "no-folder/a.jpg")]) == tmp_path / "no-folder"


@pytest.mark.slow
def test_run_with_permanently_missing_data_set(copy: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    run = run_until_saved(tmp_path, *train_flags(copy, tmp_path), "-m", 100, "--loading.storage-timeout", 0.03)
    hidden = move_away(copy)
    assert run.finish() == 2
    step = saved_step(tmp_path)
    assert "check that its drive is mounted; " in run.err and f"step {step} is saved: resume with -c run" in run.err
    assert "Traceback" not in run.err and "another image" not in run.err
    assert str(copy) in error_of(train.main, "-c", "run", "--out", tmp_path)
    hidden.rename(copy)
    resume(tmp_path, step + 4)


@pytest.mark.slow
def test_single_missing_images_are_replaced(copy: Path, tmp_path: Path, error_of: ErrorOf) -> None:
    """In a run of two ranks. A resumed run refuses missing images, but accepts empty files in their place."""
    run = run_until_saved(tmp_path, *train_flags(copy, tmp_path), "-m", 0.08, ranks=2)
    removed = [copy / f"training/rgb/{number:08d}.jpg" for number in (2, 9, 30)]
    for file in removed:
        file.unlink()
    assert run.finish() == 0, run.err
    for file in removed:
        assert 1 <= run.err.count(f"{file} cannot be read (No such file or directory); another image takes its place") <= 2
    assert saved_step(tmp_path) == 80
    error = error_of(train.main, "-c", "run", "--out", tmp_path, "-m", 0.084)
    assert "3 of " in error and "images are missing" in error
    for file in removed:
        file.touch()
    resume(tmp_path, 84)
