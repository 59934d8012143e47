"""A trainer of the tiny network on random batches, for tests of the training loop."""

from __future__ import annotations

import resource
from collections.abc import Generator, Iterator
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
            yield Batch(images, points, labeled, index, np.zeros(SAMPLES, bool), matrices, SAMPLES)


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
        model = checkpoints.build_model(PRESETS["tiny"], Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0))
    loader = loader or RandomLoader()
    ranks = Ranks.single(device)
    return Trainer(config, model, loader, loader, lambda keypoints: {"x": float(keypoints.mean())}, "x", folder, ranks)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files: a write beyond `size` bytes is truncated, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
