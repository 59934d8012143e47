"""From keypoints to heatmaps and back, on the device and for the whole batch at once.

Heatmap coordinates follow the convention of `hgfast.geometry`: cell i's centre lies at i + 0.5, and
heatmap = input / stride. Shapes: N samples, K joints, H x W cells.
What may enter: target rendering and decoding. Losses and pictures live elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

METHODS = ("argmax", "quarter", "dark")
KINDS = ("gaussian", "logits")
REACH = 3  # cells that DARK's smoothing looks at on either side
PART = 8  # samples whose maps a CPU's cache holds


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

    A map without a highest cell decodes to the first cell's centre (0.5, 0.5): one of zeros with the score 0 ("gaussian") or
    4 / (H W) ("logits", the mass of the four cells there).

    Args:
        heatmaps: (N, K, H, W) float of any precision, computed with in float32; H and W at least 3.
        method: "argmax", the centre of the highest cell; "quarter", that moved a quarter of a cell towards the higher
            neighbour (Newell et al. 2016, section 3.3); "dark", one Newton step on the logarithm of the map
            (Zhang et al., CVPR 2020, section 3.2), after its Gaussian smoothing where `kind` is "gaussian". Where the
            smoothing would reach over the border the map is taken as it is, and in the border's own cells the slope towards
            the inside and the curvature along the border give the place. Where values around the peak are not above zero
            there is no logarithm, and the step is the quarter.
        kind: "gaussian" for maps trained with MSE, score = the peak's value; "logits" for maps trained with spatial
            cross-entropy, score = softmax mass of the 3 x 3 cells around the peak.

    Returns:
        (N, K, 3) float32: x, y, score.

    Raises:
        ValueError: an unknown method or kind, or maps of fewer than 3 x 3 cells.
    """
    if min(heatmaps.shape[-2:]) < 3:
        raise ValueError(f"decode: maps of {tuple(heatmaps.shape[-2:])} cells are too small, 3 x 3 is the least")
    if method not in METHODS or kind not in KINDS:
        raise ValueError(f"decode: method is one of {METHODS} and kind one of {KINDS}, not {method!r} and {kind!r}")
    maps = heatmaps.float()
    peak, row = maps.amax(-1).max(-1)  # by rows first: several times faster than over the flat map
    line = maps.gather(2, row[..., None, None].expand(-1, -1, 1, maps.shape[-1])).squeeze(2)
    column = line.argmax(-1)
    score = peak if kind == "gaussian" else _mass(maps, peak, column, row)
    x, y = column.float() + 0.5, row.float() + 0.5
    if method == "quarter":
        dx, dy = _quarter(maps, column, row)
        x, y = x + dx, y + dy
    elif method == "dark":
        dx, dy = _dark(maps, column, row, smooth=kind == "gaussian")
        x, y = x + dx, y + dy
    return torch.stack((x, y, score), -1)


def _window(maps: Tensor, column: Tensor, row: Tensor, radius: int) -> Tensor:
    """The cells up to `radius` around (column, row) of each map, (N, K, D, D); beyond the border the border's cells."""
    height, width = maps.shape[-2:]
    steps = torch.arange(-radius, radius + 1, device=maps.device)
    rows = (row[..., None, None] + steps[:, None]).clamp(0, height - 1)
    columns = (column[..., None, None] + steps).clamp(0, width - 1)
    cells = rows * width + columns
    return maps.flatten(2).gather(-1, cells.flatten(2)).view_as(cells)


def _mass(logits: Tensor, peak: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """The softmax mass of the 3 x 3 cells around the highest, at (column, row), (N, K); cells beyond the border have none."""
    height, width = logits.shape[-2:]
    steps = torch.arange(-1, 2, device=logits.device)
    rows, columns = row[..., None] + steps, column[..., None] + steps
    there = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
    near = (_window(logits, column, row, 1) - peak[..., None, None]).exp()
    return near.where(there, 0).sum((-2, -1)) / _sum_of_exponentials(logits.flatten(2), peak)


def _sum_of_exponentials(flat: Tensor, peak: Tensor) -> Tensor:
    """exp(flat - peak) summed over the cells of (N, K, C) maps: (N, K). On a CPU, where no gradient is wanted, in parts that
    stay in its cache and with exp2, which torch computes three times faster than exp there: a tenth of the time."""
    graph = torch.compiler.is_compiling() or torch._C._is_tracing()
    if flat.device.type != "cpu" or graph or (torch.is_grad_enabled() and flat.requires_grad):
        return (flat - peak[..., None]).exp().sum(-1)
    sums, room = torch.empty_like(peak), torch.empty_like(flat[:PART])
    for part, most, out in zip(*(torch.split(values, PART) for values in (flat, peak, sums))):
        powers = torch.sub(part, most[..., None], out=room[: len(part)]).mul_(math.log2(math.e)).exp2_()
        torch.sum(powers, -1, out=out)
    return sums


def _dark(maps: Tensor, column: Tensor, row: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """From the centre of the highest cell to the peak of the paraboloid that the map's logarithm is around it, (N, K) each;
    at most one cell, else nothing. `maps` are logarithms already unless `smooth`."""
    height, width = maps.shape[-2:]
    logs = _window(maps, column.clamp(1, width - 2), row.clamp(1, height - 2), 1)  # around the nearest inner cell
    weak = torch.zeros_like(column, dtype=torch.bool)
    if smooth:
        inside = (column >= REACH) & (column < width - REACH) & (row >= REACH) & (row < height - REACH)
        window = _window(maps, column, row, REACH + 1)
        taps = _taps(maps.device).T
        smoothed = ((window @ taps).transpose(-2, -1) @ taps).transpose(-2, -1)
        values = torch.where(inside[..., None, None], smoothed, logs)
        weak = (values <= 0).any(-1).any(-1)
        logs = values.clamp_min(1e-10).log()
    top, bottom, left, right = row == 0, row == height - 1, column == 0, column == width - 1
    across = _pick(logs, top, bottom)  # (N, K, 3) values along the peak's own row
    down = _pick(logs.transpose(-2, -1), left, right)
    xx = across[..., 0] - 2 * across[..., 1] + across[..., 2]
    yy = down[..., 0] - 2 * down[..., 1] + down[..., 2]
    dx, dy = _newton(logs, xx, yy)
    on_x, on_y = left | right, top | bottom
    dx = torch.where(on_x, _aside(across, left, torch.where(on_y, xx, yy)), torch.where(on_y, _along(across, xx), dx))
    dy = torch.where(on_y, _aside(down, top, torch.where(on_x, yy, xx)), torch.where(on_x, _along(down, yy), dy))
    usable = dx.isfinite() & dy.isfinite()
    dx, dy = dx.where(usable, 0), dy.where(usable, 0)
    if smooth:
        quarter_x, quarter_y = _quarter(maps, column, row)
        dx, dy = torch.where(weak, quarter_x, dx), torch.where(weak, quarter_y, dy)
    return dx, dy


def _quarter(maps: Tensor, column: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """A quarter of a cell towards the higher neighbour in x and in y, (N, K) each."""
    near = _window(maps, column, row, 1)
    return 0.25 * torch.sign(near[..., 1, 2] - near[..., 1, 0]), 0.25 * torch.sign(near[..., 2, 1] - near[..., 0, 1])


def _taps(device: torch.device) -> Tensor:
    """(3, 2 REACH + 3): from a line of cells around the peak to its three middle ones, smoothed by a Gaussian of 1 cell."""
    steps = torch.arange(-REACH - 1, REACH + 2, device=device) - torch.arange(-1, 2, device=device)[:, None]
    weights = torch.exp(-(steps.float() ** 2) / 2).where(steps.abs() <= REACH, 0)
    return weights / weights.sum(-1, keepdim=True)


def _pick(window: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Of (..., 3, 3) the first row, the last row, or else the middle one."""
    row = torch.where(first[..., None], window[..., 0, :], window[..., 1, :])
    return torch.where(last[..., None], window[..., 2, :], row)


def _newton(window: Tensor, xx: Tensor, yy: Tensor) -> tuple[Tensor, Tensor]:
    """The step (...) in x and y from the middle of (..., 3, 3) values, with these curvatures, to the paraboloid's peak."""
    gx = 0.5 * (window[..., 1, 2] - window[..., 1, 0])
    gy = 0.5 * (window[..., 2, 1] - window[..., 0, 1])
    xy = 0.25 * (window[..., 2, 2] - window[..., 2, 0] - window[..., 0, 2] + window[..., 0, 0])
    determinant = xx * yy - xy * xy
    safe = torch.where(determinant > 1e-9, determinant, torch.ones_like(determinant))
    dx, dy = (xy * gy - yy * gx) / safe, (xy * gx - xx * gy) / safe
    good = (determinant > 1e-9) & (xx < 0) & (dx.abs() <= 1) & (dy.abs() <= 1)
    return torch.where(good, dx, torch.zeros_like(dx)), torch.where(good, dy, torch.zeros_like(dy))


def _along(line: Tensor, curvature: Tensor) -> Tensor:
    """The step (...) from the middle of (..., 3) values to the parabola's peak."""
    step = 0.5 * (line[..., 2] - line[..., 0]) / (-curvature).clamp_min(1e-3)
    return step.clamp(-1, 1).where(curvature < -1e-3, 0)


def _aside(line: Tensor, first: Tensor, curvature: Tensor) -> Tensor:
    """The step (...) within the first cell (or, where not `first`, the last) of (..., 3) values to the peak of a parabola
    with this curvature, from the slope between that cell and the middle one."""
    edge = torch.where(first, line[..., 0], line[..., 2])
    inwards = 0.5 - (line[..., 1] - edge) / curvature.clamp_max(-1e-3)
    step = torch.where(first, inwards, -inwards).clamp(-0.5, 0.5)
    return step.where(curvature < -1e-3, 0)
