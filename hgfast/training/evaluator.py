"""Evaluation of a network on a whole split: predictions in source pixels, one per sample, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.geometry import transform_points
from hgfast.model import StackedHourglass
from hgfast.normalization import UNNORMALIZED, Normalization, to_float32, to_uint8
from hgfast.runtime.sidecar import Sidecar
from hgfast.runtime.torch_predictor import decode_keypoints, forward_heatmaps, no_tf32
from hgfast.skeletons import Skeleton
from hgfast.training.amp import AmpMode, autocast
from hgfast.training.batch import Batch
from hgfast.training.distributed import Ranks, all_gather


class Loader(Protocol):
    """Interface of all loaders; `num_samples` is the number of samples over all ranks, `len` the number of batches."""

    @property
    def num_samples(self) -> int: ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]: ...


class PredictionCollector:
    """Collects the keypoints of a split's samples batch by batch; the first prediction of a sample counts.

    Samples may repeat, to fill the last batch or a rank's share, and come in any order. A point that is not finite becomes
    infinite in x and y: NaN marks samples without a prediction.
    """

    def __init__(self, num_samples: int, num_joints: int) -> None:
        self._keypoints = np.full((num_samples, num_joints, 2), np.nan)
        self._collected = np.zeros(num_samples, bool)

    def add(self, index: NDArray[np.int64], points: NDArray[np.float64]) -> None:
        """Add points (n, K, 2) of the samples `index` (n,) that have no prediction yet."""
        rows, first = np.unique(index, return_index=True)
        new = ~self._collected[rows]
        finite = np.isfinite(points).all(-1, keepdims=True)
        self._keypoints[rows[new]] = np.where(finite, points, np.inf)[first[new]]
        self._collected[rows] = True

    def all_gather(self) -> NDArray[np.float64]:
        """Return every sample's points (N, K, 2) on every rank. All ranks must call it.

        NaN marks samples without a prediction (`has_prediction`), infinity points that are not finite. If several ranks have a
        sample, the lowest rank's points count.
        """
        rows = np.flatnonzero(self._collected)
        index, points = all_gather(torch.from_numpy(rows)), all_gather(torch.from_numpy(self._keypoints[rows]))
        merged = PredictionCollector(*self._keypoints.shape[:2])
        merged.add(index.numpy(), points.numpy())
        return merged._keypoints


def has_prediction(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which samples (N,) have a prediction in `predict`'s result (N, K, 2)."""
    return np.asarray(~np.isnan(points).all(axis=(1, 2)), np.bool_)


def count_non_finite(points: NDArray[np.float64]) -> int:
    """Count the joints in (N, K, 2) whose point is not finite."""
    return int((~np.isfinite(points).all(-1)).sum())


def check_joints(checkpoint: Path, predicted: Skeleton, expected: Skeleton, data_name: str, advice: str) -> None:
    """Raise `HgfastError`, with `advice`, if a network's joints differ from those of the data, called `data_name`."""
    if predicted.joints == expected.joints:
        return
    if predicted.is_anonymous and len(predicted.joints) == len(expected.joints):
        raise HgfastError(
            f"{checkpoint} predicts {len(predicted.joints)} joints that have no names: if they are in the order of {data_name}, "
            f"name them with 'hgfast convert {checkpoint} OUT --joints [{','.join(expected.joints)}]' and use OUT"
        )
    raise HgfastError(f"{checkpoint} predicts {predicted.name}, {data_name} are {expected.name}: {advice}")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode inside the block and restore every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.inference_mode()
def predict(
    model: StackedHourglass, loader: Loader, ranks: Ranks, amp: AmpMode, desc: str = "validate", flip_test: bool = False
) -> NDArray[np.float64]:
    """Predict a split's keypoints as `collect_predictions` returns them. Leaves the model, including its mode, unchanged."""

    def predict_batch(batch: Batch) -> NDArray[np.float64]:
        with no_tf32(), autocast(amp, ranks.device):
            heatmaps = forward_heatmaps(model, batch.images, flip_test)
        return decode_keypoints(model, heatmaps).cpu().double().numpy()

    meta = model.meta
    with eval_mode(model):
        return collect_predictions(predict_batch, len(meta.skeleton.joints), meta.shift, loader, ranks, desc)


def collect_predictions(
    predict_batch: Callable[[Batch], NDArray[np.floating]], joints: int, shift: float, loader: Loader, ranks: Ranks, label: str
) -> NDArray[np.float64]:
    """Return keypoints (N, K, 2) in source pixels, row i for sample i, on every rank.

    Rows whose image cannot be read are NaN (`has_prediction`). Joints whose point or score is not finite are infinite.

    Args:
        predict_batch: maps a batch of n samples to (n, K, 3): x, y in input pixels and score.
        joints: K.
        shift: source pixels to add to the points (`hgfast.model.Meta`).
        label: text of the progress bar.
    """
    collector = PredictionCollector(loader.num_samples, joints)
    for batch in tqdm(loader.epoch(0), total=len(loader), desc=label, disable=None if ranks.is_main else True, leave=False):
        decoded = np.asarray(predict_batch(batch), np.float64)
        points = np.where(np.isfinite(decoded).all(-1, keepdims=True), decoded[..., :2], np.nan)
        source_keypoints = transform_points(points, np.linalg.inv(batch.input_from_source)) + shift
        collector.add(batch.index[~batch.is_replacement], source_keypoints[~batch.is_replacement])
    return collector.all_gather()


def input_adapter(sidecar: Sidecar) -> tuple[Normalization, Callable[[Batch], NDArray[Any]]]:
    """Return the loader's normalization for an exported network, and a function from batches to the network's input."""
    if sidecar.normalized:
        return Normalization(sidecar.mean, sidecar.std), lambda batch: to_float32(batch.images)
    return UNNORMALIZED, lambda batch: to_uint8(batch.images)
