"""The stacked hourglass (Newell et al., ECCV 2016), and its presets.

Shapes: N pictures, S stacks, K joints, C features; the input is H x W, every map H/4 x W/4.
What may enter: the network's architecture, and what one needs to know to use it. It must script, trace, compile and export: no
shape asserts, no indexed ModuleLists, and no module that a forward pass does not use (DDP would wait for its gradient for ever).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from hgfast.errors import HgfastError
from hgfast.heatmaps import KINDS, METHODS
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import Skeleton

STRIDE = 4
LARGEST = 2**14  # channels or pixels, beyond what fits any GPU
DEEPEST, MOST = 12, 256  # halvings, stacks


@dataclass(frozen=True)
class Meta:
    """What a network needs to be used: `model.meta`.

    kind and decoder go to `hgfast.heatmaps.decode`; pixel_offset is what was added to the training files' coordinates.
    shift is what must be added, in source pixels, to the points that the network finds: 0 unless its pixel_offset was not
    the one that its data set needed, as for weights trained on MPII's numbers, which count from 1, as they are.
    """

    skeleton: Skeleton
    preprocessing: Preprocessing
    input_size: int
    kind: str
    decoder: str
    pixel_offset: float
    stride: int = STRIDE
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.decoder not in METHODS or self.kind not in KINDS:
            raise ValueError(f"unknown decoder {self.decoder!r} or kind of maps {self.kind!r}")


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of the weights but the number of joints.

    stacks: number of hourglasses. features: channels at their full resolution, `growth` more at every halving.
    depth: halvings inside one. blocks: residuals in a row wherever the paper has one (bearpaw's num_blocks).
    stem: channels after the 7x7 convolution, after the first and after the second residual.
    input_size: side of the square input the network is trained at, pixels.
    """

    stacks: int = 1
    features: int = 256
    growth: int = 0
    depth: int = 4
    blocks: int = 1
    stem: tuple[int, int, int] = (64, 128, 128)
    input_size: int = 256

    def __post_init__(self) -> None:
        numbers = (self.stacks, self.features, self.growth, self.depth, self.blocks, *self.stem, self.input_size)
        if not all(type(number) is int and number <= LARGEST for number in numbers) or len(self.stem) != 3:
            raise HgfastError(f"model: its numbers must be whole and at most {LARGEST}, with three in the stem")
        if self.depth > DEEPEST or self.stacks > MOST:
            raise HgfastError(f"model: the depth may be {DEEPEST} and the number of stacks {MOST} at most")
        multiple = STRIDE * 2**self.depth
        if self.input_size < multiple or self.input_size % multiple:
            raise HgfastError(
                f"model.input_size {self.input_size} does not fit model.depth {self.depth}: take a multiple of {multiple}"
            )
        if min(self.stacks, self.depth, self.blocks, self.stem[0]) < 1 or self.growth < 0:
            raise HgfastError("model: stacks, depth, blocks and the stem's widths must be at least 1, growth at least 0")
        if any(width < 2 or width % 2 for width in (self.features, self.features + self.growth, *self.stem[1:])):
            raise HgfastError("model: features, growth and the stem's second and third width must be even")


PRESETS: dict[str, Architecture] = {
    "hg1": Architecture(stacks=1),
    "hg2": Architecture(stacks=2),
    "hg8": Architecture(stacks=8),
    "small": Architecture(features=64, growth=32, depth=3, stem=(16, 16, 32), input_size=96),  # two CPU cores train it in minutes
    "tiny": Architecture(features=16, depth=3, stem=(8, 16, 16), input_size=64),  # for tests
}


def architecture(preset: str, **changes: Any) -> Architecture:
    """The named preset with the fields of `changes` that are not None replaced.

    Raises:
        HgfastError: an unknown name, or values that do not fit together.
    """
    if preset not in PRESETS:
        raise HgfastError(f"model.preset {preset!r} is unknown; choose from {', '.join(PRESETS)}")
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
        # in place: nobody needs what was there, and memory traffic is a twentieth of a step on a CPU
        y = self.conv1(self.bn1(x).relu_())
        y = self.conv2(self.bn2(y).relu_())
        y = self.conv3(self.bn3(y).relu_())
        return y.add_(self.skip(x))


def residuals(inputs: int, outputs: int, blocks: int) -> nn.Module:
    """`blocks` residuals in a row, the first of which changes the width; one alone is not wrapped."""
    row = [Residual(inputs if n == 0 else outputs, outputs) for n in range(blocks)]
    return nn.Sequential(*row) if blocks > 1 else row[0]


class Hourglass(nn.Module):
    """Down `depth` halvings and up again, with a residual across at every resolution: (N, C, h, w) -> (N, C, h, w).

    `growth` channels are added at every halving (the seed's `increase`): capacity where it costs little.
    """

    def __init__(self, depth: int, features: int, growth: int, blocks: int) -> None:
        super().__init__()
        wider = features + growth
        self.across = residuals(features, features, blocks)
        self.down = residuals(features, wider, blocks)
        self.inner = Hourglass(depth - 1, wider, growth, blocks) if depth > 1 else residuals(wider, wider, blocks)
        self.up = residuals(wider, features, blocks)

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(max_pool2d(x, 2))))
        return self.across(x) + interpolate(low, scale_factor=2.0, mode="nearest")


class Head(nn.Module):
    """One hourglass and what reads it: (N, C, h, w) -> features (N, C, h, w) and heatmaps (N, K, h, w)."""

    def __init__(self, arch: Architecture, joints: int) -> None:
        super().__init__()
        features = arch.features
        self.hourglass = Hourglass(arch.depth, features, arch.growth, arch.blocks)
        self.residual = residuals(features, features, arch.blocks)
        self.linear = nn.Sequential(nn.Conv2d(features, features, 1), nn.BatchNorm2d(features), nn.ReLU())
        self.score = nn.Conv2d(features, joints, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(self.residual(self.hourglass(x)))
        return y, self.score(y)


class Stage(nn.Module):
    """A head whose features and heatmaps are merged back for the next stack: all stacks but the last."""

    def __init__(self, arch: Architecture, joints: int) -> None:
        super().__init__()
        self.head = Head(arch, joints)
        self.merge_features = nn.Conv2d(arch.features, arch.features, 1)
        self.merge_heatmaps = nn.Conv2d(joints, arch.features, 1)

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
        self.stages = nn.ModuleList(Stage(arch, joints) for _ in range(arch.stacks - 1))
        self.last = Head(arch, joints)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x, heatmaps = stage(x)
            outputs.append(heatmaps)
        _, heatmaps = self.last(x)
        outputs.append(heatmaps)
        return torch.stack(outputs, 1)

    def last_stack(self, images: Tensor) -> Tensor:
        """The last stack's heatmaps alone, (N, K, H/4, W/4): what is exported."""
        x = self.stem(images)
        for stage in self.stages:
            x, _ = stage(x)
        return self.last(x)[1]
