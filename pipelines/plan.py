"""Order and randomness: which samples make up a batch, and what is done to each, decided in numpy for a whole batch.

Every number comes from a counter-based generator (Philox) keyed by (seed, epoch), in which sample i owns row i. So a
batch depends neither on the number of ranks nor on workers, and a loader's state is (epoch, step).
What may enter: decisions. Nothing here opens a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.geometry import move, square_matrices
from pipelines.samples import Samples

_LUMA = np.array([0.299, 0.587, 0.114])
_DRAWS = ("rotation", "scale", "shift_x", "shift_y", "flip", "brightness", "contrast", "saturation", "hue", "stand_in")


@dataclass(frozen=True)
class PlannedBatch:
    """One rank's share of a batch of `total` samples.

    index: (n,) rows of Samples. stand_in: (n,) bool, true where another row's picture cannot be read.
    input_from_source: (n, 3, 3). keypoints: (n, K, 2) input pixels. labelled: (n, K) bool.
    colour: (n, 3, 4) float32, see hgfast.preprocessing.apply.
    """

    index: NDArray[np.int64]
    stand_in: NDArray[np.bool_]
    input_from_source: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    colour: NDArray[np.float32]
    total: int


class Plan:
    """Batches of nearly equal size, so that no last batch is tiny: n samples make ceil(n / batch_size) of them.

    Without `augment` the samples come in their own order and unchanged: for evaluation. A sample that is left out gives its
    place, and what is done to it there, to another; nothing else changes.
    """

    def __init__(
        self,
        samples: Samples,
        size: int,
        batch_size: int,
        *,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < world:
            raise HgfastError(f"batch_size {batch_size} is less than the {world} ranks: every rank needs a sample a step")
        if len(samples) < world:
            raise HgfastError(f"{len(samples)} samples cannot be shared among {world} ranks: use fewer ranks")
        self.samples, self.size, self.augment, self.seed = samples, size, augment, seed
        self.rank, self.world = rank, world
        self.flip = 0.5 * samples.skeleton.has_sides if augment is None or augment.flip is None else augment.flip
        # ranks need a sample each, which nearly equal batches may miss where batch_size is close to world
        self.steps = min(math.ceil(len(samples) / batch_size), len(samples) // world)
        self.largest = math.ceil(math.ceil(len(samples) / self.steps) / world)  # of this rank's shares, for allocation
        self._usable = np.ones(len(samples), bool)
        self._drawn: dict[int, tuple[NDArray[np.int64], NDArray[np.float64] | None]] = {}

    def leave_out(self, rows: Sequence[int]) -> None:
        """Never ask for these rows of Samples again. Raises `HgfastError` where none are left."""
        self._usable[list(rows)] = False
        if not self._usable.any():
            raise HgfastError(f"none of the {len(self.samples)} pictures can be read, the first {self.samples.paths[0]}")

    def usable(self, row: int) -> bool:
        """Has this row of Samples not been left out?"""
        return bool(self._usable[row])

    def batch(self, epoch: int, step: int) -> PlannedBatch:
        """This rank's share of batch `step` (0 <= step < steps) of an epoch."""
        order, draws = self._draws(epoch)
        count = len(order)
        whole = order[count * step // self.steps : count * (step + 1) // self.steps]
        index = whole[len(whole) * self.rank // self.world : len(whole) * (self.rank + 1) // self.world]
        drawn = draws[index] if draws is not None else None
        shown = self._stand_ins(index, drawn)
        return self._augmented(shown, shown != index, drawn, len(whole))

    def _stand_ins(self, index: NDArray[np.int64], draws: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """For rows that are left out others: the first usable one from a drawn row on, or, not augmented, from their own."""
        shown = index.copy()
        for place in np.nonzero(~self._usable[index])[0]:
            start = int(index[place] if draws is None else draws[place, _DRAWS.index("stand_in")] * len(self._usable))
            shown[place] = (start + int(np.argmax(np.roll(self._usable, -start)))) % len(self._usable)
        return shown

    def _draws(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        """An epoch's order and numbers; the last two epochs' are kept."""
        if epoch not in self._drawn:
            self._drawn = {**dict(list(self._drawn.items())[-1:]), epoch: self._draw_epoch(epoch)}
        return self._drawn[epoch]

    def _draw_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        if self.augment is None:
            return np.arange(len(self.samples)), None
        order, draws = (np.random.Generator(np.random.Philox(key=[self.seed, 2 * epoch + i])) for i in range(2))
        return order.permutation(len(self.samples)), draws.random((len(self.samples), len(_DRAWS)))

    def _augmented(
        self, index: NDArray[np.int64], stand_in: NDArray[np.bool_], draws: NDArray[np.float64] | None, total: int
    ) -> PlannedBatch:
        samples, centre, side = self.samples, self.samples.centre[index], self.samples.side[index]
        labelled, rotation = samples.labelled[index], np.zeros(len(index))
        flip = np.zeros(len(index), bool)
        colour = np.tile(np.eye(3, 4, dtype=np.float32), (len(index), 1, 1))
        if self.augment is not None and draws is not None:
            a, draw = self.augment, dict(zip(_DRAWS, draws.T))
            rotation = np.radians(a.rotation) * (2 * draw["rotation"] - 1)
            flip = draw["flip"] < self.flip
            centre = centre + a.shift * side[:, None] * (2 * np.stack([draw["shift_x"], draw["shift_y"]], 1) - 1)
            side = side / (a.scale_min + (a.scale_max - a.scale_min) * draw["scale"])
            colour = colour_matrices(
                brightness=1 + a.brightness * (2 * draw["brightness"] - 1),
                contrast=1 + a.contrast * (2 * draw["contrast"] - 1),
                saturation=1 + a.saturation * (2 * draw["saturation"] - 1),
                hue=np.radians(a.hue) * (2 * draw["hue"] - 1),
            )
        matrices = square_matrices(centre, side, self.size, rotation=rotation, flip=flip)
        keypoints = move(samples.keypoints[index], matrices)
        swap = np.array(samples.skeleton.swap)
        keypoints = np.where(flip[:, None, None], keypoints[:, swap], keypoints)
        labelled = np.where(flip[:, None], labelled[:, swap], labelled)
        return PlannedBatch(index, stand_in, matrices, keypoints, labelled, colour, total)


def colour_matrices(
    brightness: NDArray[np.float64], contrast: NDArray[np.float64], saturation: NDArray[np.float64], hue: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(n,) factors and hue angles in radians -> (n, 3, 4) affine maps of RGB in [0, 1].

    Hue turns about the grey axis (Rodrigues' formula), saturation moves towards or from the luma (ITU-R BT.601),
    contrast about mid-grey, brightness is a factor on everything.
    """
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    cos, sin = np.cos(hue)[:, None, None], np.sin(hue)[:, None, None]
    turn = cos * np.eye(3) + sin * cross + (1 - cos) * grey
    s = saturation[:, None, None]
    linear = (s * np.eye(3) + (1 - s) * _LUMA[None, :].repeat(3, 0)) @ turn
    c, b = contrast[:, None, None], brightness[:, None, None]
    offset = np.broadcast_to(b * (1 - c) * 0.5, (len(hue), 3, 1))
    return np.concatenate([b * c * linear, offset], axis=2).astype(np.float32)
