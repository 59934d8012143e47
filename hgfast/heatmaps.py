"""From keypoints to heatmaps and back, on the device and for the whole batch at once.

Heatmap coordinates follow the convention of `hgfast.geometry`: cell i's centre lies at i + 0.5, and
heatmap = input / stride. Shapes: N samples, K joints, H x W cells.
What may enter: target rendering and decoding. Losses and pictures live elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

METHODS = ("argmax", "quarter", "dark")
KINDS = ("gaussian", "logits")


def render(keypoints: Tensor, height: int, width: int, sigma: float = 1.0) -> Tensor:
    """Gaussians of peak 1, sampled at the cells' centres.

    Args:
        keypoints: (..., 2) x, y in heatmap coordinates, any float type.
        sigma: standard deviation in cells.

    Returns:
        (..., height, width) float32.
    """
    points = keypoints.float()
    columns = torch.arange(width, device=points.device, dtype=torch.float32) + 0.5
    rows = torch.arange(height, device=points.device, dtype=torch.float32) + 0.5
    across = torch.exp(-((columns - points[..., 0:1]) ** 2) / (2 * sigma**2))
    down = torch.exp(-((rows - points[..., 1:2]) ** 2) / (2 * sigma**2))
    return down[..., :, None] * across[..., None, :]


def inside(keypoints: Tensor, height: int, width: int) -> Tensor:
    """(..., 2) heatmap coordinates -> (...) bool: does the point lie on the map?"""
    x, y = keypoints[..., 0], keypoints[..., 1]
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def decode(heatmaps: Tensor, method: str = "dark", kind: str = "gaussian") -> Tensor:
    """The most likely place of each joint, in heatmap coordinates, and its score.

    Args:
        heatmaps: (N, K, H, W) float.
        method: "argmax", the centre of the highest cell; "quarter", that moved a quarter of a cell towards the higher
            neighbour (Newell et al. 2016, section 3.3); "dark", one Newton step on the logarithm of the map
            (Zhang et al., CVPR 2020, section 3.2), after its Gaussian smoothing where `kind` is "gaussian".
        kind: "gaussian" for maps trained with MSE, score = the peak's value; "logits" for maps trained with spatial
            cross-entropy, score = softmax mass of the 3 x 3 cells around the peak.

    Returns:
        (N, K, 3) float32: x, y, score.

    Raises:
        ValueError: an unknown method or kind.
    """
    if method not in METHODS or kind not in KINDS:
        raise ValueError(f"decode: method is one of {METHODS} and kind one of {KINDS}, not {method!r} and {kind!r}")
    maps = heatmaps.float()
    height, width = maps.shape[-2:]
    best = maps.flatten(2).argmax(-1)
    column, row = best % width, best // width
    if kind == "gaussian":
        score = maps.flatten(2).amax(-1)
    else:
        score = _patch(maps.flatten(2).softmax(-1).view_as(maps), column, row, outside=0.0).sum((-2, -1))
    x, y = column.float() + 0.5, row.float() + 0.5
    if method == "quarter":
        near = _patch(maps, column, row, outside=None)
        x = x + 0.25 * torch.sign(near[..., 1, 2] - near[..., 1, 0])
        y = y + 0.25 * torch.sign(near[..., 2, 1] - near[..., 0, 1])
    elif method == "dark":
        logs = maps if kind == "logits" else _smooth(maps).clamp_min(1e-10).log()
        dx, dy = _newton(_patch(logs, column, row, outside=None))
        on_edge = (column == 0) | (column == width - 1) | (row == 0) | (row == height - 1)
        x = torch.where(on_edge, x, x + dx)
        y = torch.where(on_edge, y, y + dy)
    return torch.stack((x, y, score), -1)


def _patch(maps: Tensor, column: Tensor, row: Tensor, outside: float | None) -> Tensor:
    """The 3 x 3 cells around (column, row) of each map; beyond the border `outside`, or the border cell for None."""
    height, width = maps.shape[-2:]
    steps = torch.arange(-1, 2, device=maps.device)
    rows, columns = row[..., None, None] + steps[:, None], column[..., None, None] + steps[None, :]
    flat = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    values = maps.flatten(2).gather(-1, flat.flatten(2)).view_as(flat)
    if outside is None:
        return values
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(within, values, torch.full_like(values, outside))


def _newton(patch: Tensor) -> tuple[Tensor, Tensor]:
    """The step (..., ) in x and y to the peak of a paraboloid through (..., 3, 3) values; at most one cell, else none."""
    gx = 0.5 * (patch[..., 1, 2] - patch[..., 1, 0])
    gy = 0.5 * (patch[..., 2, 1] - patch[..., 0, 1])
    xx = patch[..., 1, 2] - 2 * patch[..., 1, 1] + patch[..., 1, 0]
    yy = patch[..., 2, 1] - 2 * patch[..., 1, 1] + patch[..., 0, 1]
    xy = 0.25 * (patch[..., 2, 2] - patch[..., 2, 0] - patch[..., 0, 2] + patch[..., 0, 0])
    determinant = xx * yy - xy * xy
    safe = torch.where(determinant > 1e-9, determinant, torch.ones_like(determinant))
    dx, dy = (xy * gy - yy * gx) / safe, (xy * gx - xx * gy) / safe
    good = (determinant > 1e-9) & (xx < 0) & (dx.abs() <= 1) & (dy.abs() <= 1)
    return torch.where(good, dx, torch.zeros_like(dx)), torch.where(good, dy, torch.zeros_like(dy))


def _smooth(maps: Tensor, sigma: float = 1.0) -> Tensor:
    """A separable Gaussian of `sigma` cells over (N, K, H, W), borders repeated."""
    radius = 3
    taps = torch.exp(-(torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    flat = maps.flatten(0, 1)[:, None]
    flat = conv2d(pad(flat, (radius, radius, 0, 0), mode="replicate"), taps.view(1, 1, 1, -1))
    flat = conv2d(pad(flat, (0, 0, radius, radius), mode="replicate"), taps.view(1, 1, -1, 1))
    return flat.view_as(maps)
