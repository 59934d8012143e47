"""Detection of gradients that are not finite and of empty heatmaps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hgfast import checkpoints
from hgfast.heatmaps import decode
from hgfast.model import StackedHourglass
from hgfast.training.batch import Batch

FP16_PATIENCE = 20  # consecutive steps that may overflow in fp16: the loss scale falls from 65536 to 0.06 meanwhile
EMPTY_THRESHOLDS = {"gaussian": 0.05, "logits": 3.0}  # value at the peak; mass at the peak relative to a constant map's


class NonFiniteGuard:
    """Detects `patience` consecutive steps with gradients that are not finite; the state stays on the device."""

    def __init__(self, device: torch.device, patience: int = 1) -> None:
        self._patience = patience
        self._consecutive = torch.zeros((), dtype=torch.int64, device=device)
        self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def update(self, non_finite: Tensor, step: int) -> None:
        """Record a step; `non_finite` is a scalar bool on the device. Does not synchronize with the device."""
        self._consecutive = torch.where(non_finite, self._consecutive + 1, 0)
        self._first_bad_step = torch.where(
            (self._first_bad_step < 0) & (self._consecutive >= self._patience), step, self._first_bad_step
        )

    @property
    def first_bad_step(self) -> int | None:
        """The step at which `patience` was reached first, or None. Synchronizes with the device."""
        step = int(self._first_bad_step)
        return None if step < 0 else step


def save_bad_batch(batch: Batch, model: StackedHourglass, step: int, path: Path) -> None:
    """Write the batch and the network before that step, to reproduce the failure.

    BatchNorm's running statistics already include the batch: if they are not finite, they are reset to their initial values.
    Training does not use them.
    """
    state = checkpoints.model_state(model)
    for name, value in state["weights"].items():
        if value.is_floating_point() and not value.isfinite().all():
            state["weights"][name] = torch.full_like(value, 1.0 if name.endswith("running_var") else 0.0)
    content = state | {
        "step": step,
        "index": torch.from_numpy(batch.index.copy()),
        "images": batch.images.float().cpu(),
        "keypoints": batch.keypoints.cpu(),
        "labelled": batch.labeled.cpu(),
        "total": batch.global_batch_size,
    }
    checkpoints.save(content, path)


@torch.no_grad()
def mean_peak_if_empty(heatmaps: Tensor, heatmap_kind: str) -> float | None:
    """Return the mean peak of the last stack's maps (N, K, h, w) if it is close to that of empty maps, else None."""
    if heatmap_kind == "gaussian":
        peak = float(heatmaps.float().amax((-2, -1)).mean())
        return peak if peak < EMPTY_THRESHOLDS[heatmap_kind] else None
    cells = heatmaps.shape[-1] * heatmaps.shape[-2]
    mass = float(decode(heatmaps, "argmax", heatmap_kind)[..., 2].mean())
    return mass if mass < EMPTY_THRESHOLDS[heatmap_kind] * 9 / cells else None


def empty_heatmaps_warning(peak: float, epoch: int) -> str:
    """Return a warning with the usual causes."""
    return (
        f"warning: after epoch {epoch} the heatmaps are almost empty (mean peak {peak:.3g}): the network predicts no joints. "
        "Usual causes: too high a --train.lr; squared error, above all with --loss.reduce mean on a small network "
        "(--loss.name cross_entropy does not collapse); --loss.unlabeled zero if few joints are labeled; joints outside the "
        "crops (check the images in TensorBoard)"
    )
