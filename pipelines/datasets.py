"""The data sets by name, a loader for one split and its table of figures: the only place that knows which data sets exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig, DataChoice
from hgfast.distributed import Ranks
from hgfast.errors import HgfastError
from hgfast.machine import cores
from hgfast.metrics import body_table, hand_table
from hgfast.preprocessing import Preprocessing
from pipelines import freihand, mpii
from pipelines.dali import DaliLoader
from pipelines.plan import Plan
from pipelines.samples import Samples

Figures = dict[str, float]


@dataclass(frozen=True)
class DataSet:
    """What sets a data set apart.

    read: root, split, the choices -> Samples. where_from: how to get the files into {root}. table: predictions (N, K, 2) in
    source pixels -> figures. best: the one that picks best.pt, higher is better. held_out: the split to evaluate on.
    note: what the figures mean.
    """

    read: Callable[[Path, str, DataChoice], Samples]
    where_from: str
    table: Callable[[Samples, NDArray[np.float64]], Figures]
    best: str
    held_out: str
    note: str


DATASETS = {
    "freihand": DataSet(
        read=lambda root, split, choice: freihand.read_freihand(root, split, choice.versions, choice.skip_missing),
        where_from=freihand.WHERE_FROM,
        table=lambda s, found: hand_table(found, s.keypoints, s.labelled, s.reference),
        best="auc_0_30px",
        held_out="test",
        note="PCK: of the longer side of the hand's box; AUC, EPE: source pixels",
    ),
    "mpii": DataSet(
        read=lambda root, split, choice: mpii.read_mpii(root, split, choice.skip_missing),
        where_from=mpii.WHERE_FROM,
        table=lambda s, found: body_table(found, s.keypoints, s.labelled, s.reference, s.skeleton),
        best="pckh@0.5",
        held_out="valid",
        note="PCKh in percent by the official rule, groups at 0.5 of the head; pelvis and thorax do not count; AUC: 0 to 0.5",
    ),
}


def open_samples(choice: DataChoice, split: str) -> Samples:
    """One split of a data set. Raises `HgfastError` where it is not there or broken."""
    dataset = DATASETS[choice.dataset]
    if choice.data is None:
        raise HgfastError(
            f"--data DIR is missing: the folder of the {choice.dataset} files; {dataset.where_from.format(root='DIR')}"
        )
    return dataset.read(choice.data, split, choice)


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
