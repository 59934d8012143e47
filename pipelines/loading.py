"""What every loader shares: from planned crops to a `Batch`, and what happens to a picture that cannot be read.

What may enter: code that both loaders need, whichever library reads the files.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.batch import Batch
from hgfast.config import LoadingConfig
from hgfast.evaluation import Loader
from hgfast.preprocessing import Preprocessing, apply, fold
from pipelines.gone import wait_for
from pipelines.plan import Plan, PlannedBatch


class PlannedLoader:
    """The part of a loader that knows its plan and makes batches of crops.

    Args:
        plan: order, matrices and colours. Pictures that cannot be read are left out of it as they are found.
        device: where batches go.
        preprocessing: normalisation of the network.
        options: how long to wait for folders that are gone, and what DALI needs.
    """

    def __init__(
        self, plan: Plan, device: torch.device, preprocessing: Preprocessing, options: LoadingConfig | None = None
    ) -> None:
        self.plan, self.device, self.preprocessing = plan, device, preprocessing
        self._options = options or LoadingConfig()

    def __len__(self) -> int:
        return self.plan.steps

    @property
    def count(self) -> int:
        return len(self.plan.samples)

    def _finish(self, crops: torch.Tensor, planned: PlannedBatch) -> Batch:
        """The batch of (n, S, S, 3) uint8 crops on the device: colour and normalisation are one affine map."""
        return Batch(
            images=apply(crops, self._to_device(fold(planned.colour, self.preprocessing))),
            keypoints=self._to_device(planned.keypoints.astype(np.float32)),
            labelled=self._to_device(planned.labelled),
            index=planned.index,
            stand_in=planned.stand_in,
            input_from_source=planned.input_from_source,
            total=planned.total,
        )

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _waited_for(self, rows: Collection[int]) -> bool:
        """Wait for the folders of these rows of Samples, where any is gone: was one, so that reading should be tried again?"""
        return wait_for([str(self.plan.samples.paths[row]) for row in rows], self._options.wait_minutes)

    def _leave_out(self, bad: Mapping[int, str]) -> None:
        """Take rows of Samples out of the plan, others will stand in for them; say which and why, once."""
        self.plan.leave_out(list(bad))
        for reason in bad.values():
            tqdm.write(f"warning: {reason}; another picture takes its place", file=sys.stderr)


class FixedLoader:
    """One batch of another loader again and again: what a network could do if it never waited for data."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._batch: Batch | None = None

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def count(self) -> int:
        return self._loader.count

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        if self._batch is None:
            batches = self._loader.epoch(epoch)
            self._batch = next(batches)
            batches.close()
        for _ in range(start, len(self)):
            yield self._batch
