"""The plain loader: OpenCV in the worker processes of a torch DataLoader, from the same plan to the same batches.

It runs where DALI does not, and is the independent witness that DALI does what is planned.
What may enter: reading and warping with OpenCV.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hgfast.batch import Batch
from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.geometry import warp
from hgfast.preprocessing import Preprocessing
from pipelines.loading import PlannedLoader
from pipelines.plan import Plan, PlannedBatch


@dataclass(frozen=True)
class Crops:
    """What a worker makes of a step: crops (n, S, S, 3) uint8 of rows `index` (n,), and what was wrong with some places."""

    images: NDArray[np.uint8]
    index: NDArray[np.int64]
    bad: dict[int, str]


class Steps(Dataset[Crops]):
    """A plan's steps by (epoch, step), for worker processes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __getitem__(self, place: tuple[int, int]) -> Crops:
        planned = self.plan.batch(*place)
        images = np.zeros((len(planned.index), self.plan.size, self.plan.size, 3), np.uint8)
        bad: dict[int, str] = {}
        for n, row in enumerate(planned.index):
            try:
                images[n] = crop(self.plan, int(row), planned.input_from_source[n])
            except HgfastError as error:
                bad[n] = str(error)
        return Crops(images, planned.index, bad)


class TorchLoader(PlannedLoader):
    """Yields the batches of a `Plan`, each made whole by one worker process.

    Args:
        plan, device, preprocessing: as `PlannedLoader`.
        workers: processes; 0 does the work in this one.
    """

    def __init__(self, plan: Plan, device: torch.device, workers: int, preprocessing: Preprocessing) -> None:
        super().__init__(plan, device, preprocessing)
        self._places: list[tuple[int, int]] = []
        self._workers: DataLoader[Crops] = DataLoader(
            Steps(plan),
            batch_size=None,
            sampler=_Sampler(self._places),
            num_workers=workers,
            multiprocessing_context=_context() if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
            collate_fn=_as_is,  # type: ignore[arg-type]  # with batch_size None it gets one item
        )

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches `start`, start + 1, … of an epoch. Leaving early is fine.

        A picture that cannot be read is named on stderr, and another takes its place.

        Raises:
            HgfastError: no picture is left.
        """
        self._places[:] = [(epoch, step) for step in range(start, self.plan.steps)]
        for step, crops in enumerate(self._workers, start):
            planned = self._repair(crops, epoch, step)
            yield self._finish(self._to_device(crops.images), planned)

    def _repair(self, crops: Crops, epoch: int, step: int) -> PlannedBatch:
        """Put others in the place of pictures that could not be read, here or, before this worker knew of it, elsewhere.

        Returns the batch as it is planned now.
        """
        bad = dict(crops.bad)
        index = crops.index.copy()
        while True:
            news = {int(index[n]): reason for n, reason in bad.items() if self.plan.usable(int(index[n]))}
            if news:
                self._leave_out(news)
            planned, bad = self.plan.batch(epoch, step), {}
            for n in np.nonzero(planned.index != index)[0]:
                try:
                    crops.images[n] = crop(self.plan, int(planned.index[n]), planned.input_from_source[n])
                except HgfastError as error:
                    bad[int(n)] = str(error)
            index = planned.index
            if not bad:
                return planned


def crop(plan: Plan, row: int, input_from_source: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One sample's crop (S, S, 3) uint8. Raises `HgfastError` for a picture that cannot be read."""
    return warp(read_image(plan.samples.paths[row]), input_from_source, plan.size)


class _Sampler:
    """The places of the epoch that comes, as the loader has set them."""

    def __init__(self, places: list[tuple[int, int]]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(self._places))

    def __len__(self) -> int:
        return len(self._places)


def _context() -> BaseContext:
    """Workers that do not inherit this process's threads: a fork in the midst of one's work may hang for ever."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def _as_is(crops: Crops) -> Crops:
    return crops
