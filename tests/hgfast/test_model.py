"""The network: shapes, gradients, scripting, and the outputs of two other projects' networks from their own weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from conftest import beside
from numpy.typing import NDArray
from torch import Tensor

from hgfast.errors import HgfastError
from hgfast.model import PRESETS, Architecture, StackedHourglass, architecture


def residual(inputs: int, outputs: int) -> int:
    """Weights of a pre-activation bottleneck, counted by hand."""
    middle = outputs // 2
    convs = (inputs * middle + middle) + (9 * middle * middle + middle) + (middle * outputs + outputs)
    skip = inputs * outputs + outputs if inputs != outputs else 0
    return convs + skip + 2 * (inputs + middle + middle)


@pytest.mark.parametrize(("preset", "stacks"), [("hg1", 1), ("hg2", 2), ("hg8", 8)])
def test_sizes_counted_by_hand(preset: str, stacks: int) -> None:
    """Figure 4 of the paper: 3 residuals a level and one at the bottom, four levels, then a residual and two 1x1 layers."""
    stem = (3 * 49 * 64 + 64) + 2 * 64 + residual(64, 128) + residual(128, 128) + residual(128, 256)
    square = 256 * 256 + 256
    head = (3 * 4 + 1) * residual(256, 256) + residual(256, 256) + square + 2 * 256 + (256 * 16 + 16)
    merge = square + 16 * 256 + 256
    model = StackedHourglass(PRESETS[preset], 16)
    assert sum(p.numel() for p in model.parameters()) == stem + stacks * head + (stacks - 1) * merge


def test_shapes_and_every_parameter_is_used() -> None:
    model = StackedHourglass(architecture("tiny", stacks=2, growth=4), 5)
    heatmaps = model(torch.randn(3, 3, 64, 96))
    assert heatmaps.shape == (3, 2, 5, 16, 24)
    heatmaps.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_scripts_and_traces() -> None:
    model = StackedHourglass(architecture("tiny", stacks=2), 4).eval()
    images, others = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64)
    with torch.no_grad(), pytest.warns(DeprecationWarning):
        scripted, traced = torch.jit.script(model), torch.jit.trace(model, images)
        for form in (scripted, traced):
            assert torch.allclose(form(others), model(others), atol=1e-5)


@pytest.mark.parametrize("changes", [{"input_size": 100}, {"features": 15}, {"stacks": 0}, {"stem": (8, 15, 16)}])
def test_impossible_architectures(changes: Mapping[str, object]) -> None:
    with pytest.raises(HgfastError):
        architecture("tiny", **changes)


def test_unknown_preset() -> None:
    with pytest.raises(HgfastError, match="choose from hg1"):
        architecture("hg9")


def rename(weights: Mapping[str, Tensor], rules: list[tuple[str, str]], model: StackedHourglass) -> dict[str, Tensor]:
    """Another project's weights under our names; what is left over must be its unused skip convolutions."""
    ours: dict[str, Tensor] = {}
    known = model.state_dict()
    for name, value in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in known:
            ours[name] = value
        else:
            assert re.search(r"\.skip\.(weight|bias)$", name), name
    return ours


def assert_outputs(model: StackedHourglass, images: NDArray[np.float32], heatmaps: NDArray[np.float32]) -> None:
    """The network maps (N, 3, H, W) to the other project's (N, S, K, H/4, W/4), to rounding."""
    with torch.no_grad():
        found = model.eval()(torch.tensor(images)).numpy()
    assert np.abs(found - heatmaps).max() < 1e-4 * np.abs(heatmaps).max()


@pytest.mark.real_data
def test_princetons_network() -> None:
    content = torch.load(beside("reference/princeton_2hg_dim32.pt"), weights_only=True)
    model = StackedHourglass(Architecture(stacks=2, features=32, input_size=128), 16)
    rules = [
        (r"^model\.module\.", ""),
        (r"^pre\.0\.conv", "stem.0"),
        (r"^pre\.0\.bn", "stem.1"),
        (r"^pre\.1", "stem.3"),
        (r"^pre\.3", "stem.5"),
        (r"^pre\.4", "stem.6"),
        (r"^hgs\.(\d)\.0", r"heads.\1.hourglass"),
        (r"\.up1\b", ".across"),
        (r"\.low1\b", ".down"),
        (r"\.low2\b", ".inner"),
        (r"\.low3\b", ".up"),
        (r"^features\.(\d)\.0", r"heads.\1.residual"),
        (r"^features\.(\d)\.1\.conv", r"heads.\1.linear.0"),
        (r"^features\.(\d)\.1\.bn", r"heads.\1.linear.1"),
        (r"^outs\.(\d)\.conv", r"heads.\1.score"),
        (r"^merge_features\.(\d)\.conv\.conv", r"stages.\1.merge_features"),
        (r"^merge_preds\.(\d)\.conv\.conv", r"stages.\1.merge_heatmaps"),
        (r"\.skip_layer\b", ".skip"),
        (r"(conv\d|skip)\.conv\b", r"\1"),
        (r"^heads\.1", "last"),
        (r"^heads\.0", "stages.0.head"),
    ]
    z = np.load(beside("reference/princeton_2hg_dim32.npz"))
    model.load_state_dict(rename(content["state_dict"], rules, model))
    assert_outputs(model, z["image_nhwc"].transpose(0, 3, 1, 2), z["heatmaps"])


@pytest.mark.real_data
def test_bearpaws_network() -> None:
    content = torch.load(beside("reference/bearpaw_2hg_feats16.pth.tar"), weights_only=True)
    model = StackedHourglass(Architecture(stacks=2, features=32, stem=(64, 128, 256), input_size=128), 16)
    levels = {3: "", 2: ".inner", 1: ".inner.inner", 0: ".inner.inner.inner"}
    parts = {0: ".across", 1: ".down", 2: ".up", 3: ".inner"}

    def place(found: re.Match[str]) -> str:
        return f"heads.{found[1]}.hourglass{levels[int(found[2])]}{parts[int(found[3])]}"

    weights = {re.sub(r"^module\.hg\.(\d)\.hg\.(\d)\.(\d)\.0", place, name): v for name, v in content["state_dict"].items()}
    rules = [
        (r"^module\.", ""),
        (r"^conv1\.", "stem.0."),
        (r"^bn1\.", "stem.1."),
        (r"^layer1\.0", "stem.3"),
        (r"^layer2\.0", "stem.5"),
        (r"^layer3\.0", "stem.6"),
        (r"\.downsample\.0", ".skip"),
        (r"^res\.(\d)\.0", r"heads.\1.residual"),
        (r"^fc\.(\d)\.", r"heads.\1.linear."),
        (r"^score\.(\d)\.", r"heads.\1.score."),
        (r"^fc_\.(\d)", r"stages.\1.merge_features"),
        (r"^score_\.(\d)", r"stages.\1.merge_heatmaps"),
        (r"^heads\.1", "last"),
        (r"^heads\.0", "stages.0.head"),
    ]
    z = np.load(beside("reference/bearpaw_2hg_feats16.npz"))
    model.load_state_dict(rename(weights, rules, model))
    assert_outputs(model, z["image_nchw"], z["heatmaps"])
