"""Crops of the user's own images, for calibration and accuracy checks, read by the same loader as in training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.config import InferenceConfig, LoaderName
from hgfast.normalization import UNNORMALIZED, Normalization, to_float32, to_uint8
from hgfast.pipelines.datasets import open_loader
from hgfast.pipelines.samples import Samples
from hgfast.training.distributed import Ranks, select_device


def load_crops(
    samples: Samples,
    size: int,
    normalization: Normalization | None = None,
    threads: int | None = None,
    loader_name: LoaderName = "dali",
) -> NDArray[Any]:
    """Return the samples' crops as an artifact takes them: (n, S, S, 3) uint8, or, with `normalization`, (n, 3, S, S) float32."""
    config = InferenceConfig(batch_size=min(16, len(samples)), loader=loader_name, threads=threads)
    loader = open_loader(samples, size, normalization or UNNORMALIZED, Ranks.single(select_device("cpu")), config)
    convert = to_uint8 if normalization is None else to_float32
    return np.concatenate([convert(batch.images)[~batch.is_replacement] for batch in loader.epoch(0)])


def evenly_spaced(samples: Samples, count: int) -> Samples:
    """Return `count` samples, evenly spaced from the first to the last, or all samples if there are fewer."""
    return samples.take(np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)))
