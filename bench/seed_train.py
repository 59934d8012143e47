"""A training step in the manner of the code hgfast starts from, princeton-vl/pytorch_stacked_hourglass and its FreiHAND fork.

Single precision, Adam as torch makes it when nothing else is asked for, the mean squared error against heatmaps that the loader
drew, no clipping, no average, and a look at the loss of every step before its gradients, for which the host waits for the
device. Weights are in NCHW memory, but the loader's pictures are NHWC and only their axes are swapped, so that torch computes
in channels_last all the way. Written for comparison: the network is hgfast's, which has the same layers (and overwrites some
activations, which there are copied). cuDNN chooses its algorithms by trial, as there; torch's other defaults are left as they
are, such as TF32 in the convolutions of a GPU that has it.
What may enter: that way of taking a step, in all its costs; nothing that makes it faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RATE = 1e-3  # of learning


class SeedTrainer:
    """Takes steps with `model`, a network (N, 3, S, S) -> (N, stacks, K, S/4, S/4) that it moves to `device`; cuDNN's trials are
    switched on for the whole process."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        torch.backends.cudnn.benchmark = True
        self.device = device
        self.model = model.to(device).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)

    def step(self, pictures: Tensor, maps: Tensor) -> float:
        """One step with pictures (N, S, S, 3) in [0, 1] and heatmaps (N, K, S/4, S/4), both from the loader; returns the loss."""
        images = pictures.to(self.device).permute(0, 3, 1, 2)
        loss = mean_squares(self.model(images), maps.to(self.device))
        seen = loss.item()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return seen


def mean_squares(predictions: Tensor, maps: Tensor) -> Tensor:
    """The mean over stacks, samples, joints and cells; (N, S, K, h, w) against (N, K, h, w)."""
    squares = (predictions - maps[:, None]) ** 2
    return squares.mean(-1).mean(-1).mean(-1).mean()
