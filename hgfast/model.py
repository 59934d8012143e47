"""The stacked hourglass (Newell et al., ECCV 2016), and its presets.

Shapes: N pictures, S stacks, K joints, C features; the input is H x W, every map H/4 x W/4.
What may enter: the network's architecture. It must script, trace, compile and export: no shape asserts, no indexed
ModuleLists, and no module that a forward pass does not use (DDP would wait for its gradient for ever).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from hgfast.errors import HgfastError

if TYPE_CHECKING:
    from hgfast.checkpoints import Meta

STRIDE = 4


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of the weights but the number of joints.

    stacks: number of hourglasses. features: channels in them. depth: halvings inside one.
    stem: channels after the 7x7 convolution, after the first and after the second residual.
    input_size: side of the square input the network is trained at, pixels.
    """

    stacks: int = 1
    features: int = 256
    depth: int = 4
    stem: tuple[int, int, int] = (64, 128, 128)
    input_size: int = 256

    def __post_init__(self) -> None:
        multiple = STRIDE * 2**self.depth
        if self.input_size < multiple or self.input_size % multiple:
            raise HgfastError(
                f"model.input_size {self.input_size} does not fit model.depth {self.depth}: take a multiple of {multiple}"
            )
        if min(self.stacks, self.features, self.depth, *self.stem) < 1 or self.features % 2 or any(c % 2 for c in self.stem[1:]):
            raise HgfastError("model: stacks and depth must be positive, features and the stem's widths positive and even")


PRESETS: dict[str, Architecture] = {
    "hg1": Architecture(stacks=1),
    "hg2": Architecture(stacks=2),
    "hg8": Architecture(stacks=8),
    "small": Architecture(features=64, stem=(24, 32, 48), input_size=128),  # a two-core CPU trains it in minutes
    "tiny": Architecture(features=16, depth=3, stem=(8, 16, 16), input_size=64),  # for tests
}


def architecture(
    preset: str,
    stacks: int | None = None,
    features: int | None = None,
    depth: int | None = None,
    input_size: int | None = None,
) -> Architecture:
    """The named preset with single values replaced. Raises `HgfastError` where the name or the values do not fit."""
    if preset not in PRESETS:
        raise HgfastError(f"model.preset {preset!r} is unknown; choose from {', '.join(PRESETS)}")
    changes = {"stacks": stacks, "features": features, "depth": depth, "input_size": input_size}
    return replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})


class Residual(nn.Module):
    """Pre-activation bottleneck: (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 1)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x).relu())
        y = self.conv2(self.bn2(y).relu())
        y = self.conv3(self.bn3(y).relu())
        return y + self.skip(x)


class Hourglass(nn.Module):
    """Down `depth` halvings and up again, with a residual across at every resolution: (N, C, h, w) -> (N, C, h, w)."""

    def __init__(self, depth: int, features: int) -> None:
        super().__init__()
        self.across = Residual(features, features)
        self.down = Residual(features, features)
        self.inner: nn.Module = Hourglass(depth - 1, features) if depth > 1 else Residual(features, features)
        self.up = Residual(features, features)

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(max_pool2d(x, 2))))
        return self.across(x) + interpolate(low, scale_factor=2.0, mode="nearest")


class Head(nn.Module):
    """One hourglass and what reads it: (N, C, h, w) -> features (N, C, h, w) and heatmaps (N, K, h, w)."""

    def __init__(self, depth: int, features: int, joints: int) -> None:
        super().__init__()
        self.hourglass = Hourglass(depth, features)
        self.residual = Residual(features, features)
        self.linear = nn.Sequential(nn.Conv2d(features, features, 1), nn.BatchNorm2d(features), nn.ReLU())
        self.score = nn.Conv2d(features, joints, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(self.residual(self.hourglass(x)))
        return y, self.score(y)


class Stage(nn.Module):
    """A head whose features and heatmaps are merged back for the next stack: all stacks but the last."""

    def __init__(self, depth: int, features: int, joints: int) -> None:
        super().__init__()
        self.head = Head(depth, features, joints)
        self.merge_features = nn.Conv2d(features, features, 1)
        self.merge_heatmaps = nn.Conv2d(joints, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, heatmaps = self.head(x)
        return x + self.merge_features(y) + self.merge_heatmaps(heatmaps), heatmaps


class StackedHourglass(nn.Module):
    """(N, 3, H, W) normalised float RGB -> (N, S, K, H/4, W/4) heatmaps of every stack, the last being the best."""

    def __init__(self, arch: Architecture, joints: int) -> None:
        super().__init__()
        self.arch = arch
        self.meta: Meta  # set by hgfast.checkpoints.build
        first, second, third = arch.stem
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=2, padding=3),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            Residual(first, second),
            nn.MaxPool2d(2),
            Residual(second, third),
            Residual(third, arch.features),
        )
        self.stages = nn.ModuleList(Stage(arch.depth, arch.features, joints) for _ in range(arch.stacks - 1))
        self.last = Head(arch.depth, arch.features, joints)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x, heatmaps = stage(x)
            outputs.append(heatmaps)
        _, heatmaps = self.last(x)
        outputs.append(heatmaps)
        return torch.stack(outputs, 1)
