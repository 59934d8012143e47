"""A network over a whole split: predictions in source pixels, and the table of figures.

What may enter: running a network without training it, and naming its figures. Loaders and data sets come in from outside.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.batch import Batch
from hgfast.distributed import Ranks, gather
from hgfast.geometry import move
from hgfast.inference import keypoints_of, last_heatmaps
from hgfast.model import StackedHourglass
from hgfast.precision import Amp, autocast


class Loader(Protocol):
    """What every loader offers; `count` is the number of samples in its plan, over all ranks."""

    @property
    def count(self) -> int: ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]: ...


@torch.inference_mode()
def predict(
    model: StackedHourglass,
    loader: Loader,
    ranks: Ranks,
    amp: Amp,
    label: str = "validate",
    flip_test: bool = False,
) -> NDArray[np.float64]:
    """Keypoints (N, K, 2) in source pixels, row i being sample i, on every rank. Leaves the model in eval mode.

    Rows whose picture cannot be read are NaN.
    """
    model.eval()
    rows = []
    for batch in tqdm(loader.epoch(0), total=len(loader), desc=label, disable=None if ranks.first else True, leave=False):
        with autocast(amp, ranks.device):
            heatmaps = last_heatmaps(model, batch.images, flip_test)
        decoded = keypoints_of(model, heatmaps).cpu().double().numpy()
        source = move(decoded[..., :2], np.linalg.inv(batch.input_from_source))
        index = np.broadcast_to(batch.index[:, None, None], (*source.shape[:2], 1))
        rows.append(np.concatenate([source, index], axis=-1)[~batch.stand_in])
    table = gather(torch.from_numpy(np.concatenate(rows))).numpy()
    index = table[:, 0, 2].astype(int)
    if len(np.unique(index)) < len(index):
        raise RuntimeError("the ranks' shares overlap: the loader's plan is broken")
    predicted = np.full((loader.count, *table.shape[1:2], 2), np.nan)
    predicted[index] = table[..., :2]
    return predicted
