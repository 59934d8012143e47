"""Training step of princeton-vl/pytorch_stacked_hourglass and its FreiHAND fork, re-implemented as a baseline.

fp32, Adam with torch's defaults, mean squared error against the heatmaps of the loader, no gradient clipping, no EMA, and
`.item()` of every loss before the backward pass, for which the host waits for the device. The weights are NCHW, but the images of
the loader are NHWC and only their axes are permuted, so torch computes in channels_last. The network is hgfast's, which has the
same layers (some activations are modified in place that the original copies). cuDNN benchmark mode is on, as in the original;
other defaults of torch are unchanged, such as TF32 in convolutions. Do not optimize this code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEARNING_RATE = 1e-3


class PrincetonTrainer:
    """Train `model`, (N, 3, S, S) -> (N, stacks, K, S/4, S/4), which is moved to `device`.

    Turns on cuDNN benchmark mode for the whole process.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        torch.backends.cudnn.benchmark = True
        self.device = device
        self.model = model.to(device).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)

    def step(self, images: Tensor, targets: Tensor) -> float:
        """Train on images (N, S, S, 3) in [0, 1] and heatmaps (N, K, S/4, S/4) of the loader; return the loss."""
        inputs = images.to(self.device).permute(0, 3, 1, 2)
        loss = mean_squared_error(self.model(inputs), targets.to(self.device))
        loss_value = loss.item()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss_value


def mean_squared_error(predictions: Tensor, maps: Tensor) -> Tensor:
    """Return the mean over samples, stacks, joints and cells of (N, stacks, K, h, w) against (N, K, h, w)."""
    squares = (predictions - maps[:, None]) ** 2
    return squares.mean(-1).mean(-1).mean(-1).mean()
