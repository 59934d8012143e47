"""Run a checkpoint's network with torch on images in memory: from an image and boxes to keypoints."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray, transform_points
from hgfast.heatmaps import decode
from hgfast.model import StackedHourglass
from hgfast.normalization import normalize_images
from hgfast.runtime.boxes import crop_image, crop_squares, squares_to_boxes
from hgfast.runtime.results import Poses
from hgfast.skeletons import Skeleton


def forward_heatmaps(model: StackedHourglass, images: Tensor, flip_test: bool = False) -> Tensor:
    """Return the heatmaps (N, K, h, w) of the last stack for normalized images (N, 3, H, W).

    flip_test: average with the heatmaps of the mirrored images, mirrored back and with left and right joints swapped (Newell et
    al. 2016, section 4). The joints of a hand have no sides and stay in place; a mirrored right hand is a left one, so a flip
    test improves only networks trained on both. Raises `HgfastError` for joints without names, whose sides are unknown.
    """
    if flip_test:
        check_flip_pairs(model.meta.skeleton)
        # first, because `flip` copies: with CUDA graphs the second call overwrites the result of the first
        flipped = model(images.flip(-1))[:, -1].flip(-1)
    heatmaps = model(images)[:, -1]
    if flip_test:
        heatmaps = (heatmaps + flipped[:, list(model.meta.skeleton.flip_indices)]) / 2
    return heatmaps


def no_tf32() -> AbstractContextManager[None]:
    """Return a context in which convolutions of float32 compute in float32: torch's default on a GPU is TF32, whose factors have
    ten bits of mantissa. The other settings of cuDNN stay."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def check_flip_pairs(skeleton: Skeleton) -> None:
    """Raise `HgfastError` for joints without names, because a flip test must know left and right."""
    if skeleton.is_anonymous:
        raise HgfastError(
            "the flip test must know which joints are left and right, and these have no names: give them with "
            "'hgfast convert IN OUT --joints [left_x,right_x,…]'"
        )


def decode_keypoints(model: StackedHourglass, heatmaps: Tensor) -> Tensor:
    """Decode heatmaps (N, K, h, w) with the network's decoder to (N, K, 3): x, y in input pixels, score."""
    decoded = decode(heatmaps, model.meta.decoder, model.meta.heatmap_kind)
    return torch.cat((decoded[..., :2] * model.meta.stride, decoded[..., 2:]), -1)


@torch.inference_mode()
def predict_crops(
    model: StackedHourglass, image: NDArray[np.uint8], center: FloatArray, side: FloatArray, flip_test: bool = False
) -> tuple[FloatArray, NDArray[np.uint8], NDArray[np.float32]]:
    """Run a network in eval mode on square crops of one image.

    Args:
        image: (H, W, 3) uint8 RGB.
        center, side: (P, 2) and (P,) from `crop_squares`.

    Returns:
        Keypoints (P, K, 3): x, y in source pixels (corner convention) and score; the crops (P, S, S, 3) uint8; their heatmaps
        (P, K, S / stride, S / stride) of kind `model.meta.heatmap_kind`.
    """
    meta = model.meta
    crops, matrices = crop_image(image, center, side, meta.input_size)
    device = next(model.parameters()).device
    images = normalize_images(torch.from_numpy(crops).to(device), meta.normalization)
    with no_tf32():
        heatmaps = forward_heatmaps(model, images, flip_test)
    decoded = decode_keypoints(model, heatmaps).cpu().double().numpy()
    points = transform_points(decoded[..., :2], np.linalg.inv(matrices)) + meta.shift
    return np.concatenate([points, decoded[..., 2:]], -1), crops, heatmaps.float().cpu().numpy()


class TorchPredictor:
    """A checkpoint's network with the `predict_crops` of `hgfast.runtime.Session`.

    Raises `HgfastError` for a flip test of joints without names.
    """

    def __init__(self, model: StackedHourglass, flip_test: bool = False) -> None:
        if flip_test:
            check_flip_pairs(model.meta.skeleton)
        self.model, self.flip_test, self.skeleton = model, flip_test, model.meta.skeleton
        self.heatmap_kind, self.result_offset = model.meta.heatmap_kind, model.meta.shift

    def predict_crops(
        self, image: NDArray[np.uint8], boxes: ArrayLike | None = None, padding: float = 1.0
    ) -> tuple[Poses, NDArray[np.uint8], NDArray[np.float32]]:
        """Return the people in an image (H, W, 3) RGB, one per box, the crops, and their heatmaps; see `predict_crops`."""
        center, side = crop_squares(image, boxes, padding)
        keypoints, crops, heatmaps = predict_crops(self.model, image, center, side, self.flip_test)
        return Poses(keypoints[..., :2], keypoints[..., 2], squares_to_boxes(center, side), self.skeleton), crops, heatmaps
