"""A trainer of the tiny network on batches that are made up in memory, for tests of what training does with them.

What may enter: such batches and such a trainer.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch

from hgfast import checkpoints
from hgfast.batch import Batch
from hgfast.config import Config
from hgfast.distributed import Ranks
from hgfast.model import PRESETS, Meta, StackedHourglass
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import HAND21
from hgfast.training import Trainer

STEPS_AN_EPOCH, SAMPLES = 7, 4


class MadeUp:
    """Batches that depend on the epoch and the step alone."""

    count = STEPS_AN_EPOCH * SAMPLES

    def __len__(self) -> int:
        return STEPS_AN_EPOCH

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for step in range(start, STEPS_AN_EPOCH):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            images = torch.rand(SAMPLES, 3, 64, 64, generator=generator).to(memory_format=torch.channels_last)
            points = torch.rand(SAMPLES, 21, 2, generator=generator) * 64
            index = np.arange(step * SAMPLES, (step + 1) * SAMPLES)
            matrices = np.tile(np.eye(3), (SAMPLES, 1, 1))
            labelled = torch.ones(SAMPLES, 21, dtype=torch.bool)
            yield Batch(images, points, labelled, index, np.zeros(SAMPLES, bool), matrices, SAMPLES)


def trainer_of(folder: Path, loader: MadeUp | None = None, model: StackedHourglass | None = None, **settings: object) -> Trainer:
    """In full precision; a network with the same weights each time where none is given. `settings` are those of --train."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Config(exp=folder.name)
    config.train.amp = "off"
    for name, value in settings.items():
        setattr(config.train, name, value)
    if model is None:
        torch.manual_seed(0)
        model = checkpoints.build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0))
    loader = loader or MadeUp()
    ranks = Ranks(0, 1, 1, torch.device("cpu"))
    return Trainer(config, model, loader, loader, lambda found: {"x": float(found.mean())}, "x", folder, ranks)
