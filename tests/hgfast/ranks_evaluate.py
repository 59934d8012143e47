"""Run by torchrun in test_evaluate.py: any number of ranks look at two splits, and each writes what all of them found.

ranks_evaluate.py PEOPLE HANDS OUT: ten people and seven hands, which three ranks cannot share evenly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from hgfast import checkpoints, distributed
from hgfast.distributed import Ranks
from hgfast.evaluation import Found, predict
from hgfast.model import PRESETS, Meta, StackedHourglass
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import Skeleton
from pipelines.datasets import open_loader
from pipelines.freihand import read_freihand
from pipelines.mpii import read_mpii
from pipelines.samples import Samples

BATCH = 4


class Exact(nn.Module):
    """Maps (N, 1, K, 16, 16) from numbers that are added and multiplied one by one: the same to the bit in a batch of any size.

    The matrix products of a real network are not.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        self.meta = Meta(skeleton, Preprocessing(), 64, "gaussian", "quarter", 0.0)
        self.weights = torch.rand(len(skeleton.joints), 16, 16, generator=torch.Generator().manual_seed(1))

    def forward(self, images: Tensor) -> Tensor:
        grey = images[:, 0] + images[:, 1] + images[:, 2]
        return (adaptive_avg_pool2d(grey[:, None], 16) * self.weights)[:, None]


def splits(people: Path, hands: Path) -> dict[str, Samples]:
    """Ten people of the validation split, by data set, and seven hands."""
    return {
        "mpii": read_mpii(people, "valid").take(np.arange(10)),
        "freihand": read_freihand(hands, "test").take(np.arange(7)),
    }


def found(samples: Samples, ranks: Ranks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `Exact` and a small network with random weights find."""
    torch.manual_seed(0)
    meta = Meta(samples.skeleton, Preprocessing(), 64, "logits", "quarter", 0.0)
    networks: list[StackedHourglass] = [Exact(samples.skeleton), checkpoints.build(PRESETS["tiny"], meta)]  # type: ignore[list-item]
    loader = open_loader(samples, 64, BATCH, Preprocessing(), ranks, threads=1)
    exact, network = (predict(model, loader, ranks, "off") for model in networks)
    return exact, network


def shuffled(points: NDArray[np.float64], ranks: Ranks) -> NDArray[np.float64]:
    """The same points, of which every rank brings some, in any order; those that a lower rank brings too are wrong."""
    everywhere = [np.random.default_rng(rank).permutation(len(points))[: len(points) * 2 // 3] for rank in range(ranks.world)]
    everywhere[-1] = np.random.default_rng(9).permutation(len(points))  # so that none is missing
    theirs = everywhere[ranks.rank]
    wrong = np.isin(theirs, np.concatenate([np.arange(0), *everywhere[: ranks.rank]]))
    collected = Found(*points.shape[:2])
    for some in np.array_split(np.arange(len(theirs)), 4):
        collected.add(theirs[some], points[theirs[some]] + 1000 * wrong[some, None, None])
    return collected.gather()


def main() -> None:
    people, hands, out = map(Path, sys.argv[1:])
    ranks = distributed.start("cpu")
    results = {}
    for name, samples in splits(people, hands).items():
        results[f"{name} exact"], results[f"{name} network"] = found(samples, ranks)
        results[f"{name} shuffled"] = shuffled(results[f"{name} exact"], ranks)
    np.savez(out / f"{ranks.world}-{ranks.rank}.npz", **results)
    distributed.stop()


if __name__ == "__main__":
    main()
