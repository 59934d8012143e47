"""The common part of all loaders: from planned crops to a `Batch`, and the handling of unreadable images."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.config import LoadingConfig
from hgfast.errors import HgfastError
from hgfast.normalization import Normalization, apply_color_affine, color_affine_kernel, normalization_affine
from hgfast.pipelines.batch_plan import BatchPlan, PlannedBatch
from hgfast.training.batch import Batch
from hgfast.training.evaluator import Loader

POLL_SECONDS = 0.5
"""Seconds between checks for a missing folder."""


class PlannedLoader:
    """Base class of loaders that follow a `BatchPlan`.

    `epoch` yields the batches `start`, start + 1, … of an epoch and may be closed early. An image that cannot be read is
    reported on stderr, excluded from the plan and replaced by another. If none is left, their folder is missing, or the loader
    fails otherwise, `epoch` raises `HgfastError`.
    """

    def __init__(
        self, plan: BatchPlan, device: torch.device, normalization: Normalization, options: LoadingConfig | None = None
    ) -> None:
        self.plan, self.device, self.normalization = plan, device, normalization
        self._loading = options or LoadingConfig()
        self._map_colors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = apply_color_affine

    def compile_normalization(self, dtype: torch.dtype) -> None:
        """From now on, map and normalize colors with one compiled kernel, whose images have this type."""
        self._map_colors = torch.compile(partial(color_affine_kernel, dtype=dtype), dynamic=False)

    def __len__(self) -> int:
        return self.plan.steps

    @property
    def num_samples(self) -> int:
        return len(self.plan.samples)

    def _make_batch(self, crops: torch.Tensor, planned: PlannedBatch) -> Batch:
        """Make a batch of (n, S, S, 3) uint8 crops on the device; color and normalization are applied as one affine map."""
        return Batch(
            images=self._map_colors(crops, self._to_device(normalization_affine(planned.color, self.normalization))),
            keypoints=self._to_device(planned.keypoints.astype(np.float32)),
            labeled=self._to_device(planned.labeled),
            index=planned.index,
            is_replacement=planned.is_replacement,
            input_from_source=planned.input_from_source,
            global_batch_size=planned.global_size,
        )

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        """Copy an array to the device, from pinned memory, so that the host does not wait. The largest copy is a batch of
        `OpenCVLoader`, 6 MB for 32 crops of 256 pixels: a fraction of a millisecond, which is not worth a stream of its own."""
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


# ---- folders that are temporarily missing, such as those of a network drive ----


def find_missing_folder(paths: Sequence[str]) -> Path | None:
    """Return the first folder of these files that is missing, cannot be listed, or is empty like an unmounted mount point."""
    return next((folder for folder in dict.fromkeys(Path(path).parent for path in paths) if not _has_entries(folder)), None)


def wait_for_folders(paths: Sequence[str], minutes: float) -> bool:
    """Wait until all folders of these files exist. Returns True if one was missing.

    Raises:
        HgfastError: a folder is still missing after `minutes`.
    """
    folder = find_missing_folder(paths)
    if folder is None:
        return False
    end = time.monotonic() + 60 * minutes
    tqdm.write(f"warning: the folder {folder} is missing or empty; waiting up to {minutes:g} minutes", file=sys.stderr)
    while (missing := find_missing_folder(paths)) is not None:
        if time.monotonic() >= end:
            raise HgfastError(
                f"the folder {missing} has been missing or empty for {minutes:g} minutes (--loading.storage-timeout): "
                "check that its drive is mounted"
            )
        time.sleep(POLL_SECONDS)
    tqdm.write(f"the folder {folder} is back", file=sys.stderr)
    return True


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
