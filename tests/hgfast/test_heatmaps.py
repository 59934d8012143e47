"""Targets and decoders against closed forms and the arrays of other projects' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import beside

from hgfast.heatmaps import METHODS, decode, inside, render

RNG = np.random.default_rng(1)


def test_render_samples_the_gaussian_at_cell_centres() -> None:
    maps = render(torch.tensor([[[3.2, 5.9]]]), 8, 10, sigma=1.5)
    assert maps.shape == (1, 1, 8, 10)
    for row, column in ((0, 0), (5, 3), (7, 9)):
        wanted = np.exp(-((column + 0.5 - 3.2) ** 2 + (row + 0.5 - 5.9) ** 2) / (2 * 1.5**2))
        assert float(maps[0, 0, row, column]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.real_data
def test_render_equals_mmpose_unbiased() -> None:
    z = np.load(beside("reference/heatmap_targets.npz"))  # its points have pixel centres at whole numbers
    ours = render(torch.tensor(z["keypoints"]) + 0.5, 64, 64, sigma=2).numpy()
    shown = z["visible"] > 0
    assert np.abs(ours - z["mmpose_msra_unbiased_s2"])[shown].max() < 1e-5


def test_inside_is_half_open() -> None:
    points = torch.tensor([[0.0, 0.0], [9.99, 7.99], [10.0, 3.0], [3.0, 8.0], [-0.01, 3.0]])
    assert inside(points, 8, 10).tolist() == [True, True, False, False, False]


def gaussians(sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    true = torch.tensor(RNG.uniform(5, 27, (4, 6, 2)), dtype=torch.float32)
    return true, render(true, 32, 32, sigma)


@pytest.mark.parametrize(("method", "worst"), [("argmax", 0.5001), ("quarter", 0.2501), ("dark", 0.02)])
def test_decoders_on_clean_gaussians(method: str, worst: float) -> None:
    true, maps = gaussians(1.5)
    decoded = decode(maps, method)
    assert decoded.shape == (4, 6, 3)
    assert float((decoded[..., :2] - true).abs().max()) <= worst
    assert torch.equal(decoded[..., 2], maps.amax((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_decoding_survives_every_border(method: str) -> None:
    points = torch.tensor([[[0.2, 0.3], [7.9, 0.1], [0.1, 5.8], [7.7, 5.9]]])
    for kind in ("gaussian", "logits"):
        decoded = decode(render(points, 6, 8), method, kind)
        assert float((decoded[..., :2] - points).abs().max()) < 0.8


def test_newton_step_is_exact_on_a_paraboloid() -> None:
    true = torch.tensor([[[4.3, 6.8], [7.5, 2.1]]])
    grid = torch.arange(12) + 0.5
    x, y = grid[None, :] - true[..., 0, None, None], grid[:, None] - true[..., 1, None, None]
    logits = -(0.7 * x * x + 0.4 * x * y + 1.1 * y * y)
    assert torch.allclose(decode(logits, "dark", "logits")[..., :2], true, atol=1e-4)


def test_score_of_logits_is_the_mass_around_the_peak() -> None:
    logits = torch.tensor(RNG.normal(0, 2, (2, 3, 7, 9)), dtype=torch.float32)
    decoded = decode(logits, "argmax", "logits").numpy()
    for n, k in np.ndindex(2, 3):
        p = np.exp(logits[n, k].numpy())
        p /= p.sum()
        row, column = np.unravel_index(p.argmax(), p.shape)
        mass = p[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].sum()
        assert decoded[n, k] == pytest.approx([column + 0.5, row + 0.5, mass], rel=1e-5)


def test_flat_maps_decode_to_finite_points() -> None:
    for method in METHODS:
        assert decode(torch.zeros(1, 2, 8, 8), method).isfinite().all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="one of"):
        decode(torch.zeros(1, 1, 4, 4), "soft")


@pytest.mark.real_data
def test_dark_beside_mmpose() -> None:
    z = np.load(beside("reference/decoders.npz"))
    ours = decode(torch.tensor(z["det"]), "dark")[..., :2].numpy() - 0.5
    assert np.median(np.abs(ours - z["mm_dark_k11"])) < 1e-3
    error, theirs = (np.linalg.norm(found - z["true_xy"], axis=-1).mean() for found in (ours, z["mm_dark_k11"]))
    assert error <= theirs * 1.05
