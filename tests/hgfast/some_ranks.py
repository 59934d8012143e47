"""Run by torchrun in test_train.py: ranks share an epoch, train and must agree. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.config import Config, InferenceConfig
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.datasets import open_loader, open_samples
from hgfast.training import distributed
from hgfast.training.trainer import Trainer


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = Config(data=data, batch_size=10, threads=1)
    config.train.epochs, config.train.amp, config.train.val_interval = 2, "off", 9
    ranks = distributed.init_distributed("cpu")
    samples = open_samples(config, "train")
    loader = open_loader(samples, 64, Normalization(), ranks, config, augment=config.augment)
    valid_config = InferenceConfig(data=data, versions=["gs"], batch_size=4, threads=1)
    valid = open_loader(open_samples(valid_config, "valid"), 64, Normalization(), ranks, valid_config)
    torch.manual_seed(ranks.rank)  # ranks start with different weights: DDP must synchronize them
    model = checkpoints.build_model(PRESETS["tiny"], Meta(samples.skeleton, Normalization(), 64, "logits", "dark", 0.0))

    seen = torch.tensor(np.concatenate([batch.index for batch in loader.epoch(0)]))
    counts: list[int] = []
    trainer = Trainer(config, model, loader, valid, lambda p: counts.append(len(p)) or {"x": 1.0}, "x", out, ranks)
    different_statistics, different_average = 0.0, 0.0
    original = trainer._save_checkpoint

    def save(*what: Any) -> None:
        nonlocal different_statistics, different_average
        original(*what)
        different_statistics = max_rank_difference(torch.cat([b.float().flatten() for b in model.buffers()]))
        different_average = max_rank_difference(
            torch.cat([b.float().flatten() for b in trainer.eval_model.state_dict().values()])
        )

    trainer._save_checkpoint = save  # type: ignore[method-assign]
    gradient, loss = first_step_gradient(trainer)
    config.train.grad_accum = 2
    run_in_batches, _ = first_step_gradient(trainer)
    config.train.grad_accum = 1
    alone = distributed.Ranks.single(ranks.device)
    whole = open_loader(samples, 64, Normalization(), alone, config, augment=config.augment)
    single = Trainer(config, model, whole, valid, lambda _: {}, "x", out, alone)
    one_gradient, one_loss = first_step_gradient(single)
    live, _ = first_step_gradient(trainer, frozen=False)
    one_live, _ = first_step_gradient(single, frozen=False)
    loss_of_all = distributed.all_reduce_sum(loss) / ranks.world_size
    trainer.fit()
    result = {
        "gradient_norm": float(one_gradient.norm()),
        "gradient_off": float((gradient - one_gradient).norm()),
        "gradient_in_parts_off": float((run_in_batches - one_gradient).norm()),
        "gradient_live_off": float((live - one_live).norm() / one_live.norm()),
        "loss_of_all": loss_of_all,
        "loss_of_one": float(one_loss),
        "samples": len(samples),
        "seen": distributed.all_gather(seen).tolist(),
        "shares": [len(share) for share in gather_objects(seen)],
        "validated": counts,
        "valid": len(valid.plan.samples),
        "parameters_apart": max_rank_difference(torch.cat([p.detach().flatten() for p in model.parameters()])),
        "buffers_apart": different_statistics,
        "average_apart": different_average,
        "unused": bool(getattr(trainer.wrapped_model, "find_unused_parameters", False)),
    }
    if ranks.is_main:
        print("RESULT " + json.dumps(result), flush=True)
    distributed.cleanup()


def first_step_gradient(trainer: Trainer, frozen: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient and the loss of the trainer's step for the first batch, with BatchNorm frozen or in training mode."""
    caught: list[torch.Tensor] = []
    update = trainer.optimizer.step

    def catch() -> None:
        caught.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))

    trainer.wrapped_model.train(not frozen)
    trainer.optimizer.step = catch  # type: ignore[method-assign, assignment]
    with closing(trainer.train.epoch(1)) as batches:
        loss = trainer.train_step(next(batches))
    trainer.optimizer.step = update  # type: ignore[method-assign]
    trainer.global_step = 0
    return caught[0], loss


def gather_objects(value: torch.Tensor) -> list[torch.Tensor]:
    parts: list[torch.Tensor] = [value] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def max_rank_difference(values: torch.Tensor) -> float:
    """The largest difference between the ranks."""
    parts = gather_objects(values)
    return float(max((part - parts[0]).abs().max() for part in parts))


if __name__ == "__main__":
    main()
