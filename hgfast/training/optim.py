"""Optimizers and learning rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer

from hgfast.config import TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """Create fused adamw or adam, or rmsprop with the constants of the paper's Torch code (alpha 0.99, epsilon 1e-8)."""
    parameters = model.parameters()
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, config.lr, alpha=0.99, eps=1e-8, weight_decay=config.weight_decay)
    optimizer_class = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return optimizer_class(parameters, config.lr, weight_decay=config.weight_decay, fused=True)


def learning_rate_at(config: TrainConfig, progress: float, step: int, total_steps: int) -> float:
    """Return the learning rate of a step: linear warmup, then cosine decay to zero or a step schedule.

    Args:
        progress: finished fraction of the schedule, by steps or by time, in [0, 1].
        step: number of the step, from 0.
    """
    warmup = config.warmup
    if progress < warmup:
        return config.lr * (progress + 1 / total_steps) / (warmup + 1 / total_steps)
    if config.schedule == "steps":
        return config.lr * config.lr_gamma ** sum(step >= 1000 * milestone for milestone in config.lr_milestones)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))
