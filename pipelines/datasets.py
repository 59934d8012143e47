"""The data sets by name, a loader for one split and its table of figures: the only place that knows which data sets exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.distributed import Ranks
from hgfast.errors import HgfastError
from hgfast.machine import cores
from hgfast.metrics import hand_table
from hgfast.preprocessing import Preprocessing
from pipelines.dali import DaliLoader
from pipelines.freihand import WHERE_FROM, read_freihand
from pipelines.plan import Plan
from pipelines.samples import Samples


def open_samples(dataset: str, data: Path | None, split: str, versions: Sequence[str]) -> Samples:
    """One split of a data set. Raises `HgfastError` where it is not there or broken."""
    if data is None:
        raise HgfastError(f"--data DIR is missing: the folder of the {dataset} files; {WHERE_FROM.format(root='DIR')}")
    return read_freihand(data, split, versions)


def open_loader(
    samples: Samples,
    size: int,
    batch_size: int,
    preprocessing: Preprocessing,
    ranks: Ranks,
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> DaliLoader:
    """Batches of this rank's share; augmented and in random order with `augment`, else as they are, each exactly once."""
    plan = Plan(samples, size, batch_size, augment=augment, seed=seed, rank=ranks.rank, world=ranks.world)
    threads = threads or max(1, cores() // ranks.local_world)
    return DaliLoader(plan, ranks.device, threads, preprocessing)


def score(samples: Samples, keypoints: NDArray[np.float64]) -> dict[str, float]:
    """The table of figures of (N, K, 2) predictions in source pixels, one row a sample and in their order."""
    return hand_table(keypoints, samples.keypoints, samples.labelled, samples.reference)
