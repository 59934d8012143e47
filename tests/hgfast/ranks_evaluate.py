"""Run by torchrun in test_evaluate.py: any number of ranks predict two splits, and each writes the gathered predictions.

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

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.config import InferenceConfig
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.pipelines.datasets import open_loader
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton
from hgfast.training import distributed
from hgfast.training.distributed import Ranks
from hgfast.training.evaluator import PredictionCollector, predict

BATCH = 4


class BitExactModel(nn.Module):
    """Returns maps (N, 1, K, 16, 16) from element-wise operations: bit-identical in batches of any size.

    The matrix products of a real network are not.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        self.meta = Meta(skeleton, Normalization(), 64, "gaussian", "quarter", 0.0)
        self.weights = torch.rand(len(skeleton.joints), 16, 16, generator=torch.Generator().manual_seed(1))

    def forward(self, images: Tensor) -> Tensor:
        gray = images[:, 0] + images[:, 1] + images[:, 2]
        return (adaptive_avg_pool2d(gray[:, None], 16) * self.weights)[:, None]


def load_splits(people: Path, hands: Path) -> dict[str, Samples]:
    """Return ten people of the validation split and seven hands, by data set."""
    return {
        "mpii": read_mpii(people, "valid").take(np.arange(10)),
        "freihand": read_freihand(hands, "test").take(np.arange(7)),
    }


def predict_both(samples: Samples, ranks: Ranks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the predictions of `BitExactModel` and of a small network with random weights."""
    torch.manual_seed(0)
    meta = Meta(samples.skeleton, Normalization(), 64, "logits", "quarter", 0.0)
    networks: list[StackedHourglass] = [BitExactModel(samples.skeleton), checkpoints.build_model(PRESETS["tiny"], meta)]  # type: ignore[list-item]
    loader = open_loader(samples, 64, Normalization(), ranks, InferenceConfig(batch_size=BATCH, threads=1))
    exact, network = (predict(model, loader, ranks, "off") for model in networks)
    return exact, network


def gather_shuffled(points: NDArray[np.float64], ranks: Ranks) -> NDArray[np.float64]:
    """Gather the points from ranks that add overlapping subsets in any order; points that a lower rank also adds are wrong."""
    subsets = [np.random.default_rng(rank).permutation(len(points))[: len(points) * 2 // 3] for rank in range(ranks.world_size)]
    subsets[-1] = np.random.default_rng(9).permutation(len(points))  # so that none is missing
    rows = subsets[ranks.rank]
    wrong = np.isin(rows, np.concatenate([np.arange(0), *subsets[: ranks.rank]]))
    collector = PredictionCollector(*points.shape[:2])
    for part in np.array_split(np.arange(len(rows)), 4):
        collector.add(rows[part], points[rows[part]] + 1000 * wrong[part, None, None])
    return collector.all_gather()


def main() -> None:
    people, hands, out = map(Path, sys.argv[1:])
    ranks = distributed.init_distributed("cpu")
    results = {}
    for name, samples in load_splits(people, hands).items():
        results[f"{name} exact"], results[f"{name} network"] = predict_both(samples, ranks)
        results[f"{name} shuffled"] = gather_shuffled(results[f"{name} exact"], ranks)
    np.savez(out / f"{ranks.world_size}-{ranks.rank}.npz", **results)
    distributed.cleanup()


if __name__ == "__main__":
    main()
