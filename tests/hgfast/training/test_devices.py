"""Training on a device. The bodies run on the CPU everywhere, and on a GPU where there is one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hgfast import checkpoints
from hgfast.config import Config
from hgfast.training import throughput
from hgfast.training.batch import Batch
from hgfast.training.distributed import Ranks, configure_cudnn, wrap_ddp
from hgfast.training.run import train
from hgfast.training.throughput import DataWaitTimer
from hgfast.training.trainer import Trainer
from tests.factories import RandomLoader, check_overflow, make_trainer, read_metrics
from tests.gpu import DEVICES, refuse_synchronization

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    """Restore the process's settings of cuDNN and determinism."""
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("device", "amp"),
    [(CPU, "off"), *(pytest.param(GPU, amp, marks=pytest.mark.gpu) for amp in ("bf16", "fp16", "off"))],
    ids=str,
)
def test_a_step_does_not_synchronize(device: torch.device, amp: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, device=device, amp=amp)
    trainer.model.train()
    batches = list(trainer.train.epoch(0))
    losses = [trainer.train_step(batch) for batch in batches[:3]]  # libraries start, and cuDNN measures its algorithms
    with refuse_synchronization(device):
        losses += [trainer.train_step(batch) for batch in batches[3:]]
    assert all(0 < float(loss) < 100 for loss in losses)


def hands_config(hands: Path, out: Path, device: torch.device, **settings: Any) -> Config:
    """A short run on DALI's batches: 38 hands in steps of 15, whose sizes differ, except if the network is compiled."""
    config = Config(data=hands, out=out, exp="run", batch_size=15, threads=1, device=str(device), versions=["gs"])
    config.model.preset, config.model.depth = "tiny", 1  # which compiles fast
    for name, value in {"lr": 3e-3, "amp": "auto" if device.type == "cuda" else "off", **settings}.items():
        setattr(config.train, name, value)
    config.validate()
    return config


@pytest.mark.dali
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize(
    ("device", "mode"),
    [
        pytest.param(CPU, "on", marks=pytest.mark.slow),
        *(pytest.param(GPU, mode, marks=pytest.mark.gpu) for mode in ("on", "graphs")),
    ],
    ids=str,
)
def test_compiled_training_on_dalis_batches(device: torch.device, mode: str, hands: Path, tmp_path: Path) -> None:
    """Thirty steps and validations of other sizes give nearly the losses of a run that is not compiled."""
    records = {
        compile_mode: read_metrics(
            train(hands_config(hands, tmp_path / compile_mode, device, epochs=10, compile=compile_mode), Ranks.single(device))
        )
        for compile_mode in ("off", mode)
    }
    assert records[mode][-1]["step"] == 30
    for plain, compiled in zip(records["off"], records[mode]):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=0.1)  # the samples that are left out differ
    assert records[mode][-1]["loss"] < records[mode][0]["loss"]


@pytest.mark.gpu
def test_an_overflow_in_fp16(tmp_path: Path) -> None:
    check_overflow(lambda: make_trainer(tmp_path, device=GPU, amp="fp16", epochs=2))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_resumed_run_continues(device: torch.device, tmp_path: Path) -> None:
    """Two epochs, and one epoch that is continued from its checkpoint, end at the same weights: with deterministic algorithms."""
    whole = make_trainer(tmp_path / "whole", device=device, epochs=2, deterministic=True)
    whole.fit()
    half = make_trainer(tmp_path / "half", device=device, epochs=2, deterministic=True)
    half._run_epoch(0, 0)
    half.logger.close()
    path = tmp_path / "half" / "checkpoint.pt"
    content = checkpoints.read(path)
    model = checkpoints.model_from_checkpoint(content, path, use_ema=False).to(device)
    rest = make_trainer(tmp_path / "half", model=model, device=device, epochs=2, deterministic=True)
    rest.resume(content, path)
    assert rest.global_step == 7
    rest.fit()
    for one, other in zip(rest.eval_model.parameters(), whole.eval_model.parameters()):
        assert one.device == device and torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_ddp_of_one_rank_gives_the_same_gradients(device: torch.device, tmp_path: Path) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    try:
        trainers = [make_trainer(tmp_path / name, device=device, deterministic=True) for name in ("plain", "ddp")]
        trainers[1].wrapped_model = trainers[1].ddp = wrap_ddp(trainers[1].model, Ranks.single(device))
        for trainer in trainers:
            for batch in trainer.train.epoch(0):
                trainer.train_step(batch)
        for one, other in zip(trainers[0].model.parameters(), trainers[1].model.parameters()):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    finally:
        dist.destroy_process_group()


class SlowLoader(RandomLoader):
    """Each batch takes `seconds`."""

    seconds = 0.1

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for batch in super().epoch(epoch, start):
            time.sleep(self.seconds)
            yield batch


def data_wait(trainer: Trainer) -> float:
    trainer.train_step(next(trainer.train.epoch(0)))  # libraries start
    return float(trainer._train_epoch(0, 0)["data_wait"])


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_slow_loader_lets_the_device_wait(device: torch.device, tmp_path: Path) -> None:
    slow, fast = SlowLoader(device), RandomLoader(device)
    slow_wait, fast_wait = (data_wait(make_trainer(tmp_path, loader, device=device)) for loader in (slow, fast))
    assert slow_wait > 2 * fast_wait and slow_wait > 0.3


@pytest.mark.gpu
def test_a_loader_that_is_faster_than_the_gpu_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host sleeps for a tenth of the time of a step while the GPU is busy."""
    trainer, train_step = make_trainer(tmp_path, SlowLoader(GPU), device=GPU), Trainer.train_step

    def long_step(self: Trainer, batch: Batch) -> torch.Tensor:
        torch.cuda._sleep(2 * 10**9)  # clock cycles: about a second
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", long_step)
    assert data_wait(trainer) < 0.05


def test_waiting_is_measured_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of a device that is 5 s behind the host for two steps, then waits for 2 s."""
    host, device_done = 0.0, 0.0

    class FakeEvent:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = max(host, device_done)

        def synchronize(self) -> None:
            assert self.time <= max(host, device_done)

        def elapsed_time(self, end: FakeEvent) -> float:
            return 1000 * (end.time - self.time)

    monkeypatch.setattr(throughput.torch.cuda, "Event", FakeEvent)
    timer = DataWaitTimer(GPU)
    for seconds_of_loading, device_seconds in ((1.0, 6.0), (1.0, 0.0), (7.0, 0.0)):
        with timer.waiting():
            host += seconds_of_loading
        device_done = max(device_done, host) + device_seconds
    assert timer.collect() == pytest.approx(1.0 + 0.0 + 2.0) and timer.collect() == 0.0


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_takes_the_fastest_or_deterministic_algorithms(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    configure_cudnn(deterministic, GPU)
    assert torch.backends.cudnn.benchmark is not deterministic
    assert torch.are_deterministic_algorithms_enabled() is deterministic
