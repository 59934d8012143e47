"""The two losses, in float32, averaged over stacks, samples and joints.

Shapes: predictions (N, S, K, h, w), keypoints (N, K, 2) in heatmap coordinates, labeled (N, K) bool.
Both divide by `global_batch_size` * S * K, so that the gradient summed over ranks does not depend on the number of ranks.
"""

from __future__ import annotations

from torch import Tensor

from hgfast.config import LossConfig
from hgfast.heatmaps import is_inside, render

HEATMAP_KIND_OF_LOSS = {"cross_entropy": "logits", "mse": "gaussian"}
"""The `heatmap_kind` of maps by the name of the loss that they are trained with."""


def spatial_cross_entropy(
    predictions: Tensor, keypoints: Tensor, labeled: Tensor, global_batch_size: int, sigma: float
) -> Tensor:
    """Cross-entropy of the softmax over each joint's map and a Gaussian with sum 1; ignores joints unlabeled or off the map."""
    height, width = predictions.shape[-2:]
    targets = render(keypoints, height, width, sigma).flatten(-2)
    targets = targets / targets.sum(-1, keepdim=True).clamp_min(1e-12)
    log_softmax = predictions.float().flatten(-2).log_softmax(-1)
    losses = -(targets[:, None] * log_softmax).sum(-1)
    valid = (labeled & is_inside(keypoints, height, width))[:, None]
    return losses.where(valid, 0).sum() / (global_batch_size * losses.shape[1] * losses.shape[2])


def mse(
    predictions: Tensor, keypoints: Tensor, labeled: Tensor, global_batch_size: int, sigma: float, unlabeled: str = "ignore"
) -> Tensor:
    """Squared error *summed* over each map against Gaussians of peak 1.

    princeton-vl's code takes the mean over the map, H*W times smaller. Adam is invariant to this factor except for its epsilon,
    gradient clipping and coupled weight decay, and with the mean small networks may collapse to empty maps. Unlabeled joints
    and joints off the map are ignored, or with `unlabeled="zero"` trained towards an empty map, as in princeton-vl's code.
    """
    height, width = predictions.shape[-2:]
    valid = labeled & is_inside(keypoints, height, width)
    targets = render(keypoints, height, width, sigma).where(valid[..., None, None], 0)
    losses = (predictions.float() - targets[:, None]).square().sum((-2, -1))
    if unlabeled == "ignore":
        losses = losses.where(valid[:, None], 0)
    return losses.sum() / (global_batch_size * losses.shape[1] * losses.shape[2])


def heatmap_loss(config: LossConfig, predictions: Tensor, keypoints: Tensor, labeled: Tensor, global_batch_size: int) -> Tensor:
    """Compute the configured loss, "cross_entropy" or "mse", as scalar float32.

    With `reduce` "mean", mse is the mean over a map's cells.
    """
    if config.name == "cross_entropy":
        return spatial_cross_entropy(predictions, keypoints, labeled, global_batch_size, config.sigma)
    loss = mse(predictions, keypoints, labeled, global_batch_size, config.sigma, config.unlabeled)
    return loss / (predictions.shape[-2] * predictions.shape[-1]) if config.reduce == "mean" else loss
