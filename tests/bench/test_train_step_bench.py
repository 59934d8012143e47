"""bench/train_step.py from the shell, and that both loops really train, each in its own way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from conftest import Command, Refusal

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script

import train_ways
from contest import Lap, Pace, Result, Start, run_lap
from seed_train import SeedTrainer, mean_squares
from train_step import LEGS, ON_GPUS, Race, binds, main, wanted
from train_ways import SIZE, TrainWay, hgfast_loop, repeated, seed_loop

from hgfast.heatmaps import render
from hgfast.losses import mse
from hgfast.model import StackedHourglass, architecture
from hgfast.precision import resolve
from pipelines.mpii import read_mpii
from pipelines.samples import Samples

KEYS = {"machine", "versions", "revision", "command", "date", "rows"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def four(people: Path) -> Samples:
    """Four people again and again."""
    return repeated(read_mpii(people, "train").take([0, 1, 2, 3]), 64)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny() -> StackedHourglass:
    torch.manual_seed(0)
    return StackedHourglass(architecture("tiny", input_size=SIZE), 16)


# ---- the loops ----


@pytest.mark.parametrize("way", ["seed_style", "hgfast"])
def test_a_loop_learns_its_batch_by_heart(way: str, four: Samples) -> None:
    """The step that is measured is one that trains."""
    loop = (seed_loop if way == "seed_style" else hgfast_loop)(TrainWay(way, "step", "tiny", "mpii", four, threads=1))
    try:
        losses = [float(loop.step(loop.fixed)) for _ in range(20)]
        assert losses[-1] < 0.9 * losses[0]
        assert float(loop.step(next(loop.batches))) > 0
    finally:
        loop.batches.close()


def test_the_seeds_step_is_adam_in_single_precision_and_channels_last() -> None:
    model = tiny()
    trainer = SeedTrainer(model, CPU)
    seen: list[tuple[torch.dtype, bool, bool]] = []

    def look(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        last = torch.channels_last
        seen.append((output.dtype, inputs[0].is_contiguous(memory_format=last), output.is_contiguous(memory_format=last)))

    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    for convolution in convolutions:
        convolution.register_forward_hook(look)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss = trainer.step(torch.rand(2, SIZE, SIZE, 3), torch.rand(2, 16, SIZE // 4, SIZE // 4))
    assert isinstance(loss, float)
    assert seen == [(torch.float32, True, True)] * len(convolutions)
    assert type(trainer.optimizer) is torch.optim.Adam
    assert trainer.optimizer.defaults["fused"] is None and trainer.optimizer.defaults["weight_decay"] == 0
    moved = {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}
    assert all(0 < move <= 1.01e-3 for move in moved.values())  # Adam's first step is the rate, whatever the gradient
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in model.parameters())


def test_the_seeds_loss_is_hgfasts_mse_per_cell() -> None:
    generator = torch.Generator().manual_seed(1)
    predictions = torch.rand(2, 3, 16, 8, 8, generator=generator)
    keypoints = torch.rand(2, 16, 2, generator=generator) * 8
    ours = mse(predictions, keypoints, torch.ones(2, 16, dtype=torch.bool), 2, 1.0)
    assert float(mean_squares(predictions, render(keypoints, 8, 8))) == pytest.approx(float(ours) / 64, rel=1e-5)


def test_legs_of_a_way_share_one_loop(four: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_ways, "LOOPS", {})
    ways = [TrainWay("hgfast", leg, "tiny", "mpii", four, batch_size=2, threads=1) for leg in LEGS["hgfast"]]
    legs = [way.start() for way in ways]
    laps = [run_lap(leg, Pace(seconds=0.01, batches=2, warm=1)) for leg in legs]
    assert len(train_ways.LOOPS) == 1 and len({way.process for way in ways}) == 1
    _, step, load = laps
    assert all(lap.images >= 4 and lap.images % 2 == 0 for lap in laps)
    assert load.waited / load.seconds > 2 * step.waited / step.seconds
    for leg in legs:
        leg.close()


# ---- the figures ----


def laps(*rates: float, waited: float = 0.0) -> Result:
    return Result(Start(0.0, 0.0), [Lap(round(100 * rate), 100.0, 1.0, 100 * waited) for rate in rates])


def race() -> Race:
    results: Any = {("seed_style", "whole"): laps(4, 2, 4), ("seed_style", "step"): laps(8, 4, 4)}
    results |= {("seed_style", "load"): laps(20, 20, 20), ("hgfast", "load"): laps(200, 200, 200)}
    results |= {("hgfast", "whole"): laps(8, 8, 12, waited=0.25), ("hgfast", "step"): laps(10, 10, 12)}
    return Race(results, batch_size=4, flops=1e11)


def test_figures_of_a_row() -> None:
    row = race().figures("hgfast")
    assert (row["images_per_s"], row["images_per_s_min"], row["images_per_s_max"]) == (8, 8, 12)
    assert (row["speedup"], row["step_speedup"], row["loader_speedup"]) == (3, 2.5, 10)
    assert (row["step_ms"], row["loader_ms"]) == (400, 20)
    assert (row["data_wait"], row["beyond_step"]) == (0.25, 0.2)
    assert row["tflops"] == 0.8 and row["memory_gb"] is None
    alone = race().figures("hgfast", alone=True)
    assert (alone["images_per_s"], alone["speedup"], alone["loader_ms"], alone["data_wait"]) == (10, 3, None, 0)
    assert race().figures("seed_style")["speedup"] == 1


def test_what_binds_is_the_slower_of_the_two() -> None:
    row = {"way": "hgfast", "step_ms": 40.0, "loader_ms": 8.0}
    assert binds(row) == "in hgfast the network binds (40.0 ms a batch alone, 5.0 times the loader's 8.0)"
    assert "the loader binds (80.0 ms a batch alone, 2.0 times the network's 40.0)" in binds(row | {"loader_ms": 80.0})


@pytest.mark.parametrize(
    ("changes", "goal"),
    [({}, 1.9), ({"precision": "fp32"}, None), ({"preset": "tiny"}, None), ({"device": "cuda", "batch_size": 32}, 3.0)],
)
def test_a_goal_is_named_where_there_is_one(changes: dict[str, Any], goal: float | None) -> None:
    assert wanted({"device": "cpu", "preset": "hg1", "batch_size": 4, "precision": "bf16"} | changes) == goal


# ---- the command ----


@pytest.mark.slow
def test_quick_comparison_from_the_shell(command: Command, tmp_path: Path) -> None:
    done = command("bench/train_step.py", "--quick", "--threads", 1, "--device", "cpu", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "warn" not in done.stderr.lower(), done.stderr
    record: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert set(record) == KEYS | {"conclusions"} and record["command"].startswith("python bench/train_step.py --quick")
    rows = {row["way"]: row for row in record["rows"]}
    assert set(rows) == {*LEGS, "seed_style_fixed", "hgfast_fixed"} and len(rows) == len(record["rows"])
    assert len({tuple(row) for row in record["rows"]}) == 1
    assert not any(isinstance(value, (dict, list)) for row in record["rows"] for value in row.values())
    for way, row in rows.items():
        assert (row["preset"], row["layout"], row["size"], row["batch_size"]) == ("tiny", "mpii", 256, 4)
        if way in ON_GPUS:
            assert row["reason"] == "needs a GPU" and row["images_per_s"] is None and row["step_ms"] is None
            continue
        assert row["images_per_s"] > 0 and row["step_ms"] > 0 and row["speedup"] > 0 and row["tflops"] > 0
        assert row["images_per_s_min"] <= row["images_per_s"] <= row["images_per_s_max"]
        assert 0 <= row["data_wait"] <= 1 and row["reason"] == ""
        assert row["precision"] == ("fp32" if way.startswith("seed") or resolve("auto", CPU) == "off" else "bf16")
        assert (row["loader_ms"] is None) == way.endswith("_fixed")
    assert rows["seed_style"]["speedup"] == rows["seed_style"]["step_speedup"] == 1
    assert mean(rows[way]["data_wait"] for way in ("seed_style_fixed", "hgfast_fixed")) < 0.1
    for words in ("x seed", "times as many images a second as the seed's way", "in seed_style the ", "in hgfast the "):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--data-mpii", "nowhere"), "no MPII data in nowhere"),
        (("--presets", "[hg3]"), "choose from hg1"),
        (("--presets", "[]"), "--presets not empty"),
        (("--rounds", "0"), "rounds is 0"),
        (("--threads", "100000"), "cores: what shares a core"),
        (("--device", "gpu"), "device 'gpu' is unknown"),
        (("--layout", "[mpii]"), "did you mean --layouts"),
    ],
)
def test_wrong_flags_are_one_sentence(words: tuple[str, ...], complaint: str, refusal: Refusal) -> None:
    assert complaint in refusal(main, "--threads", 1, *words)


def test_a_wrong_flag_from_the_shell(command: Command) -> None:
    done = command("bench/train_step.py", "--size", "128")
    assert done.returncode == 2 and "unknown flag --size" in done.stderr and "Traceback" not in done.stderr
