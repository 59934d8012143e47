"""A trained network on pictures in memory: from an image and boxes to keypoints.

What may enter: running a network on arrays. Files, data sets and pictures for people stay outside.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hgfast.boxes import as_boxes
from hgfast.boxes import squares as squares  # what `look` wants
from hgfast.errors import HgfastError
from hgfast.foreign import is_nameless
from hgfast.geometry import move, square_matrices, warp
from hgfast.heatmaps import decode
from hgfast.model import StackedHourglass
from hgfast.poses import Poses
from hgfast.preprocessing import apply, fold
from hgfast.skeletons import Skeleton

Array = NDArray[np.float64]


def last_heatmaps(model: StackedHourglass, images: Tensor, flip_test: bool = False) -> Tensor:
    """The last stack's maps (N, K, h, w) of normalised images (N, 3, H, W).

    flip_test: the mean with what the network says of the mirrored images, mirrored back, left and right exchanged
    (Newell et al. 2016, section 4). A hand's joints have no sides and stay in place; a mirrored right hand is a left one, so
    it helps only networks that were trained on both. Raises `HgfastError` for joints without names, whose sides nobody knows.
    """
    if flip_test:
        check_sides(model.meta.skeleton)
    heatmaps = model(images)[:, -1]
    if flip_test:
        mirrored = model(images.flip(-1))[:, -1].flip(-1)
        heatmaps = (heatmaps + mirrored[:, list(model.meta.skeleton.swap)]) / 2
    return heatmaps


def check_sides(skeleton: Skeleton) -> None:
    """Raises `HgfastError` for joints without names, of which nobody knows what a flip test must exchange."""
    if is_nameless(skeleton):
        raise HgfastError(
            "the flip test must know which joints are left and right, and these have no names: give them with "
            "'python hgfast/checkpoints.py convert IN OUT --joints [left_x,right_x,…]'"
        )


def keypoints_of(model: StackedHourglass, heatmaps: Tensor) -> Tensor:
    """Maps (N, K, h, w) decoded as the network's meta says: (N, K, 3) x, y in input pixels, score."""
    decoded = decode(heatmaps, model.meta.decoder, model.meta.kind)
    return torch.cat((decoded[..., :2] * model.meta.stride, decoded[..., 2:]), -1)


@torch.inference_mode()
def look(
    model: StackedHourglass, image: NDArray[np.uint8], centre: Array, side: Array, flip_test: bool = False
) -> tuple[Array, NDArray[np.uint8], NDArray[np.float32]]:
    """What a network in eval mode sees in the squares of one picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        centre, side: (P, 2) and (P,) from `squares`.

    Returns:
        Keypoints (P, K, 3): x, y in source pixels (corner convention) and score; the crops (P, S, S, 3) uint8 that went in;
        their heatmaps (P, K, S / 4, S / 4), of the network's kind.
    """
    size, meta = model.meta.input_size, model.meta
    matrices = square_matrices(centre, side, size)
    crops = np.stack([warp(image, matrix, size) for matrix in matrices])
    device = next(model.parameters()).device
    affine = fold(np.tile(np.eye(3, 4, dtype=np.float32), (len(crops), 1, 1)), meta.preprocessing)
    images = apply(torch.from_numpy(crops).to(device), torch.from_numpy(affine).to(device))
    heatmaps = last_heatmaps(model, images, flip_test)
    decoded = keypoints_of(model, heatmaps).cpu().double().numpy()
    points = move(decoded[..., :2], np.linalg.inv(matrices)) + meta.shift
    return np.concatenate([points, decoded[..., 2:]], -1), crops, heatmaps.float().cpu().numpy()


class Network:
    """A checkpoint's network, used as an exported one is (`hgfast.runtime.Session`).

    Raises `HgfastError` for a flip test of joints without names.
    """

    def __init__(self, model: StackedHourglass, flip_test: bool = False) -> None:
        if flip_test:
            check_sides(model.meta.skeleton)
        self.model, self.flip_test = model, flip_test
        self.skeleton = model.meta.skeleton

    def look(
        self, image: NDArray[np.uint8], boxes: ArrayLike | None = None, padding: float = 1.0
    ) -> tuple[Poses, NDArray[np.uint8], NDArray[np.float32]]:
        """The people in a picture (H, W, 3) RGB, one a box; the crops that went in, and their heatmaps (see `look`)."""
        centre, side = squares(image, boxes, padding)
        keypoints, crops, heatmaps = look(self.model, image, centre, side, self.flip_test)
        return Poses(keypoints[..., :2], keypoints[..., 2], as_boxes(centre, side), self.skeleton), crops, heatmaps
