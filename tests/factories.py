"""A trainer of the tiny network on random batches, for tests of the training loop."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.config import Config
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.skeletons import HAND21
from hgfast.training.batch import Batch
from hgfast.training.distributed import Ranks
from hgfast.training.trainer import Trainer

STEPS_AN_EPOCH, SAMPLES = 7, 4
CPU = torch.device("cpu")


class RandomLoader:
    """Yields random batches that depend only on the epoch and the step."""

    num_samples = STEPS_AN_EPOCH * SAMPLES

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device

    def __len__(self) -> int:
        return STEPS_AN_EPOCH

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for step in range(start, STEPS_AN_EPOCH):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            images = torch.rand(SAMPLES, 3, 64, 64, generator=generator).to(memory_format=torch.channels_last)
            points = torch.rand(SAMPLES, 21, 2, generator=generator) * 64
            index = np.arange(step * SAMPLES, (step + 1) * SAMPLES)
            matrices = np.tile(np.eye(3), (SAMPLES, 1, 1))
            labeled = torch.ones(SAMPLES, 21, dtype=torch.bool)
            on_device = (tensor.to(self.device) for tensor in (images, points, labeled))
            yield Batch(*on_device, index, np.zeros(SAMPLES, bool), matrices, SAMPLES)


def make_trainer(
    folder: Path,
    loader: RandomLoader | None = None,
    model: StackedHourglass | None = None,
    device: torch.device = CPU,
    **settings: object,
) -> Trainer:
    """Create a trainer in fp32, by default of a network with fixed weights. `settings` are fields of `TrainConfig`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(exp=folder.name)
    config.train.amp = "off"
    config.train = replace(config.train, **settings)  # type: ignore[arg-type]  # raises for unknown names
    if model is None:
        torch.manual_seed(0)
        model = checkpoints.build_model(PRESETS["tiny"], Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0)).to(device)
    loader = loader or RandomLoader(device)
    ranks = Ranks.single(device)
    return Trainer(config, model, loader, loader, lambda keypoints: {"x": float(keypoints.mean())}, "x", folder, ranks)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_overflow(make: Callable[[], Trainer]) -> None:
    """Check a step whose gradients are infinite in fp16: it is skipped, the scale halves, and training continues; the scale
    outlives a resume. `make` creates a trainer, the second time to resume."""
    trainer = make()
    batches = list(trainer.train.epoch(0))
    trainer.train_step(batches[0])
    before, scale = [p.clone() for p in trainer.model.parameters()], trainer.scaler.get_scale()
    handle = trainer.model.last.score.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.train_step(batches[1])
    handle.remove()
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters()))
    assert trainer.scaler.get_scale() == scale / 2 and trainer._nan_guard.first_bad_step is None
    trainer.train_step(batches[2])
    assert not any(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters()))
    trainer._save_checkpoint(1)
    again = make()
    again.resume(checkpoints.read(trainer.folder / "checkpoint.pt"), trainer.folder / "checkpoint.pt")
    assert again.scaler.get_scale() == scale / 2 and again.global_step == 3


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files: a write beyond `size` bytes is truncated, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
