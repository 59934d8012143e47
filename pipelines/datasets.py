"""The data sets by name, and a loader for one split of them: the only place that knows which data sets exist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hgfast.config import AugmentConfig
from hgfast.distributed import Ranks
from hgfast.errors import HgfastError
from hgfast.preprocessing import Preprocessing
from pipelines.dali import DaliLoader
from pipelines.freihand import read_freihand
from pipelines.plan import Plan
from pipelines.samples import Samples


def open_samples(dataset: str, data: Path | None, split: str, versions: Sequence[str]) -> Samples:
    """One split of a data set. Raises `HgfastError` where it is not there or broken."""
    if data is None:
        raise HgfastError(f"--data DIR is missing: the folder that holds the {dataset} files")
    if not data.is_dir():
        raise HgfastError(f"no folder at {data}: --data is the root of the {dataset} files")
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
    threads = threads or max(1, (os.cpu_count() or 1) // ranks.local_world)
    return DaliLoader(plan, ranks.device, threads, preprocessing)
