"""The data sets by name: their samples, loaders and metrics. What differs between them is in the `DataSet` of their reader."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig, Config, DataConfig, DatasetName, InferenceConfig, LoadingConfig
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.checks.result import exclude_bad_images
from hgfast.pipelines.loaders.base import FixedLoader
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.loaders.self_test import ensure_tested
from hgfast.pipelines.readers.base import DataSet
from hgfast.pipelines.samples import Samples
from hgfast.system_info import available_cores
from hgfast.training.amp import AMP_DTYPES, resolve_amp
from hgfast.training.distributed import Ranks
from hgfast.training.evaluator import Loader, count_non_finite, has_prediction

DATASETS: Mapping[str, DataSet] = {
    name: import_module(f"hgfast.pipelines.readers.{name}").DATASET for name in get_args(DatasetName)
}


def open_samples(choice: DataConfig, split: str) -> Samples:
    """Read one split of a data set. Raises `HgfastError` if it is missing or broken."""
    return DATASETS[choice.dataset].read(choice, split)


def usable_samples(choice: DataConfig, split: str) -> Samples:
    """Return `open_samples` without the images that `hgfast check` found to be bad, if it has been run."""
    return exclude_bad_images(open_samples(choice, split), choice)


def figures(dataset: str, samples: Samples, keypoints: NDArray[np.float64]) -> dict[str, float]:
    """Return the metric table of predictions (N, K, 2) in source pixels, as `hgfast.training.evaluator.predict` returns them.

    Samples without a prediction, because their image is missing, are left out. If some points are not finite, "not_finite" is
    their number: they count as misses in every fraction, and EPE leaves them out.
    """
    predicted = has_prediction(keypoints)
    table = DATASETS[dataset].metrics(samples.take(predicted), keypoints[predicted])
    num_not_finite = count_non_finite(keypoints[predicted])
    return {**table, "not_finite": num_not_finite} if num_not_finite else table


def input_files(choice: DataConfig) -> list[tuple[str, Path]]:
    """Return descriptions and paths of a data set's files other than images, whether or not they exist."""
    named_files = {
        "--annotations": choice.annotations,
        "--valid-annotations": choice.valid_annotations,
        "--skeleton": choice.skeleton,
        "--checked": choice.checked,
    }
    files = [(f"what {flag} names", path) for flag, path in named_files.items() if path is not None]
    if choice.data is not None:
        files += [("a file of the data set", choice.data / name) for name in DATASETS[choice.dataset].files]
    return files


def open_loader(
    samples: Samples,
    input_size: int,
    normalization: Normalization,
    ranks: Ranks,
    config: Config | InferenceConfig,
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
) -> Loader:
    """Return a loader of this rank's part of each batch, with the batch size, loader and threads of `config`.

    With `augment`, samples are augmented and in random order; otherwise every sample comes once, unchanged and in order. The
    loader "fixed" repeats DALI's first batch. On a GPU, DALI is tested before its first use on this machine, and the images for
    a compiled network are normalized in one kernel to its precision.
    """
    compiled = augment is not None and isinstance(config, Config) and config.train.compile != "off"
    plan = BatchPlan(
        samples,
        input_size,
        config.batch_size,
        augment=augment,
        seed=seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        equal_sizes=compiled,
    )
    threads = config.threads or max(1, available_cores() // ranks.local_world_size)
    loading = config.loading if isinstance(config, Config) else LoadingConfig()
    on_gpu = ranks.device.type == "cuda"
    loader: DaliLoader | OpenCVLoader
    if config.loader == "opencv":
        loader = OpenCVLoader(plan, ranks.device, threads, normalization, options=loading)
    else:
        if on_gpu:
            ensure_tested(ranks.device, loading)
        loader = DaliLoader(plan, ranks.device, threads, normalization, options=loading)
    if isinstance(config, Config) and compiled and on_gpu:
        loader.compile_normalization(AMP_DTYPES[resolve_amp(config.train.amp, ranks.device)])
    return FixedLoader(loader) if config.loader == "fixed" else loader
