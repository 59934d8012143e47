"""Normalization of RGB values, which is stored with the weights, and affine color transforms."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """input = (rgb / 255 - mean) / std, per channel."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


UNNORMALIZED = Normalization((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""Identity on gray levels: a loader with it yields the images themselves, see `to_uint8`."""


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Convert a loader's (N, 3, H, W) float images with `UNNORMALIZED` to (N, H, W, 3) uint8 RGB."""
    return images.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).contiguous().cpu().numpy()


def to_float32(images: Tensor) -> NDArray[np.float32]:
    """Convert a loader's normalized (N, 3, H, W) images to a contiguous array."""
    return images.float().contiguous().cpu().numpy()


def normalization_affine(color: NDArray[np.float32], normalization: Normalization) -> NDArray[np.float32]:
    """Combine a color transform and the normalization into one affine map from gray levels to the network's input.

    Args:
        color: (N, 3, 4) transforms of (r, g, b, 1) in [0, 1].

    Returns:
        (N, 3, 4) float32 transforms of (r, g, b, 1) in [0, 255].
    """
    affine = color.astype(np.float64)
    affine[:, :, 3] -= normalization.mean
    affine /= np.asarray(normalization.std)[:, None]
    affine[:, :, :3] /= 255
    return affine.astype(np.float32)


def normalize_images(images: Tensor, normalization: Normalization) -> Tensor:
    """Normalize (N, H, W, 3) uint8 RGB images to the network's input, (N, 3, H, W) float32 in channels_last memory."""
    unchanged_colors = np.tile(np.eye(3, 4, dtype=np.float32), (len(images), 1, 1))
    affine = torch.from_numpy(normalization_affine(unchanged_colors, normalization))
    return apply_color_affine(images, affine.to(images.device))


def apply_color_affine(images: Tensor, affine: Tensor) -> Tensor:
    """Apply affine color transforms: on a GPU by one batched product, on a CPU by OpenCV, ten times faster than torch there.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        affine: (N, 3, 4) float32 from `normalization_affine`.

    Returns:
        (N, 3, H, W) float32 in channels_last memory. Values are not clipped.
    """
    count, height, width, _ = images.shape
    if images.device.type == "cpu":
        mapped = torch.empty((count, height, width, 3))
        for image, matrix, out in zip(images.numpy(), affine.numpy(), mapped.numpy()):
            cv2.transform(image.astype(np.float32), matrix, dst=out)
        return mapped.permute(0, 3, 1, 2)
    pixels = images.view(count, height * width, 3).float()
    out = torch.baddbmm(affine[:, None, :, 3], pixels, affine[:, :, :3].transpose(1, 2))
    return out.view(count, height, width, 3).permute(0, 3, 1, 2)


def color_affine_kernel(images: Tensor, affine: Tensor, dtype: torch.dtype) -> Tensor:
    """Like `apply_color_affine`, in operations that torch.compile fuses into one kernel, which reads bytes and writes `dtype`."""
    coefficients = affine[:, None, None]
    products = images[..., None, :].float() * coefficients[..., :3]
    return (products.sum(-1) + coefficients[..., 3]).to(dtype).permute(0, 3, 1, 2)
