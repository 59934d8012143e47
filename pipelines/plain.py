"""The plain loader: OpenCV in worker processes, from the same plan to the same batches.

It runs where DALI does not, and is the independent witness that DALI does what is planned.
What may enter: reading and warping with OpenCV.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hgfast.batch import Batch
from hgfast.config import LoadingConfig
from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.geometry import warp
from hgfast.preprocessing import Preprocessing
from pipelines.loading import PlannedLoader
from pipelines.plan import Plan, PlannedBatch
from pipelines.workers import Workers


@dataclass(frozen=True)
class Crops:
    """What a worker makes of a step: crops (n, S, S, 3) uint8 of rows `index` (n,), and the places that could not be read."""

    images: NDArray[np.uint8]
    index: NDArray[np.int64]
    bad: list[int]


@dataclass(frozen=True)
class Cropper:
    """What a worker does: the crops of a step, asked for as (epoch, step)."""

    plan: Plan

    def __call__(self, place: tuple[int, int]) -> Crops:
        planned = self.plan.batch(*place)
        images = np.zeros((len(planned.index), self.plan.size, self.plan.size, 3), np.uint8)
        bad = []
        for n, row in enumerate(planned.index):
            try:
                images[n] = crop(self.plan, int(row), planned.input_from_source[n])
            except HgfastError:
                bad.append(n)
        return Crops(images, planned.index, bad)


class TorchLoader(PlannedLoader):
    """Yields the batches of a `Plan`, each made whole by one worker process.

    Args:
        plan, device, preprocessing, options: as `PlannedLoader`.
        workers: processes; 0 does the work in this one.
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        workers: int,
        preprocessing: Preprocessing,
        *,
        options: LoadingConfig | None = None,
    ) -> None:
        super().__init__(plan, device, preprocessing, options)
        self._workers: Workers[tuple[int, int], Crops] = Workers(Cropper(plan), workers, _one_thread, __name__)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches `start`, start + 1, … of an epoch. Leaving early is fine.

        A picture that cannot be read is named on stderr, and another takes its place.

        Raises:
            HgfastError: no picture is left, their folder is gone, or a worker has died.
        """
        places = [(epoch, step) for step in range(start, self.plan.steps)]
        with closing(self._workers.answers(places)) as made:
            for place, crops in zip(places, made):
                planned = self._repair(crops, *place)
                yield self._finish(self._to_device(crops.images), planned)

    def _repair(self, crops: Crops, epoch: int, step: int) -> PlannedBatch:
        """Read once more what a worker could not, and put others in the place of what cannot be read, here or, before this
        worker knew of it, elsewhere.

        Returns the batch as it is planned now.
        """
        index, missing = crops.index, set(crops.bad)
        while True:
            planned = self.plan.batch(epoch, step)
            missing |= {int(n) for n in np.nonzero(planned.index != index)[0]}
            if not missing:
                return planned
            index, bad = planned.index, dict[int, str]()
            for n in sorted(missing):
                try:
                    crops.images[n] = crop(self.plan, int(index[n]), planned.input_from_source[n])
                except HgfastError as error:
                    bad[int(index[n])] = str(error)
            missing = {n for n in missing if int(index[n]) in bad}
            if bad and not self._waited_for(bad):
                self._leave_out(bad)


def crop(plan: Plan, row: int, input_from_source: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One sample's crop (S, S, 3) uint8. Raises `HgfastError` for a picture that cannot be read."""
    return warp(read_image(plan.samples.paths[row]), input_from_source, plan.size)


def _one_thread() -> None:
    cv2.setNumThreads(0)
