"""Nothing is lost: kills at any moment, signals, restarts of ranks, trouble in the numbers, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Command
from many_lives import MadeUp
from torch import Tensor

from hgfast import checkpoints
from hgfast.batch import Batch
from hgfast.config import Config
from hgfast.distributed import Ranks
from hgfast.errors import HgfastError
from hgfast.heatmaps import render
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import HAND21
from hgfast.training import Trainer
from hgfast.trouble import empty

WAIT = 60  # seconds that nothing here should take


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    return bool(one == other)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, averages, optimizer, the best network, and a line for each epoch with the same losses and figures."""
    for name in ("checkpoint.pt", "best.pt"):
        first, second = checkpoints.read(one / name), checkpoints.read(other / name)
        for part in ("weights", "ema"):
            assert same(first.get(part), second.get(part)), (name, part)
        if "training" in first:
            assert same(first["training"]["optimizer"], second["training"]["optimizer"])
            assert first["training"]["step"] == second["training"]["step"]
            assert first["training"]["ema_updates"] == second["training"]["ema_updates"]
    kept = ("epoch", "step", "loss", "lr", "valid")
    lines = [
        [{key: line.get(key) for key in kept} for line in map(json.loads, (f / "metrics.jsonl").read_text().splitlines())]
        for f in (one, other)
    ]
    assert lines[0] == lines[1]
    assert len({line["step"] for line in lines[0]}) == len(lines[0])


def start(*words: object, ranks: int = 0, restarts: int = 0) -> subprocess.Popen[str]:
    """A training script in a process group of its own."""
    launcher = [sys.executable]
    if ranks:
        launcher += [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
            "--max-restarts",
            str(restarts),
        ]
    command = [*launcher, "hgfast/train.py", *(str(word) for word in words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(process: subprocess.Popen[str]) -> None:
    """It and its ranks, which are in sessions of their own, at once and without a warning."""
    everyone = [process.pid]
    for pid in everyone:
        everyone += children(pid)
    for pid in everyone:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WAIT
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.002)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=WAIT)
    except subprocess.TimeoutExpired:
        kill(process)
        print(process.communicate())
        raise
    return process.returncode, out, err


def flags(hands: Path, out: Path) -> list[object]:
    """40 steps, six an epoch, in full precision, with a checkpoint at step 17."""
    return [
        "--data", hands, "--out", out, "-e", "run", "--model.preset", "tiny", "--batch-size", 16, "--versions", "[gs,hom]",
        "--threads", 1, "--device", "cpu", "--train.amp", "off", "-m", "0.04", "--train.save-steps", 17, "--train.valid-every", 3,
    ]  # fmt: skip


@pytest.mark.parametrize("ranks", [0, 2])
def test_seventeen_steps_a_kill_and_the_rest_are_forty_steps(hands: Path, tmp_path: Path, ranks: int) -> None:
    code, _, err = finish(start(*flags(hands, tmp_path / "whole"), ranks=ranks))
    assert code == 0, err
    process = start(*flags(hands, tmp_path / "parts"), ranks=ranks)
    wait_for(tmp_path / "parts/run/checkpoint.pt", process)
    kill(process)
    finish(process)
    stopped = checkpoints.read(tmp_path / "parts/run/checkpoint.pt")["training"]["step"]
    assert 17 <= stopped < 40
    code, _, err = finish(start("-c", "run", "--out", tmp_path / "parts", ranks=ranks))
    assert code == 0, err
    assert_same_run(tmp_path / "whole/run", tmp_path / "parts/run")


def test_thirty_kills_at_random_moments(tmp_path: Path, command: Command) -> None:
    """Also while a checkpoint is being written; the run always goes on, and ends as one that was never killed."""
    done = command("tests/hgfast/many_lives.py", tmp_path, 30, 7)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert result["killed"] == 30 and result["writing"] >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGTERM, 2)])
def test_signals_save_and_say_how_to_go_on(hands: Path, tmp_path: Path, number: signal.Signals, ranks: int) -> None:
    words = flags(hands, tmp_path)
    process = start(*words, "-m", "100", ranks=ranks)  # far more steps than there is time for
    wait_for(tmp_path / "run/checkpoint.pt", process)
    process.send_signal(number)
    code, _, err = finish(process)
    assert "which is saved: go on with -c run" in err and err.count("which is saved") == 1
    assert "Traceback" not in err.split("which is saved")[0]
    if not ranks:
        assert code == 128 + number
    stopped = checkpoints.read(tmp_path / "run/checkpoint.pt")["training"]["step"]
    assert stopped > 17 and f"stopped at step {stopped}" in err
    steps = stopped + 5
    code, _, err = finish(start("-c", "run", "--out", tmp_path, "-m", steps / 1000, ranks=ranks))
    assert code == 0, err
    assert checkpoints.read(tmp_path / "run/checkpoint.pt")["training"]["step"] == steps


def child_of(process: subprocess.Popen[str]) -> int:
    """The first rank's process that a torchrun has started."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        for child in children(process.pid):
            if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.01)
    raise AssertionError("torchrun has no ranks")


def test_ranks_started_again_do_not_look_for_those_before_them(command: Command) -> None:
    done = command("tests/hgfast/late_rank.py", ranks=2, restarts=1)
    assert done.returncode == 0 and done.stdout.count("RESULT 2") == 2, done.stderr


def test_torchrun_restarts_go_on_by_themselves(hands: Path, tmp_path: Path) -> None:
    code, _, err = finish(start(*flags(hands, tmp_path / "whole"), ranks=2))
    assert code == 0, err
    process = start(*flags(hands, tmp_path / "parts"), ranks=2, restarts=2)
    wait_for(tmp_path / "parts/run/checkpoint.pt", process)
    os.kill(child_of(process), signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 0, err
    assert out.count("samples to train on") == 2  # the summary, once a start
    assert_same_run(tmp_path / "whole/run", tmp_path / "parts/run")


def test_a_killed_rank_ends_the_job(hands: Path, tmp_path: Path) -> None:
    process = start(*flags(hands, tmp_path), "-m", "100", ranks=2)
    wait_for(tmp_path / "run/checkpoint.pt", process)
    os.kill(child_of(process), signal.SIGKILL)
    code, _, err = finish(process)
    assert code != 0 and "Signal 9 (SIGKILL)" in err


def trainer_of(folder: Path, loader: MadeUp | None = None, **settings: Any) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(exp=folder.name)
    config.train.amp = "off"
    for name, value in settings.items():
        setattr(config.train, name, value)
    torch.manual_seed(0)
    model = checkpoints.build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0))
    loader = loader or MadeUp()
    ranks = Ranks(0, 1, 1, torch.device("cpu"))
    return Trainer(config, model, loader, loader, lambda found: {"x": float(found.mean())}, "x", folder, ranks)


class Poisoned(MadeUp):
    """One picture of step 4 of the second epoch is not a number."""

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for step, batch in enumerate(super().epoch(epoch, start), start):
            if (epoch, step) == (1, 4):
                batch.images[2, 0, 5, 5] = torch.nan
            yield batch


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop"])
def test_gradients_that_are_not_finite_stop_the_run(tmp_path: Path, optimizer: str) -> None:
    """The step, the samples, and a file that shows it again; weights and the last checkpoint are those before it."""
    trainer = trainer_of(tmp_path / "poisoned", Poisoned(), optimizer=optimizer, epochs=3)
    with pytest.raises(HgfastError, match=r"gradients of step 11 \(epoch 2\) are not finite; its samples 16, 17, 18, 19 and"):
        trainer.fit()
    clean = trainer_of(tmp_path / "clean", optimizer=optimizer, epochs=3)
    for epoch, steps in ((0, 7), (1, 4)):
        for _, batch in zip(range(steps), clean.train.epoch(epoch)):
            clean.step(batch)
    parameters = dict(clean.model.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in trainer.model.named_parameters())
    assert checkpoints.read(tmp_path / "poisoned/checkpoint.pt")["training"]["step"] == 7
    saved = torch.load(tmp_path / "poisoned/bad-batch-rank0.pt", weights_only=True)
    assert saved["index"].tolist() == [16, 17, 18, 19] and saved["step"] == 11
    again = checkpoints.restore(saved, tmp_path).train()
    assert not again(saved["images"]).isfinite().all()


def test_the_fp16_scaler_skips_an_overflow_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up overflow: one step's gradients are infinite. It is skipped, the scale halves, and training goes on; the scale
    outlives a resume. The network runs in full precision here, as half is too slow on a CPU."""
    monkeypatch.setattr("hgfast.training.resolve", lambda amp, device: "fp16")
    monkeypatch.setattr("hgfast.training.autocast", lambda amp, device: torch.autocast("cpu", enabled=False))
    trainer = trainer_of(tmp_path, epochs=2)
    batches = list(trainer.train.epoch(0))
    trainer.step(batches[0])
    before, scale = [p.clone() for p in trainer.model.parameters()], trainer.scaler.get_scale()
    handle = trainer.model.last.score.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.step(batches[1])
    handle.remove()
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters()))
    assert trainer.scaler.get_scale() == scale / 2 and trainer._watch.first is None
    trainer.step(batches[2])
    assert not any(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters()))
    trainer._save(1)
    again = trainer_of(tmp_path, epochs=2)
    again.resume(checkpoints.read(tmp_path / "checkpoint.pt"), tmp_path / "checkpoint.pt")
    assert again.scaler.get_scale() == scale / 2 and again.step_number == 3


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, epochs=2, save_steps=3, keep=3)
    trainer.fit()  # saves at 3, 6, 7 (validation), 10, 13, 14 (validation)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "best.pt", "checkpoint-00000010.pt", "checkpoint-00000013.pt", "checkpoint.pt",
    ]  # fmt: skip
    steps = [checkpoints.read(tmp_path / f"checkpoint{end}.pt")["training"]["step"] for end in ("-00000010", "-00000013", "")]
    assert steps == [10, 13, 14]


def test_minutes_between_checkpoints(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, epochs=1, save_minutes=1e-9)
    saved: list[int] = []
    original = trainer._save
    trainer._save = lambda *a, **k: saved.append(trainer.step_number) or original(*a, **k)  # type: ignore[func-returns-value, method-assign]
    trainer.fit()
    assert saved == [1, 2, 3, 4, 5, 6, 7]


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    """The operating system itself refuses: no file may grow beyond 100 kB."""
    script = (
        "import resource, sys; sys.path[:0] = ['tests/hgfast', 'tests']\n"
        "from pathlib import Path\nfrom test_lives import trainer_of\nfrom hgfast.errors import run\n"
        "folder = Path(sys.argv[1])\ntrainer = trainer_of(folder, epochs=2, save_steps=3)\n"
        "trainer._save(1)\nbefore = (folder / 'checkpoint.pt').read_bytes()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    run(trainer.fit)\nfinally:\n    print((folder / 'checkpoint.pt').read_bytes() == before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.splitlines()[-1] == "True", done.stderr
    assert "cannot write" in done.stderr and "free some space" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob(".*writing"))


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_parts_of_a_batch_add_up(tmp_path: Path, accumulate: int) -> None:
    """With BatchNorm frozen the gradient is that of the whole batch."""
    gradients = []
    for parts in (1, accumulate):
        trainer = trainer_of(tmp_path / f"{parts}", accumulate=parts, epochs=1)
        trainer.network.eval()
        caught: list[Tensor] = []
        trainer.optimizer.step = lambda trainer=trainer, caught=caught: caught.append(  # type: ignore[method-assign, misc]
            torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        )
        loss = trainer.step(next(trainer.train.epoch(0)))
        gradients.append((caught[0], float(loss)))
    (one, loss_one), (other, loss_other) = gradients
    assert float((one - other).norm() / one.norm()) < 1e-5 and loss_other == pytest.approx(loss_one, rel=1e-5)


def test_empty_heatmaps_are_noticed() -> None:
    points = torch.rand(2, 5, 2) * 16
    alive = render(points, 16, 16)
    assert empty(alive, "gaussian") is None and empty(10 * alive, "logits") is None
    assert empty(0.01 * alive, "gaussian") == pytest.approx(0.009, abs=0.002)
    assert empty(1e-4 * torch.randn(2, 5, 16, 16), "logits") == pytest.approx(9 / 256, rel=0.1)


def test_collapse_is_said_with_its_causes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of(tmp_path, epochs=100, lr=1e-9)
    with torch.no_grad():
        trainer.model.last.score.weight.zero_()
        trainer.model.last.score.bias.zero_()
    trainer.step_number = 7 * 40  # not in the first steps of a run, when this is as it should be
    trainer._run_epoch(40, 0)
    trainer.log.close()
    assert "heatmaps are next to empty" in capsys.readouterr().out


def test_steps_log_what_they_cost(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, epochs=1, log_every=3)
    points: dict[int, Any] = {}
    trainer.log.steps = lambda step, values: points.update({step: values})  # type: ignore[method-assign]
    trainer.fit()
    assert {3, 6} <= set(points)
    assert {"train/loss", "train/lr", "train/gradient_norm", "memory/gb", "speed/images_per_s", "speed/tflops"} <= set(points[3])
    assert np.isfinite(list(points[3].values())).all()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (
        record["network_images_per_s"] >= record["images_per_s"] > 0 and 0 < record["tflops"] < 10 and record["memory_gb"] > 0.1
    )
