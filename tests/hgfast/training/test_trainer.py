"""The training loop on batches made up in memory: trouble in the numbers, what is kept and logged, and parts of a batch.

Kills, signals and restarts of its processes are in tests/robustness.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from hgfast import checkpoints
from hgfast.errors import HgfastError
from hgfast.heatmaps import render
from hgfast.training.batch import Batch
from hgfast.training.nan_guard import mean_peak_if_empty
from hgfast.training.trainer import Trainer
from tests.factories import RandomLoader, check_overflow, limit_file_size, make_trainer


class NanLoader(RandomLoader):
    """One pixel of step 4 of the second epoch is not a number."""

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for step, batch in enumerate(super().epoch(epoch, start), start):
            if (epoch, step) == (1, 4):
                batch.images[2, 0, 5, 5] = torch.nan
            yield batch


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop"])
def test_gradients_that_are_not_finite_stop_the_run(tmp_path: Path, optimizer: str) -> None:
    """The step, the samples, and a file that shows it again; weights and the last checkpoint are those before it."""
    trainer = make_trainer(tmp_path / "poisoned", NanLoader(), optimizer=optimizer, epochs=3)
    with pytest.raises(HgfastError, match=r"gradients of step 11 \(epoch 2\) are not finite; its samples 16, 17, 18, 19 and"):
        trainer.fit()
    clean = make_trainer(tmp_path / "clean", optimizer=optimizer, epochs=3)
    for epoch, steps in ((0, 7), (1, 4)):
        for _, batch in zip(range(steps), clean.train.epoch(epoch)):
            clean.train_step(batch)
    parameters = dict(clean.model.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in trainer.model.named_parameters())
    assert checkpoints.read(tmp_path / "poisoned/checkpoint.pt")["training"]["step"] == 7
    saved = torch.load(tmp_path / "poisoned/bad-batch-rank0.pt", weights_only=True)
    assert saved["index"].tolist() == [16, 17, 18, 19] and saved["step"] == 11
    again = checkpoints.model_from_checkpoint(saved, tmp_path).train()
    assert not again(saved["images"]).isfinite().all()


def test_the_fp16_scaler_skips_an_overflow_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs in full precision here, as half is too slow on a CPU; test_devices.py overflows it on a GPU."""
    monkeypatch.setattr("hgfast.training.trainer.resolve_amp", lambda amp, device: "fp16")
    monkeypatch.setattr("hgfast.training.trainer.autocast", lambda amp, device: torch.autocast("cpu", enabled=False))
    check_overflow(lambda: make_trainer(tmp_path, epochs=2))


def failing_network(trainer: Trainer, message: str, failures: int) -> Callable[[Tensor], Tensor]:
    """A network whose first calls fail as CUDA does."""
    calls = iter(range(failures))

    def network(images: Tensor) -> Tensor:
        if next(calls, None) is not None:
            raise RuntimeError(message)
        return cast(Tensor, trainer.model(images))

    return network


CAPTURE_ERROR = "CUDA error: operation failed due to a previous error during capture"


@pytest.mark.parametrize("failures", [1, 2])
def test_a_failed_capture_is_repeated_once(
    tmp_path: Path, failures: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second failure ends the use of graphs, with a note; the step gives the same weights."""
    trainer, plain = make_trainer(tmp_path / "failing"), make_trainer(tmp_path / "plain")
    trainer.config.train.compile = "graphs"
    trainer.wrapped_model = network = failing_network(trainer, CAPTURE_ERROR, failures)  # type: ignore[assignment]
    for one in (trainer, plain):
        for _, batch in zip(range(2), one.train.epoch(0)):
            one.train_step(batch)
    assert all(torch.equal(p, q) for p, q in zip(trainer.model.parameters(), plain.model.parameters()))
    assert trainer.wrapped_model is (network if failures == 1 else trainer.model)
    assert ("training without graphs" in capsys.readouterr().err) == (failures == 2)


@pytest.mark.parametrize(("message", "compile_mode"), [("out of memory", "graphs"), (CAPTURE_ERROR, "on")])
def test_other_errors_of_a_step_are_not_repeated(tmp_path: Path, message: str, compile_mode: Any) -> None:
    trainer = make_trainer(tmp_path)
    trainer.config.train.compile = compile_mode
    trainer.wrapped_model = failing_network(trainer, message, 1)  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=message):
        trainer.train_step(next(trainer.train.epoch(0)))


def test_best_and_latest_checkpoints(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=2, save_steps=3, keep_checkpoints=3)
    trainer.fit()  # saves at 3, 6, 7 (validation), 10, 13, 14 (validation)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "best.pt", "checkpoint-00000010.pt", "checkpoint-00000013.pt", "checkpoint.pt",
    ]  # fmt: skip
    steps = [checkpoints.read(tmp_path / f"checkpoint{end}.pt")["training"]["step"] for end in ("-00000010", "-00000013", "")]
    assert steps == [10, 13, 14]


def test_minutes_between_checkpoints(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=1, save_minutes=1e-9)
    saved: list[int] = []
    original = trainer._save_checkpoint
    trainer._save_checkpoint = lambda *a, **k: saved.append(trainer.global_step) or original(*a, **k)  # type: ignore[func-returns-value, method-assign]
    trainer.fit()
    assert saved == [1, 2, 3, 4, 5, 6, 7]


def test_full_disk_keeps_previous_checkpoint(tmp_path: Path) -> None:
    """The operating system itself refuses: no file may grow beyond 100 kB."""
    trainer = make_trainer(tmp_path, epochs=2, save_steps=3)
    trainer._save_checkpoint(1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with limit_file_size(100_000), pytest.raises(HgfastError, match=r"cannot write .*free some space"):
        trainer.fit()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before and len(before) > 100_000
    assert not list(tmp_path.glob(".*writing"))


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_grad_accum_matches_full_batch(tmp_path: Path, accumulate: int) -> None:
    """With BatchNorm frozen the gradient is that of the whole batch."""
    gradients = []
    for parts in (1, accumulate):
        trainer = make_trainer(tmp_path / f"{parts}", grad_accum=parts, epochs=1)
        trainer.wrapped_model.eval()
        caught: list[Tensor] = []
        trainer.optimizer.step = lambda trainer=trainer, caught=caught: caught.append(  # type: ignore[method-assign, misc]
            torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        )
        loss = trainer.train_step(next(trainer.train.epoch(0)))
        gradients.append((caught[0], float(loss)))
    (one, loss_one), (other, loss_other) = gradients
    assert float((one - other).norm() / one.norm()) < 1e-5 and loss_other == pytest.approx(loss_one, rel=1e-5)


def test_empty_heatmaps_are_detected() -> None:
    points = torch.rand(2, 5, 2) * 16
    alive = render(points, 16, 16)
    assert mean_peak_if_empty(alive, "gaussian") is None and mean_peak_if_empty(10 * alive, "logits") is None
    assert mean_peak_if_empty(0.01 * alive, "gaussian") == pytest.approx(0.009, abs=0.002)
    assert mean_peak_if_empty(1e-4 * torch.randn(2, 5, 16, 16), "logits") == pytest.approx(9 / 256, rel=0.1)


def test_collapse_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, epochs=100, lr=1e-9)
    with torch.no_grad():
        trainer.model.last.score.weight.zero_()
        trainer.model.last.score.bias.zero_()
    trainer.global_step = 7 * 40  # not in the first steps of a run, when this is as it should be
    trainer._run_epoch(40, 0)
    trainer.logger.close()
    assert "heatmaps are almost empty" in capsys.readouterr().out


def test_eta_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("hgfast.training.trainer.ETA_STEPS", 5)
    for limit, words in ((None, "remaining, without validations"), (0.05, "so the run ends after its 0.05 minutes")):
        trainer = make_trainer(tmp_path / f"{limit}", epochs=3 if limit is None else 1000, max_minutes=limit)
        trainer.fit()
        (eta_line,) = [line for line in capsys.readouterr().out.splitlines() if "images/s in the first 5 steps" in line]
        assert eta_line.endswith(words)
    assert trainer.global_step < 7000


def test_step_metrics(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=1, log_every=3)
    points: dict[int, Any] = {}
    trainer.logger.log_scalars = lambda step, values: points.update({step: values})  # type: ignore[method-assign]
    trainer.fit()
    assert {3, 6} <= set(points)
    assert {"train/loss", "train/lr", "train/gradient_norm", "memory/gb", "speed/images_per_s", "speed/tflops"} <= set(points[3])
    assert np.isfinite(list(points[3].values())).all()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (
        record["network_images_per_s"] >= record["images_per_s"] > 0 and 0 < record["tflops"] < 10 and record["memory_gb"] > 0.1
    )
