"""When training goes wrong: gradients that are not numbers, and heatmaps that are empty.

What may enter: noticing trouble without waiting for the device, and saying what it is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hgfast import checkpoints
from hgfast.batch import Batch
from hgfast.heatmaps import decode
from hgfast.model import StackedHourglass

PATIENCE = 20  # steps in a row that fp16's scaler may find too large: from 65536 it is at 0.06 by then
EMPTY = {"gaussian": 0.05, "logits": 3.0}  # highest value; mass at the peak as a multiple of a flat map's


class Watch:
    """The first step whose gradients were not finite `patience` times in a row, kept on the device."""

    def __init__(self, device: torch.device, patience: int = 1) -> None:
        self._patience = patience
        self._row = torch.zeros((), dtype=torch.int64, device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)

    def note(self, bad: Tensor, step: int) -> None:
        """bad: a scalar bool on the device. Queues work there and waits for none of it."""
        self._row = torch.where(bad, self._row + 1, 0)
        self._first = torch.where((self._first < 0) & (self._row >= self._patience), step, self._first)

    @property
    def first(self) -> int | None:
        """The step's number, or None. Waits for the device."""
        step = int(self._first)
        return None if step < 0 else step


def save_batch(batch: Batch, model: StackedHourglass, step: int, path: Path) -> None:
    """Write what it takes to see it again: the batch, and the network as it was before that step.

    But for BatchNorm's running statistics, which the batch has gone into already: where that made them no numbers they are as
    in a fresh network. In training they are not used.

    Raises:
        HgfastError: the file cannot be written.
    """
    network = checkpoints.describe(model)
    for name, value in network["weights"].items():
        if value.is_floating_point() and not value.isfinite().all():
            network["weights"][name] = torch.full_like(value, 1.0 if name.endswith("running_var") else 0.0)
    content = network | {
        "step": step,
        "index": torch.from_numpy(batch.index.copy()),
        "images": batch.images.cpu(),
        "keypoints": batch.keypoints.cpu(),
        "labelled": batch.labelled.cpu(),
        "total": batch.total,
    }
    checkpoints.save(content, path)


@torch.no_grad()
def empty(heatmaps: Tensor, kind: str) -> float | None:
    """Of the last stack's maps (N, K, h, w): how high they are on average where that is next to nothing, else None."""
    if kind == "gaussian":
        height = float(heatmaps.float().amax((-2, -1)).mean())
        return height if height < EMPTY[kind] else None
    cells = heatmaps.shape[-1] * heatmaps.shape[-2]
    mass = float(decode(heatmaps, "argmax", kind)[..., 2].mean())
    return mass if mass < EMPTY[kind] * 9 / cells else None


def why_empty(height: float, epoch: int) -> str:
    """What people usually find to be the cause."""
    return (
        f"warning: after epoch {epoch} the heatmaps are next to empty ({height:.3g} at their peaks on average): the network "
        "predicts nothing anywhere. Usual causes: too high a --train.lr; squared error, above all with --loss.reduce mean on a "
        "small network (--loss.name cross_entropy does not collapse); --loss.unlabelled zero where few joints are labelled; "
        "joints that lie outside of the crops (look at the pictures in TensorBoard)"
    )
