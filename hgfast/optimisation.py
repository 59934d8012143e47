"""What takes the steps, and how large they are.

What may enter: optimizers and learning rates as a recipe names them.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer

from hgfast.config import TrainConfig


def make_optimizer(settings: TrainConfig, model: nn.Module) -> Optimizer:
    """adamw and adam in their fused forms; rmsprop with the constants of the paper's Torch code (alpha 0.99, epsilon 1e-8)."""
    parameters = model.parameters()
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, settings.lr, alpha=0.99, eps=1e-8, weight_decay=settings.weight_decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)


def rate_at(settings: TrainConfig, progress: float, step: int, steps_in_all: int) -> float:
    """The learning rate of step number `step`, from 0: a linear warm-up, then a cosine to zero, or the peak and its falls.

    Args:
        progress: how much of the schedule is done, by steps or by time, in [0, 1].
    """
    warm = settings.warmup
    if progress < warm:
        return settings.lr * (progress + 1 / steps_in_all) / (warm + 1 / steps_in_all)
    if settings.schedule == "steps":
        return settings.lr * settings.drop_by ** sum(step >= 1000 * after for after in settings.drop_after)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm) / (1 - warm))))
