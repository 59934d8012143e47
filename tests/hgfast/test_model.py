"""The network: shapes, gradients, scripting. Other projects' weights are in test_converters.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from hgfast.architectures import PRESETS, architecture
from hgfast.errors import HgfastError
from hgfast.model import StackedHourglass


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
    model = StackedHourglass(architecture("tiny", stacks=2, growth=4, blocks=2), 5)
    heatmaps = model(torch.randn(3, 3, 64, 96))
    assert heatmaps.shape == (3, 2, 5, 16, 24)
    heatmaps.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_of_every_preset_gets_a_gradient(preset: str) -> None:
    arch = PRESETS[preset]
    size = 4 * 2**arch.depth
    model = StackedHourglass(arch, 21)
    model(torch.randn(2, 3, size, size)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


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
