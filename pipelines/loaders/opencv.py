"""The OpenCV loader: reads and warps in worker processes, from the same plan to the same batches as DALI.

It runs where DALI is not available, and is the independent reference for DALI's results.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hgfast.config import LoadingConfig
from hgfast.errors import HgfastError
from hgfast.geometry import warp
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan, PlannedBatch
from hgfast.pipelines.loaders.base import PlannedLoader
from hgfast.pipelines.processes import WorkerPool
from hgfast.training.batch import Batch
from hgfast.visualization.draw import read_image


@dataclass(frozen=True)
class StepCrops:
    """A worker's result for one step: crops (n, S, S, 3) uint8 of rows `index` (n,), and the positions that could not be read."""

    images: NDArray[np.uint8]
    index: NDArray[np.int64]
    bad: set[int]


@dataclass(frozen=True)
class StepCropper:
    """A worker's function: (epoch, step) -> crops of that step."""

    plan: BatchPlan

    def __call__(self, position: tuple[int, int]) -> StepCrops:
        planned = self.plan.batch(*position)
        crops = StepCrops(
            np.zeros((len(planned.index), self.plan.input_size, self.plan.input_size, 3), np.uint8), planned.index, set()
        )
        for n, row in enumerate(planned.index):
            try:
                crops.images[n] = load_crop(self.plan, int(row), planned.input_from_source[n])
            except HgfastError:
                crops.bad.add(n)
        return crops


class OpenCVLoader(PlannedLoader):
    """Yields the batches of a `BatchPlan`, each made by one of the worker processes; with 0 workers, by this process."""

    def __init__(
        self,
        plan: BatchPlan,
        device: torch.device,
        workers: int,
        normalization: Normalization,
        *,
        options: LoadingConfig | None = None,
    ) -> None:
        super().__init__(plan, device, normalization, options)
        advice = "use fewer with --threads, or --loader dali"
        self._workers: WorkerPool[tuple[int, int], StepCrops] = WorkerPool(
            StepCropper(plan), workers, __name__, "--loader opencv", advice
        )

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        positions = [(epoch, step) for step in range(start, self.plan.steps)]
        with closing(self._workers.answers(positions)) as results:
            for position, crops in zip(positions, results):
                planned = self._replace_failed(crops, *position)
                yield self._make_batch(self._to_device(crops.images), planned)

    def _replace_failed(self, crops: StepCrops, epoch: int, step: int) -> PlannedBatch:
        """Retry the images that a worker could not read, and replace images that are unreadable or were excluded meanwhile.

        Returns the batch as it is planned now.
        """
        index, pending = crops.index, crops.bad
        while True:
            planned = self.plan.batch(epoch, step)
            pending |= {int(n) for n in np.nonzero(planned.index != index)[0]}
            if not pending:
                return planned
            index, reasons = planned.index, dict[int, str]()
            for n in sorted(pending):
                try:
                    crops.images[n] = load_crop(self.plan, int(index[n]), planned.input_from_source[n])
                except HgfastError as error:
                    reasons[int(index[n])] = str(error)
            pending = {n for n in pending if int(index[n]) in reasons}
            if reasons and not self._wait_for_storage(reasons):
                self._exclude(reasons)


def load_crop(plan: BatchPlan, row: int, input_from_source: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return one sample's crop (S, S, 3) uint8. Raises `HgfastError` for an unreadable image."""
    return warp(read_image(plan.samples.paths[row]), input_from_source, plan.input_size)
