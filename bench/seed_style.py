"""A loader in the manner of the code hgfast starts from, princeton-vl/pytorch_stacked_hourglass and its FreiHAND fork.

One Python call a sample does everything, on the CPU: decode the whole picture, copy the person's square into a double
precision array, resize it, move the joints one by one, warp a second time, change the colours of the mirrored half in HSV,
draw the heatmaps joint by joint; a torch DataLoader collates. Written for comparison; coordinates are those of `Samples`,
half pixels are not cared for, as there. It reads with Pillow, as imageio does there. Where that code is
slower for no reason of its own, this is not: hands, which are small, stay in bytes until they are warped. All else costs what
it costs there, give or take a twentieth.
What may enter: that way of loading, in all its costs; nothing that makes it faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipelines.samples import Samples

CELLS = 64  # side of a heatmap
SIGMA = 1.0  # of its Gaussians, cells
ROTATION = 30.0  # degrees, plus or minus
SCALES = (0.75, 1.25)
HUE, BRIGHTNESS = 72.0, 0.3  # degrees and shares of white, plus or minus
FACTORS = (0.5, 1.5)  # of saturation and of contrast

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Picture = NDArray[np.uint8] | NDArray[np.float64]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """A sample before its heatmaps: picture (S, S, 3) in [0, 255], points (K, 2) in its pixels, labelled (K,) bool; chosen:
    one of the half whose colours are changed and, where the skeleton has sides, that is mirrored."""

    picture: Picture
    points: Points
    labelled: NDArray[np.bool_]
    chosen: bool = False


class SeedStyle(Dataset[tuple[Floats, Floats]]):
    """Samples one at a time: pictures (S, S, 3) float32 in [0, 1] and heatmaps (K, 64, 64) float32.

    Args:
        samples: of any data set.
        size: side of the pictures.
        whole: open with PIL and resize the whole picture, as for hands; else decode and crop the square.
        augmented: scale, rotation, mirroring and colours as for people.
    """

    def __init__(self, samples: Samples, size: int, *, whole: bool, augmented: bool, seed: int = 0) -> None:
        self._samples, self._size, self._whole, self._augmented = samples, size, whole, augmented
        self._swap = np.array(samples.skeleton.swap)
        self._sides = samples.skeleton.has_sides
        self._rng = np.random.default_rng(seed)
        self._stamp = stamp(SIGMA)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[Floats, Floats]:
        example = self.example(row)
        values = np.asarray(example.picture.astype(np.float32) / 255, np.float32)
        if example.chosen:
            values = jitter(values, self._rng)
        return values, targets(example.points * (CELLS / self._size), example.labelled, self._stamp)

    def example(self, row: int) -> Example:
        """One sample, cropped and, if so wanted, augmented."""
        samples = self._samples
        path, points, labelled = str(samples.paths[row]), samples.keypoints[row], samples.labelled[row]
        if self._whole:
            example = Example(*open_whole(path, points, self._size), labelled)
        else:
            with Image.open(path) as file:
                decoded = np.array(file.convert("RGB"), np.uint8)
            square = samples.centre[row], float(samples.side[row])
            example = Example(*cut(decoded, points, *square, self._size), labelled)
        return self._change(example) if self._augmented else example

    def _change(self, example: Example) -> Example:
        """Scale and rotate about the middle with a second warp, and mirror the chosen half."""
        rng, size, labelled = self._rng, self._size, example.labelled
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-ROTATION, ROTATION), rng.uniform(*SCALES))
        picture: Any = cv2.warpAffine(example.picture, matrix, (size, size))
        points = example.points @ matrix[:, :2].T + matrix[:, 2]
        chosen = rng.random() < 0.5
        if chosen and self._sides:
            picture = np.ascontiguousarray(picture[:, ::-1])
            points = (np.array([size, 0]) + np.array([-1, 1]) * points)[self._swap]
            labelled = labelled[self._swap]
        return Example(picture, points, labelled, chosen)


def seed_loader(dataset: SeedStyle, batch_size: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """The DataLoader around it, whose workers compute on one thread each."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # its arrays become tensors in collation
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )


def read(path: str) -> Pixels:
    """The picture by PIL, (H, W, 3) RGB."""
    with Image.open(path) as file:
        return np.array(file if file.mode == "RGB" else file.convert("RGB"), np.uint8)


def open_whole(path: str, points: Points, size: int) -> tuple[Pixels, Points]:
    """The whole picture resized to a square by PIL, and its points."""
    with Image.open(path) as file:
        picture = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return np.array(picture, np.uint8), points * (size / np.array(file.size))


def cut(image: Pixels, points: Points, centre: Points, side: float, size: int) -> tuple[NDArray[np.float64], Points]:
    """The square around `centre`, black beyond the picture, resized; and the points in it, one after the other."""
    length = max(1, round(side))
    left, top = (int(np.floor(value - side / 2)) for value in centre)
    square = np.zeros((length, length, 3))
    height, width = image.shape[:2]
    x0, x1 = max(left, 0), min(left + length, width)
    y0, y1 = max(top, 0), min(top + length, height)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    moved = [through_square(point, left, top, size / length) for point in points]
    return np.asarray(cv2.resize(square, (size, size)), np.float64), np.array(moved)


def through_square(point: Points, left: int, top: int, zoom: float) -> Points:
    """One point (2,) through a matrix that is made for it alone."""
    matrix = np.zeros((3, 3))
    matrix[0, 0] = matrix[1, 1] = zoom
    matrix[:, 2] = -left * zoom, -top * zoom, 1
    return np.dot(matrix, np.array([point[0], point[1], 1.0]))[:2]


def jitter(values: Floats, rng: np.random.Generator) -> Floats:
    """Hue, saturation, brightness and contrast of an (S, S, 3) picture in [0, 1] changed, clipped at the end."""
    hsv = np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] = np.mod(hsv[..., 0] + rng.uniform(-HUE, HUE) + 360, 360)
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*FACTORS), 0, 1)
    changed = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
    changed += rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    grey = changed.mean(axis=2, keepdims=True)
    return np.clip((changed - grey) * rng.uniform(*FACTORS) + grey, 0, 1).astype(np.float32)


def stamp(sigma: float) -> Floats:
    """A Gaussian of peak 1 in the middle of its (n, n) cells, three sigma to each side and one cell more."""
    reach = int(3 * sigma + 1)
    steps = np.arange(-reach, reach + 1)
    return np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2)).astype(np.float32)


def targets(points: Points, labelled: NDArray[np.bool_], gaussian: Floats) -> Floats:
    """Heatmaps (K, 64, 64): the stamp laid on the cell of each labelled joint (K, 2), one joint after the other."""
    maps = np.zeros((len(points), CELLS, CELLS), np.float32)
    reach = len(gaussian) // 2
    for joint, (point, known) in enumerate(zip(points, labelled)):
        x, y = int(np.floor(point[0])), int(np.floor(point[1]))
        if not known or not (0 <= x < CELLS and 0 <= y < CELLS):
            continue
        x0, x1 = max(0, x - reach), min(CELLS, x + reach + 1)
        y0, y1 = max(0, y - reach), min(CELLS, y + reach + 1)
        maps[joint, y0:y1, x0:x1] = gaussian[y0 - y + reach : y1 - y + reach, x0 - x + reach : x1 - x + reach]
    return maps


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
