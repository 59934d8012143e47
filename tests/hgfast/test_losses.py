"""The losses against torch's cross entropy, plain numpy, and their sum over shares of a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from hgfast.config import LossConfig
from hgfast.heatmaps import render
from hgfast.losses import heatmap_loss, mse, spatial_cross_entropy

N, S, K, H, W = 4, 2, 3, 12, 16
torch.manual_seed(0)
MAPS = torch.randn(N, S, K, H, W)
POINTS = torch.rand(N, K, 2) * torch.tensor([W, H])
ALL = torch.ones(N, K, dtype=torch.bool)


def test_cross_entropy_equals_torchs() -> None:
    targets = render(POINTS, H, W, 1.0).flatten(2)
    targets = (targets / targets.sum(-1, keepdim=True))[:, None].expand(N, S, K, H * W)
    wanted = cross_entropy(MAPS.flatten(3).reshape(-1, H * W), targets.reshape(-1, H * W))
    assert torch.allclose(spatial_cross_entropy(MAPS, POINTS, ALL, N, 1.0), wanted)


def test_cross_entropy_is_least_at_the_target() -> None:
    middle = torch.full((1, 1, 2), 20.0)
    logits = render(middle, 40, 40, 1.5).clamp_min(1e-30).log()[:, None]
    entropy = math.log(2 * math.pi * math.e * 1.5**2)  # of a two-dimensional Gaussian
    assert float(spatial_cross_entropy(logits, middle, ALL[:1, :1], 1, 1.5)) == pytest.approx(entropy, abs=1e-3)


def test_mse_equals_numpy() -> None:
    targets = render(POINTS, H, W, 1.0).numpy()
    wanted = np.mean([((MAPS[n, s, k].numpy() - targets[n, k]) ** 2).sum() for n, s, k in np.ndindex(N, S, K)])
    assert float(mse(MAPS, POINTS, ALL, N, 1.0)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
@pytest.mark.parametrize("hidden", ["unlabeled", "off the map"])
def test_joints_that_do_not_count_have_no_gradient(name: str, hidden: str) -> None:
    labeled, points, maps = ALL.clone(), POINTS.clone(), MAPS.clone().requires_grad_()
    if hidden == "unlabeled":
        labeled[1, 2] = False
    else:
        points[1, 2] = torch.tensor([W + 0.5, 3.0])
    heatmap_loss(LossConfig(name, unlabeled="ignore"), maps, points, labeled, N).backward()
    assert maps.grad is not None
    assert not maps.grad[1, :, 2].any()
    assert maps.grad[1, :, 1].any()


def test_unlabeled_coordinates_are_ignored() -> None:
    labeled, points = ALL.clone(), POINTS.clone()
    labeled[0, 0], points[0, 0] = False, float("nan")
    for name in ("cross_entropy", "mse"):
        assert heatmap_loss(LossConfig(name, unlabeled="zero"), MAPS, points, labeled, N).isfinite()


def test_unlabeled_zero() -> None:
    labeled, maps = ALL.clone(), MAPS.clone().requires_grad_()
    labeled[0, 0] = False
    heatmap_loss(LossConfig("mse", unlabeled="zero"), maps, POINTS, labeled, N).backward()
    assert maps.grad is not None
    assert torch.allclose(maps.grad[0, :, 0], 2 * MAPS[0, :, 0] / (N * S * K))


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_shares_of_a_batch_add_up(name: str) -> None:
    def of(rows: slice) -> torch.Tensor:
        return heatmap_loss(LossConfig(name, unlabeled="ignore"), MAPS[rows], POINTS[rows], ALL[rows], N)

    assert torch.allclose(of(slice(0, 1)) + of(slice(1, N)), of(slice(0, N)))


def test_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = heatmap_loss(LossConfig("cross_entropy", unlabeled="ignore"), MAPS.bfloat16(), POINTS, ALL, N)
    assert loss.dtype == torch.float32
