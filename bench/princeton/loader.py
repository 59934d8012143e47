"""Loader of princeton-vl/pytorch_stacked_hourglass and its FreiHAND fork, re-implemented as a baseline.

One Python call per sample does everything on the CPU: it decodes the whole image, copies the person's square into a float64
array, resizes it, transforms the joints one by one, warps a second time, changes the colors of the mirrored half in HSV, and
renders the heatmaps joint by joint; a torch DataLoader collates. Coordinates are those of `Samples`; half pixels are ignored as
in the original. Images are read with Pillow, as by imageio in the original. Needless costs of the original are omitted: hands,
which are small, remain uint8 until they are warped. All other costs equal the original's within 5 %. Do not optimize this code.
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

from hgfast.pipelines.samples import Samples

HEATMAP_SIZE = 64  # side of a heatmap
SIGMA = 1.0  # of its Gaussians, cells
MAX_ROTATION = 30.0  # degrees, plus or minus
SCALE_RANGE = (0.75, 1.25)
MAX_HUE_SHIFT, MAX_BRIGHTNESS_SHIFT = 72.0, 0.3  # degrees and fraction of white, plus or minus
JITTER_RANGE = (0.5, 1.5)  # factor of saturation and of contrast

ImageArray = NDArray[np.uint8]
FloatImage = NDArray[np.float32]
AnyImage = NDArray[np.uint8] | NDArray[np.float64]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A sample before its heatmaps: image (S, S, 3) in [0, 255], points (K, 2) in its pixels, labeled (K,) bool. jittered:
    one of the half with changed colors, which is also mirrored if the skeleton has flip pairs."""

    image: AnyImage
    points: Points
    labeled: NDArray[np.bool_]
    jittered: bool = False


class PrincetonDataset(Dataset[tuple[FloatImage, FloatImage]]):
    """Images (S, S, 3) float32 in [0, 1] and heatmaps (K, 64, 64) float32.

    Args:
        samples: of any data set.
        size: side of the images, pixels.
        resize_whole: resize the whole image with Pillow, as for hands; otherwise crop the square of the person.
        augmented: apply scale, rotation, mirroring and colors.
        seed: random seed of the augmentation.
    """

    def __init__(self, samples: Samples, size: int, *, resize_whole: bool, augmented: bool, seed: int = 0) -> None:
        self._samples, self._size, self._resize_whole, self._augmented = samples, size, resize_whole, augmented
        self._flip_order = np.array(samples.skeleton.flip_indices)
        self._has_sides = samples.skeleton.has_flip_pairs
        self._rng = np.random.default_rng(seed)
        self._gaussian_patch = gaussian_patch(SIGMA)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[FloatImage, FloatImage]:
        sample = self.load_sample(row)
        values = np.asarray(sample.image.astype(np.float32) / 255, np.float32)
        if sample.jittered:
            values = color_jitter(values, self._rng)
        return values, render_targets(sample.points * (HEATMAP_SIZE / self._size), sample.labeled, self._gaussian_patch)

    def load_sample(self, row: int) -> Sample:
        """Return one sample, cropped and, if `augmented`, augmented."""
        samples = self._samples
        path, points, labeled = str(samples.paths[row]), samples.keypoints[row], samples.labeled[row]
        if self._resize_whole:
            sample = Sample(*read_resized(path, points, self._size), labeled)
        else:
            with Image.open(path) as file:
                decoded = np.array(file.convert("RGB"), np.uint8)
            square = samples.center[row], float(samples.side[row])
            sample = Sample(*crop_square(decoded, points, *square, self._size), labeled)
        return self._augment(sample) if self._augmented else sample

    def _augment(self, sample: Sample) -> Sample:
        """Scale and rotate about the center with a second warp, and mirror half of the samples."""
        rng, size, labeled = self._rng, self._size, sample.labeled
        matrix = cv2.getRotationMatrix2D(
            (size / 2, size / 2), rng.uniform(-MAX_ROTATION, MAX_ROTATION), rng.uniform(*SCALE_RANGE)
        )
        image: Any = cv2.warpAffine(sample.image, matrix, (size, size))
        keypoints = sample.points @ matrix[:, :2].T + matrix[:, 2]
        jittered = rng.random() < 0.5
        if jittered and self._has_sides:
            image = np.ascontiguousarray(image[:, ::-1])
            keypoints = (np.array([size, 0]) + np.array([-1, 1]) * keypoints)[self._flip_order]
            labeled = labeled[self._flip_order]
        return Sample(image, keypoints, labeled, jittered)


def princeton_loader(dataset: PrincetonDataset, batch_size: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a DataLoader of the dataset whose workers use one thread each."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # its arrays become tensors in collation
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_init_worker,
    )


def read_resized(path: str, points: Points, size: int) -> tuple[ImageArray, Points]:
    """Read an image with Pillow and resize all of it to a square; return it and its points."""
    with Image.open(path) as file:
        image = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return np.array(image, np.uint8), points * (size / np.array(file.size))


def crop_square(
    image: ImageArray, keypoints: Points, center: Points, side: float, size: int
) -> tuple[NDArray[np.float64], Points]:
    """Crop the square around `center`, black beyond the image, and resize it; return it (size, size, 3) and its points."""
    length = max(1, round(side))
    left, top = (int(np.floor(value - side / 2)) for value in center)
    square = np.zeros((length, length, 3))
    height, width = image.shape[:2]
    x0, x1 = max(left, 0), min(left + length, width)
    y0, y1 = max(top, 0), min(top + length, height)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    transformed = [transform_point(point, left, top, size / length) for point in keypoints]
    return np.asarray(cv2.resize(square, (size, size)), np.float64), np.array(transformed)


def transform_point(point: Points, left: int, top: int, zoom: float) -> Points:
    """Transform one point (2,) by a matrix that is created for it, as in the original."""
    matrix = np.zeros((3, 3))
    matrix[0, 0] = matrix[1, 1] = zoom
    matrix[:, 2] = -left * zoom, -top * zoom, 1
    return np.dot(matrix, np.array([point[0], point[1], 1.0]))[:2]


def color_jitter(values: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Change hue, saturation, brightness and contrast of an (S, S, 3) image in [0, 1]; the result is clipped."""
    hsv = np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] = np.mod(hsv[..., 0] + rng.uniform(-MAX_HUE_SHIFT, MAX_HUE_SHIFT) + 360, 360)
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*JITTER_RANGE), 0, 1)
    changed = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
    changed += rng.uniform(-MAX_BRIGHTNESS_SHIFT, MAX_BRIGHTNESS_SHIFT)
    gray = changed.mean(axis=2, keepdims=True)
    return np.clip((changed - gray) * rng.uniform(*JITTER_RANGE) + gray, 0, 1).astype(np.float32)


def gaussian_patch(sigma: float) -> FloatImage:
    """Return a Gaussian of peak 1 in the center of (n, n) cells, with radius 3 sigma + 1."""
    radius = int(3 * sigma + 1)
    steps = np.arange(-radius, radius + 1)
    return np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2)).astype(np.float32)


def render_targets(keypoints: Points, labeled: NDArray[np.bool_], gaussian: FloatImage) -> FloatImage:
    """Render heatmaps (K, 64, 64): `gaussian` pasted at the cell of each labeled joint (K, 2), one joint at a time."""
    heatmaps = np.zeros((len(keypoints), HEATMAP_SIZE, HEATMAP_SIZE), np.float32)
    radius = len(gaussian) // 2
    for joint, (point, is_labeled) in enumerate(zip(keypoints, labeled)):
        x, y = int(np.floor(point[0])), int(np.floor(point[1]))
        if not is_labeled or not (0 <= x < HEATMAP_SIZE and 0 <= y < HEATMAP_SIZE):
            continue
        x0, x1 = max(0, x - radius), min(HEATMAP_SIZE, x + radius + 1)
        y0, y1 = max(0, y - radius), min(HEATMAP_SIZE, y + radius + 1)
        heatmaps[joint, y0:y1, x0:x1] = gaussian[y0 - y + radius : y1 - y + radius, x0 - x + radius : x1 - x + radius]
    return heatmaps


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
