"""Batch planning: which samples form a batch and how each is augmented, computed in numpy for a whole batch.

Every random number comes from a counter-based generator (Philox) keyed by (seed, epoch), and sample i owns row i of it. A batch
therefore depends neither on the number of ranks nor on workers, and a loader's state is (epoch, step). This module opens no
files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.geometry import crop_matrices, transform_points
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton

_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
_RANDOM_COLUMNS = (
    *("rotation", "scale", "shift_x", "shift_y", "flip"),
    *("brightness", "contrast", "saturation", "hue", "replacement"),
)


@dataclass(frozen=True)
class PlannedBatch:
    """One rank's part of a batch of `global_size` samples.

    index: (n,) rows of Samples. is_replacement: (n,) bool, true where the row replaces one whose image cannot be read.
    input_from_source: (n, 3, 3). keypoints: (n, K, 2) input pixels. labeled: (n, K) bool. color: (n, 3, 4) float32 affine maps of
    RGB in [0, 1], see `color_matrices`.
    """

    index: NDArray[np.int64]
    is_replacement: NDArray[np.bool_]
    input_from_source: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    labeled: NDArray[np.bool_]
    color: NDArray[np.float32]
    global_size: int


def flip_probability(skeleton: Skeleton, augment: AugmentConfig) -> float:
    """Return the probability of a horizontal flip, whose default depends on the skeleton."""
    return 0.5 * skeleton.has_flip_pairs if augment.flip is None else augment.flip


class BatchPlan:
    """Plan of batches of nearly equal size: n samples make ceil(n / batch_size) batches, and the last one is not tiny.

    Without `augment`, the samples come in order and unchanged, for evaluation. An excluded sample is replaced by another, which
    takes its position and its augmentation; all other samples stay the same.

    With `equal_sizes`, all batches of all ranks have the same size, as a compiled network is compiled for one: the few samples
    that are left over (fewer than one per batch and rank), others in every epoch, are not used in that epoch.
    """

    def __init__(
        self,
        samples: Samples,
        input_size: int,
        batch_size: int,
        *,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        equal_sizes: bool = False,
    ) -> None:
        if batch_size < world_size:
            raise HgfastError(f"batch_size {batch_size} is less than the {world_size} ranks: every rank needs a sample a step")
        if len(samples) < world_size:
            raise HgfastError(f"{len(samples)} samples cannot be shared among {world_size} ranks: use fewer ranks")
        self.samples, self.input_size, self.augment, self.seed = samples, input_size, augment, seed
        self.rank, self.world_size = rank, world_size
        self.flip_probability = flip_probability(samples.skeleton, augment or AugmentConfig())
        # every rank needs a sample, which nearly equal batches may lack if batch_size is close to world_size
        self.steps = min(math.ceil(len(samples) / batch_size), len(samples) // world_size)
        self._equal_size = len(samples) // self.steps // world_size * world_size if equal_sizes else None  # of a global batch
        self.max_local_batch = math.ceil(
            (self._equal_size or math.ceil(len(samples) / self.steps)) / world_size
        )  # for allocation
        self._usable = np.ones(len(samples), bool)
        self._epoch_cache: dict[int, tuple[NDArray[np.int64], NDArray[np.float64] | None]] = {}

    def exclude(self, rows: Sequence[int]) -> None:
        """Exclude these rows of Samples from all batches from now on. Raises `HgfastError` if none is left."""
        self._usable[list(rows)] = False
        if not self._usable.any():
            raise HgfastError(f"none of the {len(self.samples)} images can be read, the first {self.samples.paths[0]}")

    def is_usable(self, row: int) -> bool:
        """Return True unless this row of Samples is excluded."""
        return bool(self._usable[row])

    def batch(self, epoch: int, step: int) -> PlannedBatch:
        """Return this rank's part of batch `step` (0 <= step < steps) of an epoch."""
        order, uniforms = self._epoch_random(epoch)
        count = len(order) if self._equal_size is None else self.steps * self._equal_size
        global_index = order[count * step // self.steps : count * (step + 1) // self.steps]
        index = global_index[
            len(global_index) * self.rank // self.world_size : len(global_index) * (self.rank + 1) // self.world_size
        ]
        batch_uniforms = uniforms[index] if uniforms is not None else None
        rows = self._replacements(index, batch_uniforms)
        return self._augment(rows, rows != index, batch_uniforms, len(global_index))

    def _replacements(self, index: NDArray[np.int64], uniforms: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """Replace excluded rows by the first usable row from a random row on; without augmentation, from the excluded row on."""
        rows = index.copy()
        column, count = _RANDOM_COLUMNS.index("replacement"), len(self._usable)
        for n in np.nonzero(~self._usable[index])[0]:
            start = int(index[n] if uniforms is None else uniforms[n, column] * count)
            rows[n] = (start + int(np.argmax(np.roll(self._usable, -start)))) % count
        return rows

    def _epoch_random(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        """Return an epoch's order and uniform random numbers; the last two epochs are cached."""
        if epoch not in self._epoch_cache:
            self._epoch_cache = {**dict(list(self._epoch_cache.items())[-1:]), epoch: self._sample_epoch(epoch)}
        return self._epoch_cache[epoch]

    def _sample_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        if self.augment is None:
            return np.arange(len(self.samples)), None
        order, uniform = (np.random.Generator(np.random.Philox(key=[self.seed, 2 * epoch + i])) for i in range(2))
        return order.permutation(len(self.samples)), uniform.random((len(self.samples), len(_RANDOM_COLUMNS)))

    def _augment(
        self, index: NDArray[np.int64], is_replacement: NDArray[np.bool_], uniforms: NDArray[np.float64] | None, total: int
    ) -> PlannedBatch:
        samples, center, side = self.samples, self.samples.center[index], self.samples.side[index]
        labeled, rotation = samples.labeled[index], np.zeros(len(index))
        flip = np.zeros(len(index), bool)
        color = np.tile(np.eye(3, 4, dtype=np.float32), (len(index), 1, 1))
        if self.augment is not None and uniforms is not None:
            a, uniform = self.augment, dict(zip(_RANDOM_COLUMNS, uniforms.T))
            rotation = np.radians(a.rotation) * (2 * uniform["rotation"] - 1)
            flip = uniform["flip"] < self.flip_probability
            center = center + a.shift * side[:, None] * (2 * np.stack([uniform["shift_x"], uniform["shift_y"]], 1) - 1)
            side = side / (a.scale_min + (a.scale_max - a.scale_min) * uniform["scale"])
            color = color_matrices(
                brightness=1 + a.brightness * (2 * uniform["brightness"] - 1),
                contrast=1 + a.contrast * (2 * uniform["contrast"] - 1),
                saturation=1 + a.saturation * (2 * uniform["saturation"] - 1),
                hue=np.radians(a.hue) * (2 * uniform["hue"] - 1),
            )
        matrices = crop_matrices(center, side, self.input_size, rotation=rotation, flip=flip)
        keypoints = transform_points(samples.keypoints[index], matrices)
        swap = np.array(samples.skeleton.flip_indices)
        keypoints = np.where(flip[:, None, None], keypoints[:, swap], keypoints)
        labeled = np.where(flip[:, None], labeled[:, swap], labeled)
        return PlannedBatch(index, is_replacement, matrices, keypoints, labeled, color, total)


def color_matrices(
    brightness: NDArray[np.float64], contrast: NDArray[np.float64], saturation: NDArray[np.float64], hue: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return affine maps (n, 3, 4) of RGB in [0, 1] for (n,) factors and hue angles in radians.

    Hue rotates about the gray axis (Rodrigues' formula), saturation interpolates between the luma (ITU-R BT.601) and the color,
    contrast scales about mid-gray, brightness is a factor on everything.
    """
    gray = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    cos, sin = np.cos(hue)[:, None, None], np.sin(hue)[:, None, None]
    hue_rotation = cos * np.eye(3) + sin * cross + (1 - cos) * gray
    s = saturation[:, None, None]
    linear = (s * np.eye(3) + (1 - s) * _LUMA_WEIGHTS[None, :].repeat(3, 0)) @ hue_rotation
    c, b = contrast[:, None, None], brightness[:, None, None]
    offset = np.broadcast_to(b * (1 - c) * 0.5, (len(hue), 3, 1))
    return np.concatenate([b * c * linear, offset], axis=2).astype(np.float32)
