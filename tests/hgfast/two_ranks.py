"""Run by torchrun in test_train.py: two ranks share an epoch, train, and must agree. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from hgfast import checkpoints, distributed
from hgfast.checkpoints import Meta
from hgfast.config import Config
from hgfast.model import PRESETS
from hgfast.preprocessing import Preprocessing
from hgfast.training import Trainer
from pipelines.datasets import open_loader, open_samples


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = Config(data=data, batch_size=10)
    config.train.epochs, config.train.amp, config.train.valid_every = 2, "off", 9
    ranks = distributed.start("cpu")
    samples = open_samples("freihand", data, "train", config.versions)
    loader = open_loader(samples, 64, config.batch_size, Preprocessing(), ranks, augment=config.augment, threads=1)
    valid = open_loader(open_samples("freihand", data, "valid", ["gs"]), 64, 4, Preprocessing(), ranks, threads=1)
    torch.manual_seed(ranks.rank)  # ranks start apart: DDP must bring them together
    model = checkpoints.build(PRESETS["tiny"], Meta(samples.skeleton, Preprocessing(), 64, "logits", "dark", 0.0))

    seen = torch.tensor(np.concatenate([batch.index for batch in loader.epoch(0)]))
    counts: list[int] = []
    trainer = Trainer(config, model, loader, valid, lambda p: counts.append(len(p.index)) or {"x": 1.0}, "x", out, ranks)
    different_statistics = 0.0
    original = trainer._save

    def save(figures: dict[str, float], epoch: int) -> None:
        nonlocal different_statistics
        different_statistics = spread(torch.cat([b.float().flatten() for b in model.buffers()]))
        original(figures, epoch)

    trainer._save = save  # type: ignore[method-assign]
    trainer.fit()
    result = {
        "samples": len(samples),
        "seen": distributed.gather(seen).tolist(),
        "shares": [len(share) for share in gather_objects(seen)],
        "validated": counts,
        "valid": len(valid.plan.samples),
        "parameters_apart": spread(torch.cat([p.detach().flatten() for p in model.parameters()])),
        "buffers_apart": different_statistics,
        "unused": bool(getattr(trainer.network, "find_unused_parameters", False)),
    }
    if ranks.first:
        print("RESULT " + json.dumps(result), flush=True)
    distributed.stop()


def gather_objects(value: torch.Tensor) -> list[torch.Tensor]:
    parts: list[torch.Tensor] = [value] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def spread(values: torch.Tensor) -> float:
    """The largest difference between the ranks."""
    parts = gather_objects(values)
    return float(max((part - parts[0]).abs().max() for part in parts))


if __name__ == "__main__":
    main()
