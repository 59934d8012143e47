"""A network over a whole split: predictions in source pixels, every sample's once, whichever rank looked at it.

What may enter: running a network without training it, and collecting what it says. Loaders and data sets come in from outside.
"""

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

from hgfast.batch import Batch
from hgfast.distributed import Ranks, gather
from hgfast.errors import HgfastError
from hgfast.foreign import is_nameless
from hgfast.geometry import move
from hgfast.inference import keypoints_of, last_heatmaps
from hgfast.model import StackedHourglass
from hgfast.precision import Amp, autocast
from hgfast.preprocessing import RAW, Preprocessing, as_bytes, as_floats
from hgfast.sidecar import Sidecar
from hgfast.skeletons import Skeleton


class Loader(Protocol):
    """What every loader offers; `count` is the number of samples in its plan, over all ranks."""

    @property
    def count(self) -> int: ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]: ...


class Found:
    """The keypoints of a split's samples, collected batch by batch. Each sample counts once: what is found first stays.

    So it does no harm if samples come again, to fill a last batch or a rank's share, nor in which order they come. A point that
    is not finite becomes infinite in x and y: NaN is left for samples that nobody looked at.

    Args:
        count: samples N in the split, over all ranks.
        joints: keypoints K of each.
    """

    def __init__(self, count: int, joints: int) -> None:
        self._points = np.full((count, joints, 2), np.nan)
        self._there = np.zeros(count, bool)

    def add(self, index: NDArray[np.int64], points: NDArray[np.float64]) -> None:
        """Keep points (n, K, 2) of those of the samples `index` (n,) that are not there yet."""
        rows, first = np.unique(index, return_index=True)
        new = ~self._there[rows]
        finite = np.isfinite(points).all(-1, keepdims=True)
        self._points[rows[new]] = np.where(finite, points, np.inf)[first[new]]
        self._there[rows] = True

    def gather(self) -> NDArray[np.float64]:
        """Every sample's points (N, K, 2), on every rank; NaN where no rank has any (`seen`), infinite where a point is not
        finite. Where several have a sample, the lowest one's.

        All ranks must call it.
        """
        rows = np.flatnonzero(self._there)
        index, points = gather(torch.from_numpy(rows)), gather(torch.from_numpy(self._points[rows]))
        whole = Found(*self._points.shape[:2])
        whole.add(index.numpy(), points.numpy())
        return whole._points


def seen(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which samples (N,) a network has looked at, of the (N, K, 2) that `predict` gives."""
    return np.asarray(~np.isnan(points).all(axis=(1, 2)), np.bool_)


def not_finite(points: NDArray[np.float64]) -> int:
    """How many joints of (N, K, 2) have a point that is not finite."""
    return int((~np.isfinite(points).all(-1)).sum())


def check_joints(checkpoint: Path, network: Skeleton, data: Skeleton, where: str, advice: str) -> None:
    """Refuse a network of other joints than the data's, which are said to be `where`. Raises `HgfastError`, with `advice`."""
    if network.joints == data.joints:
        return
    if is_nameless(network) and len(network.joints) == len(data.joints):
        raise HgfastError(
            f"{checkpoint} predicts {len(network.joints)} joints that have no names: if they are in the order of {where}, name "
            f"them with 'python hgfast/checkpoints.py convert {checkpoint} OUT --joints [{','.join(data.joints)}]' and give OUT"
        )
    raise HgfastError(f"{checkpoint} predicts {network.name}, {where} are {data.name}: {advice}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, in which BatchNorm's running statistics do not move; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.inference_mode()
def predict(
    model: StackedHourglass,
    loader: Loader,
    ranks: Ranks,
    amp: Amp,
    label: str = "validate",
    flip_test: bool = False,
) -> NDArray[np.float64]:
    """A network's keypoints of a split, as `predict_with` gives them. Leaves the model as it was, its mode included."""

    def find(batch: Batch) -> NDArray[np.float64]:
        with autocast(amp, ranks.device):
            heatmaps = last_heatmaps(model, batch.images, flip_test)
        return keypoints_of(model, heatmaps).cpu().double().numpy()

    meta = model.meta
    with evaluating(model):
        return predict_with(find, len(meta.skeleton.joints), meta.shift, loader, ranks, label)


def predict_with(
    find: Callable[[Batch], NDArray[np.floating]], joints: int, shift: float, loader: Loader, ranks: Ranks, label: str
) -> NDArray[np.float64]:
    """Keypoints (N, K, 2) in source pixels, row i being sample i, on every rank.

    Rows whose picture cannot be read are NaN (`seen`). Of the others, joints whose point or score is not finite are infinite.

    Args:
        find: a batch of n samples -> (n, K, 3) x, y in input pixels and score.
        joints: K.
        shift: source pixels to be added to the points (`hgfast.model.Meta`).
    """
    found = Found(loader.count, joints)
    for batch in tqdm(loader.epoch(0), total=len(loader), desc=label, disable=None if ranks.first else True, leave=False):
        decoded = np.asarray(find(batch), np.float64)
        points = np.where(np.isfinite(decoded).all(-1, keepdims=True), decoded[..., :2], np.nan)
        source = move(points, np.linalg.inv(batch.input_from_source)) + shift
        found.add(batch.index[~batch.stand_in], source[~batch.stand_in])
    return found.gather()


def feed(sidecar: Sidecar) -> tuple[Preprocessing, Callable[[Batch], NDArray[Any]]]:
    """What a loader must be opened with for an exported network, and how its batches become the images that it takes."""
    if sidecar.normalised:
        return Preprocessing(sidecar.mean, sidecar.std), lambda batch: as_floats(batch.images)
    return RAW, lambda batch: as_bytes(batch.images)
