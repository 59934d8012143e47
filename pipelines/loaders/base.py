"""The common part of all loaders: from planned crops to a `Batch`, and the handling of unreadable images."""

from __future__ import annotations

import sys
from collections.abc import Collection, Generator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.config import LoadingConfig
from hgfast.normalization import Normalization, apply_color_affine, fold
from hgfast.pipelines.batch_plan import BatchPlan, PlannedBatch
from hgfast.pipelines.loaders.storage import wait_for_folders
from hgfast.training.batch import Batch
from hgfast.training.evaluator import Loader


class PlannedLoader:
    """Base class of loaders that follow a `BatchPlan`.

    Args:
        plan: order, matrices and colors. Unreadable images are excluded from it when they are found.
        device: device of the batches.
        normalization: normalization of the network.
        options: how long to wait for missing folders, and DALI's options.
    """

    def __init__(
        self, plan: BatchPlan, device: torch.device, normalization: Normalization, options: LoadingConfig | None = None
    ) -> None:
        self.plan, self.device, self.normalization = plan, device, normalization
        self._loading = options or LoadingConfig()

    def __len__(self) -> int:
        return self.plan.steps

    @property
    def num_samples(self) -> int:
        return len(self.plan.samples)

    def _make_batch(self, crops: torch.Tensor, planned: PlannedBatch) -> Batch:
        """Make a batch of (n, S, S, 3) uint8 crops on the device; color and normalization are applied as one affine map."""
        return Batch(
            images=apply_color_affine(crops, self._to_device(fold(planned.color, self.normalization))),
            keypoints=self._to_device(planned.keypoints.astype(np.float32)),
            labeled=self._to_device(planned.labeled),
            index=planned.index,
            is_replacement=planned.is_replacement,
            input_from_source=planned.input_from_source,
            global_batch_size=planned.global_size,
        )

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _wait_for_storage(self, rows: Collection[int]) -> bool:
        """Wait for missing folders of these rows of Samples. Returns True if one was missing and reading should be retried."""
        return wait_for_folders([str(self.plan.samples.paths[row]) for row in rows], self._loading.storage_timeout)

    def _exclude(self, reasons: Mapping[int, str]) -> None:
        """Exclude rows of Samples from the plan, which replaces them, and report each with its reason once."""
        self.plan.exclude(list(reasons))
        for reason in reasons.values():
            tqdm.write(f"warning: {reason}; another image takes its place", file=sys.stderr)


class FixedLoader:
    """Repeats one batch of another loader, to measure a network's speed without waiting for data."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._batch: Batch | None = None

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def num_samples(self) -> int:
        return self._loader.num_samples

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        if self._batch is None:
            batches = self._loader.epoch(epoch)
            self._batch = next(batches)
            batches.close()
        for _ in range(start, len(self)):
            yield self._batch
