"""Exponential moving average (EMA) of a network's weights during training.

torch.optim.swa_utils.AveragedModel is not used: its tensor counter synchronizes host and device in every update, and it groups
the tensors again each time.
"""

from __future__ import annotations

from copy import deepcopy

import torch

from hgfast.model import StackedHourglass


class ModelEma:
    """Exponential moving average of a model's parameters and BatchNorm statistics; BatchNorm's counters are copied.

    `module` is a copy of the model in eval mode, on the same device and in the same memory format, without gradients.

    Args:
        model: the network on its final device; the average starts from its present weights.
        decay: largest decay of an update, in [0, 1).
    """

    def __init__(self, model: StackedHourglass, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = deepcopy(model).requires_grad_(False).eval()
        ema_tensors = [*self.module.parameters(), *self.module.buffers()]
        model_tensors = [*model.parameters(), *model.buffers()]
        pairs = list(zip(ema_tensors, model_tensors))
        self._ema_tensors = [average for average, _ in pairs if average.is_floating_point()]
        self._model_tensors = [current.detach() for _, current in pairs if current.is_floating_point()]
        self._ema_counters = [average for average, _ in pairs if not average.is_floating_point()]
        self._model_counters = [current for _, current in pairs if not current.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the model's present weights. Does not synchronize with the device."""
        torch._foreach_lerp_(self._ema_tensors, self._model_tensors, 1 - ema_decay(self.updates, self.decay))
        if self._ema_counters:
            torch._foreach_copy_(self._ema_counters, self._model_counters)
        self.updates += 1


def ema_decay(update: int, decay: float) -> float:
    """Return the decay of update number `update`, from 0: small at first, so that the initial weights are soon forgotten.

    It averages over about the last twentieth of the steps done and at most over 1 / (1 - decay) steps: with 0.999, over 1000
    steps from step 19 000 on. With twice that window the average lagged behind at the end of short runs.
    """
    return min(decay, (1 + update) / (20 + update))
