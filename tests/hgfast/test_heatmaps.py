"""Targets and decoders against closed forms and arrays from other projects' code."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from hgfast.geometry import crop_matrices, transform_points
from hgfast.heatmaps import DECODERS, HEATMAP_KINDS, decode, is_inside, render
from tests.conftest import shared_path

RNG = np.random.default_rng(1)
PEAK = 10.0  # of logits: the softmax does not care, half precision does


def test_render_samples_cell_centers() -> None:
    maps = render(torch.tensor([[[3.2, 5.9]]]), 8, 10, sigma=1.5)
    assert maps.shape == (1, 1, 8, 10)
    for row, column in ((0, 0), (5, 3), (7, 9)):
        wanted = np.exp(-((column + 0.5 - 3.2) ** 2 + (row + 0.5 - 5.9) ** 2) / (2 * 1.5**2))
        assert float(maps[0, 0, row, column]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.real_data
def test_render_equals_mmpose_unbiased() -> None:
    z = np.load(shared_path("reference/heatmap_targets.npz"))  # its points have pixel centers at whole numbers
    ours = render(torch.tensor(z["keypoints"]) + 0.5, 64, 64, sigma=2).numpy()
    shown = z["visible"] > 0
    assert np.abs(ours - z["mmpose_msra_unbiased_s2"])[shown].max() < 1e-5


def test_inside_is_half_open() -> None:
    points = torch.tensor([[0.0, 0.0], [9.99, 7.99], [10.0, 3.0], [3.0, 8.0], [-0.01, 3.0]])
    assert is_inside(points, 8, 10).tolist() == [True, True, False, False, False]


def ideal_heatmaps(kind: str, shape: tuple[int, int], sigma: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (32, 8, 2) anywhere on the map, and the maps of least loss: Gaussians, or logits whose softmax is theirs."""
    height, width = shape
    true = torch.tensor(RNG.uniform(0, 1, (32, 8, 2)) * (width, height), dtype=torch.float32)
    columns, rows = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    squares = (columns - true[..., :1])[..., None, :] ** 2 + (rows - true[..., 1:])[..., :, None] ** 2
    logits = PEAK - squares / (2 * sigma**2)
    return true, render(true, height, width, sigma) if kind == "gaussian" else logits


@pytest.mark.parametrize("kind", HEATMAP_KINDS)
@pytest.mark.parametrize(("method", "mean", "worst"), [("argmax", 0.40, 0.708), ("quarter", 0.25, 0.8), ("dark", 1e-3, 5e-3)])
@pytest.mark.parametrize("shape", [(64, 64), (16, 24)])
def test_round_trip(kind: str, method: str, mean: float, worst: float, shape: tuple[int, int]) -> None:
    """Keypoints to maps to keypoints, borders and corners included; 0.02 cells were asked of the default decoder."""
    true, maps = ideal_heatmaps(kind, shape)
    decoded = decode(maps, method, kind)
    off = (decoded[..., :2] - true).norm(dim=-1)
    assert decoded.shape == (32, 8, 3)
    assert float(off.mean()) < mean and float(off.max()) < worst
    if kind == "gaussian":
        assert torch.equal(decoded[..., 2], maps.amax((2, 3)))


@pytest.mark.parametrize(
    ("kind", "dtype", "mean", "worst"),
    [
        ("gaussian", torch.float16, 5e-4, 4e-3),
        ("gaussian", torch.bfloat16, 3e-3, 0.03),
        ("logits", torch.float16, 6e-3, 0.03),
        ("logits", torch.bfloat16, 0.05, 0.3),
    ],
)
def test_what_half_precision_costs(kind: str, dtype: torch.dtype, mean: float, worst: float) -> None:
    """Measured: 0.0002 cells in fp16 and 0.001 in bf16 on average for Gaussians, 0.003 and 0.024 for logits (bench/decode.py)."""
    true, maps = ideal_heatmaps(kind, (64, 64))
    off = (decode(maps.to(dtype), "dark", kind)[..., :2] - true).norm(dim=-1)
    assert float(off.mean()) < mean and float(off.max()) < worst


@pytest.mark.parametrize("method", DECODERS)
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


@pytest.mark.parametrize(("count", "offset", "grad"), [(2, 0.0, False), (20, 0.0, False), (3, 3e4, False), (3, 0.0, True)])
def test_score_of_logits_is_the_mass_around_the_peak(count: int, offset: float, grad: bool) -> None:
    """For few samples and for more than go through at a time; far from zero; and with gradients, for those who train on it."""
    logits = torch.tensor(RNG.normal(0, 2, (count, 3, 7, 9)).round(2), dtype=torch.float32) + offset
    decoded = decode(logits.requires_grad_(grad), "argmax", "logits").detach().numpy()
    logits = logits.detach() - offset
    for n, k in np.ndindex(count, 3):
        p = np.exp(logits[n, k].numpy())
        p /= p.sum()
        row, column = np.unravel_index(p.argmax(), p.shape)
        mass = p[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].sum()
        assert decoded[n, k] == pytest.approx([column + 0.5, row + 0.5, mass], rel=1e-5 if offset == 0 else 1e-2)


def test_weak_maps_are_decoded_no_worse_than_by_the_quarter_shift() -> None:
    """Peaks that hardly rise above a background below zero have no logarithm."""
    true = torch.tensor(RNG.uniform(4, 60, (16, 16, 2)), dtype=torch.float32)
    for height in (0.01, 0.03):
        maps = height * render(true, 64, 64) - 0.01
        dark, quarter = ((decode(maps, method)[..., :2] - true).norm(dim=-1).mean() for method in ("dark", "quarter"))
        assert float(dark) <= float(quarter)


def test_infinite_values_give_finite_points() -> None:
    maps = render(torch.tensor([[[3.2, 0.4], [0.1, 5.0], [4.4, 4.4]]]), 8, 8)
    maps[0, 0, 0, 2], maps[0, 1, 5, 0], maps[0, 2, 3, 4] = torch.inf, torch.inf, -torch.inf
    for kind in HEATMAP_KINDS:
        assert decode(maps, "dark", kind)[..., :2].isfinite().all()


def test_maps_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="the minimum is 3 x 3"):
        decode(torch.zeros(1, 1, 2, 8))


def test_traced_and_exported_decoders_agree() -> None:
    """For any number of samples; the graph computes the score differently from an eager call."""
    torch.manual_seed(0)
    example, maps = torch.randn(2, 3, 16, 16), torch.randn(11, 3, 16, 16)
    for method in DECODERS:
        for kind in HEATMAP_KINDS:

            class Decoder(torch.nn.Module):
                def forward(self, x: torch.Tensor, method: str = method, kind: str = kind) -> torch.Tensor:
                    return decode(x, method, kind)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that tracing is deprecated, and that sizes become constants
                traced = torch.jit.trace(Decoder(), example)
            exported = torch.export.export(Decoder(), (example,), dynamic_shapes={"x": {0: torch.export.Dim("n")}}).module()
            for form in (traced, exported):
                assert torch.allclose(form(maps), decode(maps, method, kind), atol=1e-4)


@pytest.mark.parametrize("method", DECODERS)
def test_flat_maps_decode_to_the_first_cell(method: str) -> None:
    for kind, score in (("gaussian", 0.0), ("logits", 4 / 64)):
        assert decode(torch.zeros(1, 2, 8, 8), method, kind)[0].tolist() == [[0.5, 0.5, score]] * 2


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="must be in"):
        decode(torch.zeros(1, 1, 4, 4), "soft")


@pytest.fixture
def reference_decoders() -> dict[str, np.ndarray]:
    """Noisy maps, their true points (cell centers at whole numbers), and what other projects' code decodes."""
    return dict(np.load(shared_path("reference/decoders.npz")))


@pytest.mark.real_data
def test_quarter_matches_princeton(reference_decoders: dict[str, np.ndarray]) -> None:
    """These maps have no ties and no zero scores. Points and scores; princeton-vl's code truncates the source coordinates."""
    decoded = decode(torch.tensor(reference_decoders["det"]), "quarter").double().numpy()
    assert np.abs(decoded - reference_decoders["princeton_parse"]).max() < 1e-6
    matrices = crop_matrices(reference_decoders["center"], 200 * reference_decoders["scale"], 64)
    source = transform_points(decoded[..., :2], np.linalg.inv(matrices))
    assert np.array_equal(np.trunc(source), reference_decoders["princeton_post_process"][..., :2])


@pytest.mark.real_data
def test_dark_against_other_decoders(reference_decoders: dict[str, np.ndarray]) -> None:
    """Measured: 0.0046 cells inside, 1e-7 within three cells of a border, where the best of the others has 0.23."""
    true = reference_decoders["true_xy"]
    near = ((true + 0.5 < 3) | (true + 0.5 > 61)).any(-1)

    def error(found: np.ndarray, where: np.ndarray) -> float:
        return float(np.linalg.norm(found[..., :2] - true, axis=-1)[where].mean())

    ours = decode(torch.tensor(reference_decoders["det"]))[..., :2].numpy() - 0.5
    others = [
        reference_decoders["princeton_parse"][..., :2] - 0.5,
        reference_decoders["mm_refine"],
        reference_decoders["mm_dark_k11"],
        reference_decoders["mm_dark_udp_k11"],
    ]
    assert near.sum() >= 8
    for where in (near, ~near):
        assert error(ours, where) < 0.005
        assert all(error(ours, where) < error(other, where) for other in others)
