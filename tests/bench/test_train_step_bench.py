"""bench/train_step.py from the shell; princeton's loop and hgfast's both train, as each is specified."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from hgfast.architectures import architecture
from hgfast.bench.harness.config import TrainStepConfig
from hgfast.bench.harness.interleaved import Result, StartupCost, Trial, TrialSettings, run_trial
from hgfast.bench.measurements.train_step import (
    GPU_METHODS,
    PHASES,
    LoopResults,
    describe_bottleneck,
    open_samples,
    target_speedup,
)
from hgfast.bench.princeton.training import PrincetonTrainer, mean_squared_error
from hgfast.bench.train_step import main
from hgfast.bench.variants import train_step
from hgfast.bench.variants.train_step import INPUT_SIZE, TrainVariant, hgfast_loop, princeton_loop, repeat_samples
from hgfast.heatmaps import render
from hgfast.losses import mse
from hgfast.model import StackedHourglass
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.training.amp import resolve_amp
from tests.bench.conftest import RunScript
from tests.conftest import ErrorOf

KEYS = {"machine", "versions", "revision", "command", "date", "rows"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def four(people: Path) -> Samples:
    """Four people, repeated."""
    return repeat_samples(read_mpii(people, "train").take([0, 1, 2, 3]), 64)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny() -> StackedHourglass:
    torch.manual_seed(0)
    return StackedHourglass(architecture("tiny", input_size=INPUT_SIZE), 16)


# ---- the loops ----


@pytest.mark.parametrize("method", ["seed_style", "hgfast"])
def test_loops_overfit_one_batch(method: str, four: Samples) -> None:
    """The measured step trains."""
    loop = (princeton_loop if method == "seed_style" else hgfast_loop)(
        TrainVariant(method, "step", "tiny", "mpii", four, threads=1)
    )
    try:
        losses = [float(loop.step(loop.fixed)) for _ in range(20)]
        assert losses[-1] < 0.9 * losses[0]
        assert float(loop.step(next(loop.batches))) > 0
    finally:
        loop.batches.close()


def test_without_a_loader_the_steps_need_neither_images_nor_dali(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The step alone trains on a random batch in both loops, at the shapes of real ones."""
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    samples = open_samples(TrainStepConfig(loader="none"), "freihand", tmp_path)
    for method, open_loop in (("seed_style", princeton_loop), ("hgfast", hgfast_loop)):
        variant = TrainVariant(method, "step", "tiny", "freihand", samples, batch_size=2, threads=1, loader="none")
        variant.load()
        loop = open_loop(variant)
        losses = [float(loop.step(next(loop.batches))) for _ in range(12)]
        assert losses[-1] < 0.95 * losses[0]
    assert not list(tmp_path.iterdir())
    batch = loop.fixed
    assert batch.images.shape == (2, 3, 256, 256) and batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.keypoints.shape == (2, 21, 2) and batch.labeled.all() and batch.global_batch_size == 2


def test_princeton_step_is_adam_fp32_channels_last() -> None:
    model = tiny()
    trainer = PrincetonTrainer(model, CPU)
    seen: list[tuple[torch.dtype, bool, bool]] = []

    def record_conv(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        last = torch.channels_last
        seen.append((output.dtype, inputs[0].is_contiguous(memory_format=last), output.is_contiguous(memory_format=last)))

    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    for convolution in convolutions:
        convolution.register_forward_hook(record_conv)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss = trainer.step(torch.rand(2, INPUT_SIZE, INPUT_SIZE, 3), torch.rand(2, 16, INPUT_SIZE // 4, INPUT_SIZE // 4))
    assert isinstance(loss, float)
    assert seen == [(torch.float32, True, True)] * len(convolutions)
    assert type(trainer.optimizer) is torch.optim.Adam
    assert trainer.optimizer.defaults["fused"] is None and trainer.optimizer.defaults["weight_decay"] == 0
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
    assert all(0 < move <= 1.01e-3 for move in moved.values())  # Adam's first step is the rate, whatever the gradient
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in model.parameters())


def test_princeton_loss_is_mse_per_cell() -> None:
    generator = torch.Generator().manual_seed(1)
    predictions = torch.rand(2, 3, 16, 8, 8, generator=generator)
    keypoints = torch.rand(2, 16, 2, generator=generator) * 8
    expected = mse(predictions, keypoints, torch.ones(2, 16, dtype=torch.bool), 2, 1.0)
    assert float(mean_squared_error(predictions, render(keypoints, 8, 8))) == pytest.approx(float(expected) / 64, rel=1e-5)


def test_phases_share_one_loop(four: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "OPEN_LOOPS", {})
    variants = [TrainVariant("hgfast", phase, "tiny", "mpii", four, batch_size=2, threads=1) for phase in PHASES["hgfast"]]
    phases = [method.start() for method in variants]
    trials = [run_trial(phase, TrialSettings(seconds=0.01, batches=2, warm=1)) for phase in phases]
    assert len(train_step.OPEN_LOOPS) == 1 and len({method.process for method in variants}) == 1
    _, step, load = trials
    assert all(trial.images >= 4 and trial.images % 2 == 0 for trial in trials)
    assert load.data_wait_s / load.seconds > 2 * step.data_wait_s / step.seconds
    for phase in phases:
        phase.close()


# ---- the figures ----


def make_result(*rates: float, data_wait_s: float = 0.0) -> Result:
    return Result(StartupCost(0.0, 0.0), [Trial(round(100 * rate), 100.0, 1.0, 100 * data_wait_s) for rate in rates])


def make_results() -> LoopResults:
    results: Any = {("seed_style", "whole"): make_result(4, 2, 4), ("seed_style", "step"): make_result(8, 4, 4)}
    results |= {("seed_style", "load"): make_result(20, 20, 20), ("hgfast", "load"): make_result(200, 200, 200)}
    results |= {("hgfast", "whole"): make_result(8, 8, 12, data_wait_s=0.25), ("hgfast", "step"): make_result(10, 10, 12)}
    return LoopResults("hg1", "mpii", 16, CPU, results, batch_size=4, flops=1e11)


def test_row_metrics() -> None:
    row = make_results().metrics("hgfast")
    assert (row["images_per_s"], row["images_per_s_min"], row["images_per_s_max"]) == (8, 8, 12)
    assert (row["speedup"], row["step_speedup"], row["loader_speedup"]) == (3, 2.5, 10)
    assert (row["step_ms"], row["loader_ms"]) == (400, 20)
    assert (row["data_wait"], row["beyond_step"]) == (0.25, 0.2)
    assert row["tflops"] == 0.8 and row["memory_gb"] is None
    alone = make_results().metrics("hgfast", fixed_batch=True)
    assert (alone["images_per_s"], alone["speedup"], alone["loader_ms"], alone["data_wait"]) == (10, 3, None, 0)
    assert make_results().metrics("seed_style")["speedup"] == 1


def test_bottleneck_is_the_slower_part() -> None:
    row = {"way": "hgfast", "step_ms": 40.0, "loader_ms": 8.0}
    text = describe_bottleneck(row)
    assert text == "the bottleneck of hgfast is the network (40.0 ms per batch alone, 5.0 times the loader's 8.0)"
    text = describe_bottleneck(row | {"loader_ms": 80.0})
    assert text.endswith("is the loader (80.0 ms per batch alone, 2.0 times the network's 40.0)")


@pytest.mark.parametrize(
    ("changes", "goal"),
    [({}, 1.9), ({"precision": "fp32"}, None), ({"preset": "tiny"}, None), ({"device": "cuda", "batch_size": 32}, 3.0)],
)
def test_target_speedups(changes: dict[str, Any], goal: float | None) -> None:
    assert target_speedup({"device": "cpu", "preset": "hg1", "batch_size": 4, "precision": "bf16"} | changes) == goal


# ---- the command ----


@pytest.mark.slow
def test_quick_comparison(run_script: RunScript, people: Path) -> None:
    flags = ("--quick", "--threads", 1, "--batch-size", 2, "--data-mpii", people, "--device", "cpu")
    record, output = run_script("train_step", *flags)
    assert set(record) == KEYS | {"conclusions"} and record["command"].startswith("python bench/train_step.py --quick")
    rows = {row["way"]: row for row in record["rows"]}
    assert set(rows) == {*PHASES, "seed_style_fixed", "hgfast_fixed"} and len(rows) == len(record["rows"])
    assert len({tuple(row) for row in record["rows"]}) == 1
    assert not any(isinstance(value, (dict, list)) for row in record["rows"] for value in row.values())
    for method, row in rows.items():
        assert (row["preset"], row["layout"], row["size"], row["batch_size"]) == ("tiny", "mpii", 256, 2)
        if method in GPU_METHODS:
            assert row["reason"] == "needs a GPU" and row["images_per_s"] is None and row["step_ms"] is None
            continue
        assert row["images_per_s"] > 0 and row["step_ms"] > 0 and row["speedup"] > 0 and row["tflops"] > 0
        assert row["images_per_s_min"] <= row["images_per_s"] <= row["images_per_s_max"]
        assert 0 <= row["data_wait"] <= 1 and row["reason"] == ""
        assert row["precision"] == ("fp32" if method.startswith("seed") or resolve_amp("auto", CPU) == "off" else "bf16")
        assert (row["loader_ms"] is None) == method.endswith("_fixed")
    assert rows["seed_style"]["speedup"] == rows["seed_style"]["step_speedup"] == 1
    assert mean(rows[method]["data_wait"] for method in ("seed_style_fixed", "hgfast_fixed")) < 0.1
    for words in ("× princeton", "times as many images per second as princeton", "of seed_style is the", "of hgfast is the"):
        assert words in output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--data-mpii", "nowhere"), "no MPII data in nowhere"),
        (("--presets", "[hg3]"), "choose from hg1"),
        (("--presets", "[]"), "--presets not empty"),
        (("--rounds", "0"), "rounds is 0"),
        (("--threads", "100000"), "cores are available"),
        (("--device", "gpu"), "device 'gpu' is unknown"),
        (("--layout", "[mpii]"), "did you mean --layouts"),
        (("--size", "128"), "unknown flag --size"),
    ],
)
def test_bad_flags_are_one_error(words: tuple[str, ...], complaint: str, error_of: ErrorOf) -> None:
    assert complaint in error_of(main, "--threads", 1, *words)
