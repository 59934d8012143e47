"""The stacked hourglass network (Newell et al., ECCV 2016) and its metadata.

Shapes: N images, S stacks, K joints, C features; the input is H x W, every map H/4 x W/4.
The network must script, trace, compile and export: no shape asserts, no indexed ModuleLists, and no module that a forward pass
does not use (DDP would wait for its gradient forever).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from hgfast.architectures import DECODERS, HEATMAP_KINDS, STRIDE, Architecture
from hgfast.normalization import Normalization
from hgfast.skeletons import Skeleton, rename_keys

STORED_NAMES = {"heatmap_kind": "kind", "normalization": "preprocessing"}
"""Fields of `Meta` that checkpoints store under another name."""


@dataclass(frozen=True)
class Meta:
    """Metadata needed to use a network: `model.meta`.

    heatmap_kind, decoder: arguments of `hgfast.heatmaps.decode` (decoder is its `method`).
    pixel_offset: added to the coordinates of the training files when they were read.
    shift: source pixels to add to the predicted points. It is 0 unless the network was trained with another pixel_offset than
        its data set requires, such as weights trained on MPII's 1-based coordinates without an offset.
    """

    skeleton: Skeleton
    normalization: Normalization
    input_size: int
    heatmap_kind: str
    decoder: str
    pixel_offset: float
    stride: int = STRIDE
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS or self.heatmap_kind not in HEATMAP_KINDS:
            raise ValueError(f"unknown decoder {self.decoder!r} or heatmap_kind {self.heatmap_kind!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types under the names that checkpoints store (`STORED_NAMES`)."""
        return rename_keys({**asdict(self), "skeleton": self.skeleton.to_dict()}, STORED_NAMES)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Meta:
        """Restore the metadata from `to_dict`; lists are accepted for tuples.

        Raises LookupError, TypeError, ValueError or AttributeError if fields are unknown, missing or of another type.
        """
        fields = rename_keys(stored, {stored_name: name for name, stored_name in STORED_NAMES.items()})
        fields["skeleton"] = Skeleton.from_dict(fields["skeleton"])
        fields["normalization"] = Normalization(**{key: tuple(value) for key, value in fields["normalization"].items()})
        return cls(**fields)


class Residual(nn.Module):
    """Pre-activation bottleneck block: (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        mid_channels = out_channels // 2
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 1)
        self.bn2 = nn.BatchNorm2d(mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, mid_channels, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(mid_channels)
        self.conv3 = nn.Conv2d(mid_channels, out_channels, 1)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # in place: the activations' inputs are not needed, and memory traffic is a twentieth of a step on a CPU
        y = self.conv1(self.bn1(x).relu_())
        y = self.conv2(self.bn2(y).relu_())
        y = self.conv3(self.bn3(y).relu_())
        return y.add_(self.skip(x))


def residual_blocks(inputs: int, outputs: int, blocks: int) -> nn.Module:
    """Return `blocks` consecutive residual blocks, of which the first changes the width; a single one is not wrapped."""
    row = [Residual(inputs if n == 0 else outputs, outputs) for n in range(blocks)]
    return nn.Sequential(*row) if blocks > 1 else row[0]


class Hourglass(nn.Module):
    """Hourglass with `depth` downsampling steps and skip branches at every resolution: (N, C, h, w) -> (N, C, h, w).

    Every downsampling adds `growth` channels (princeton-vl's `increase`).
    """

    def __init__(self, depth: int, features: int, growth: int, blocks: int) -> None:
        super().__init__()
        wider = features + growth
        self.across = residual_blocks(features, features, blocks)
        self.down = residual_blocks(features, wider, blocks)
        self.inner = Hourglass(depth - 1, wider, growth, blocks) if depth > 1 else residual_blocks(wider, wider, blocks)
        self.up = residual_blocks(wider, features, blocks)

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(max_pool2d(x, 2))))
        return self.across(x) + interpolate(low, scale_factor=2.0, mode="nearest")


class Head(nn.Module):
    """One hourglass with its output layers: (N, C, h, w) -> features (N, C, h, w) and heatmaps (N, K, h, w)."""

    def __init__(self, arch: Architecture, num_joints: int) -> None:
        super().__init__()
        features = arch.features
        self.hourglass = Hourglass(arch.depth, features, arch.growth, arch.blocks)
        self.residual = residual_blocks(features, features, arch.blocks)
        self.linear = nn.Sequential(nn.Conv2d(features, features, 1), nn.BatchNorm2d(features), nn.ReLU())
        self.score = nn.Conv2d(features, num_joints, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(self.residual(self.hourglass(x)))
        return y, self.score(y)


class Stage(nn.Module):
    """A head whose features and heatmaps are merged into the next stack's input; used by all stacks but the last."""

    def __init__(self, arch: Architecture, num_joints: int) -> None:
        super().__init__()
        self.head = Head(arch, num_joints)
        self.merge_features = nn.Conv2d(arch.features, arch.features, 1)
        self.merge_heatmaps = nn.Conv2d(num_joints, arch.features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, heatmaps = self.head(x)
        return x + self.merge_features(y) + self.merge_heatmaps(heatmaps), heatmaps


class StackedHourglass(nn.Module):
    """Stacked hourglass: (N, 3, H, W) normalized float RGB -> (N, S, K, H/4, W/4) heatmaps of every stack."""

    def __init__(self, arch: Architecture, num_joints: int) -> None:
        super().__init__()
        self.arch = arch
        self.meta: Meta  # set by hgfast.checkpoints.build_model
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
        self.stages = nn.ModuleList(Stage(arch, num_joints) for _ in range(arch.stacks - 1))
        self.last = Head(arch, num_joints)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        outputs: list[Tensor] = []
        for stage in self.stages:
            x, heatmaps = stage(x)
            outputs.append(heatmaps)
        _, heatmaps = self.last(x)
        outputs.append(heatmaps)
        return torch.stack(outputs, 1)

    def forward_last_stack(self, images: Tensor) -> Tensor:
        """Return only the last stack's heatmaps, (N, K, H/4, W/4), as exported networks do."""
        x = self.stem(images)
        for stage in self.stages:
            x, _ = stage(x)
        return self.last(x)[1]
