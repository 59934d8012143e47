"""The two losses, in float32, averaged over stacks, samples and joints.

Shapes: predictions (N, S, K, h, w), keypoints (N, K, 2) in heatmap coordinates, labelled (N, K) bool.
Both divide by `total` * K, `total` being the number of samples in the *global* batch: summed over ranks the gradient is
the same however the batch was shared out.
What may enter: a loss of heatmaps against keypoints.
"""

from __future__ import annotations

from torch import Tensor

from hgfast.config import LossConfig
from hgfast.heatmaps import inside, render


def map_kind(loss: str) -> str:
    """What a map trained with this loss holds: the `kind` that `hgfast.heatmaps.decode` wants."""
    return "logits" if loss == "cross_entropy" else "gaussian"


def spatial_cross_entropy(predictions: Tensor, keypoints: Tensor, labelled: Tensor, total: int, sigma: float) -> Tensor:
    """Softmax over each joint's map against the Gaussian normalised to sum 1; joints unlabelled or off the map do not count."""
    height, width = predictions.shape[-2:]
    targets = render(keypoints, height, width, sigma).flatten(-2)
    targets = targets / targets.sum(-1, keepdim=True).clamp_min(1e-12)
    log_softmax = predictions.float().flatten(-2).log_softmax(-1)
    losses = -(targets[:, None] * log_softmax).sum(-1)
    counts = (labelled & inside(keypoints, height, width))[:, None]
    return losses.where(counts, 0).sum() / (total * losses.shape[1] * losses.shape[2])


def mse(predictions: Tensor, keypoints: Tensor, labelled: Tensor, total: int, sigma: float, unlabelled: str = "ignore") -> Tensor:
    """Squared error *summed* over each map against Gaussians of peak 1.

    The seed takes the mean over the map, a factor H*W smaller: the same thing to Adam but for its epsilon and gradient
    clipping, which is how small networks come to predict zero everywhere. Unlabelled joints and joints off the map are
    ignored, or with `unlabelled="zero"` trained towards an empty map, as the seed does.
    """
    height, width = predictions.shape[-2:]
    present = labelled & inside(keypoints, height, width)
    targets = render(keypoints, height, width, sigma).where(present[..., None, None], 0)
    losses = (predictions.float() - targets[:, None]).square().sum((-2, -1))
    if unlabelled == "ignore":
        losses = losses.where(present[:, None], 0)
    return losses.sum() / (total * losses.shape[1] * losses.shape[2])


def heatmap_loss(settings: LossConfig, predictions: Tensor, keypoints: Tensor, labelled: Tensor, total: int) -> Tensor:
    """The loss a configuration names, "cross_entropy" or "mse"; scalar float32. reduce "mean": squared error averaged over a
    map's cells, as the seed has it."""
    if settings.name == "cross_entropy":
        return spatial_cross_entropy(predictions, keypoints, labelled, total, settings.sigma)
    loss = mse(predictions, keypoints, labelled, total, settings.sigma, settings.unlabelled)
    return loss / (predictions.shape[-2] * predictions.shape[-1]) if settings.reduce == "mean" else loss
