"""Pictures that vanish while a run reads them: single ones are replaced, whole folders are waited for.

Files that are bad or rot are tested in tests/pipelines/test_loaders.py and tests/hgfast/test_train.py.
What may enter: faults of where a run reads from.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # where Python looks for the modules beside a script

from runs import Run, saved_step, words

from hgfast.batch import Batch
from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.evaluation import Loader
from hgfast.preprocessing import RAW
from pipelines.dali import DaliLoader
from pipelines.freihand import read_freihand
from pipelines.gone import gone
from pipelines.plain import TorchLoader
from pipelines.plan import Plan

CPU = torch.device("cpu")
Make = Callable[[Plan, LoadingConfig], Loader]
LOADERS: list[Make] = [
    lambda plan, options: DaliLoader(plan, CPU, 1, RAW, options=options),
    lambda plan, options: TorchLoader(plan, CPU, 0, RAW, options=options),
    lambda plan, options: TorchLoader(plan, CPU, 2, RAW, options=options),
]
ALL = pytest.mark.parametrize("make", LOADERS, ids=["dali", "torch", "torch-workers"])


@pytest.fixture
def copy(hands: Path, tmp_path: Path) -> Path:
    """A data set that a test may spoil."""
    return Path(shutil.copytree(hands, tmp_path / "FreiHAND"))


def plan_of(root: Path) -> Plan:
    return Plan(read_freihand(root, "all"), 32, 12, augment=AugmentConfig(), seed=1)


def hide(root: Path) -> Path:
    """The data set under another name."""
    return root.rename(root.with_name("elsewhere"))


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and np.array_equal(one.index, other.index)


@ALL
def test_a_data_set_that_is_gone_for_a_while_costs_nothing(copy: Path, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """Not a sample: the batches are to the bit those of a run that was not disturbed."""
    undisturbed = list(make(plan_of(copy), LoadingConfig()).epoch(3))
    loader = make(plan_of(copy), LoadingConfig(wait_minutes=1))
    batches = loader.epoch(3)
    seen = [next(batches)]
    hidden = hide(copy)
    back = threading.Timer(1.5, lambda: hidden.rename(copy))
    back.start()
    seen += batches
    back.join()
    assert len(seen) == len(undisturbed) > 6 and all(equal(a, b) for a, b in zip(seen, undisturbed))
    assert not any(batch.stand_in.any() for batch in seen)
    said = capfd.readouterr().err
    assert said.count("is gone or empty; waiting for it for 1 minutes") == said.count("is back") == 1
    assert "another picture" not in said


@ALL
def test_a_data_set_that_stays_away_ends_the_epoch(copy: Path, make: Make) -> None:
    loader = make(plan_of(copy), LoadingConfig(wait_minutes=0.01))
    batches = loader.epoch(0)
    next(batches)
    hidden = hide(copy)
    began = time.monotonic()
    with pytest.raises(HgfastError, match=r"training/rgb is gone or empty, and has been for 0.01 minutes .*see that its drive"):
        list(batches)
    assert time.monotonic() - began < 200  # it does not wait for ever
    hidden.rename(copy)
    assert len(list(loader.epoch(1))) == len(loader)


def test_what_counts_as_gone(tmp_path: Path) -> None:
    """Missing, empty as the place of a drive that is not mounted, or no folder any more; not a folder that lacks one file."""
    for name in ("full", "empty", "no-folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/other.jpg").touch()
    assert gone([str(tmp_path / "full/a.jpg")]) is None and gone([]) is None
    for name in ("empty", "missing"):
        assert gone([str(tmp_path / "full/a.jpg"), str(tmp_path / name / "a.jpg")]) == tmp_path / name
    (tmp_path / "no-folder").rmdir()
    (tmp_path / "no-folder").touch()
    assert gone([str(tmp_path / "no-folder/a.jpg")]) == tmp_path / "no-folder"


@pytest.mark.slow
def test_a_run_whose_data_set_stays_away(copy: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, *words(copy, tmp_path), "-m", 100, "--loading.wait-minutes", 0.03)
    run.wait_until((tmp_path / "run/checkpoint.pt").exists, "checkpoint")
    hidden = hide(copy)
    assert run.finish() == 2
    step = saved_step(tmp_path)
    assert "see that its drive is there; " in run.err and f"step {step} is saved: go on with -c run" in run.err
    assert "Traceback" not in run.err and "another picture" not in run.err
    again = Run(tmp_path, "-c", "run", "--out", tmp_path)
    assert again.finish() == 2 and str(copy) in again.err and "Traceback" not in again.err
    hidden.rename(copy)
    again = Run(tmp_path, "-c", "run", "--out", tmp_path, "-m", (step + 4) / 1000)
    assert again.finish() == 0, again.err
    assert saved_step(tmp_path) == step + 4


@pytest.mark.slow
def test_pictures_that_vanish_one_by_one_are_replaced(copy: Path, tmp_path: Path) -> None:
    """In a run of two ranks. To go on, something must be in their places: an empty file will do."""
    run = Run(tmp_path, *words(copy, tmp_path), "-m", 0.08, ranks=2)
    run.wait_until((tmp_path / "run/checkpoint.pt").exists, "checkpoint")
    vanished = [copy / f"training/rgb/{number:08d}.jpg" for number in (2, 9, 30)]
    for file in vanished:
        file.unlink()
    assert run.finish() == 0, run.err
    for file in vanished:
        assert 1 <= run.err.count(f"{file} cannot be read (No such file or directory); another picture takes its place") <= 2
    assert saved_step(tmp_path) == 80
    again = Run(tmp_path, "-c", "run", "--out", tmp_path, "-m", 0.084)
    assert again.finish() == 2 and "3 of " in again.err and "pictures are missing" in again.err
    for file in vanished:
        file.touch()
    again = Run(tmp_path, "-c", "run", "--out", tmp_path, "-m", 0.084)
    assert again.finish() == 0, again.err
    assert saved_step(tmp_path) == 84
