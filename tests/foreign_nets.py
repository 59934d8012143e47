"""Stacked hourglasses of any size with the module names of two other projects, to create weights in their format."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d


class Conv(nn.Module):
    """A convolution named conv, a BatchNorm named bn, and a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bn: bool = False, relu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2)
        self.bn = nn.BatchNorm2d(outputs) if bn else None
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return x.relu() if self.relu else x


class SkipResidual(nn.Module):
    """Always has a skip_layer, but uses it only between different widths."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs // 2), nn.BatchNorm2d(outputs // 2)
        self.conv1, self.conv2 = Conv(inputs, outputs // 2, 1), Conv(outputs // 2, outputs // 2, 3)
        self.conv3, self.skip_layer = Conv(outputs // 2, outputs, 1), Conv(inputs, outputs, 1)
        self.needed = inputs != outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x).relu())
        y = self.conv2(self.bn2(y).relu())
        y = self.conv3(self.bn3(y).relu())
        return y + (self.skip_layer(x) if self.needed else x)


class PrincetonHourglass(nn.Module):
    def __init__(self, depth: int, features: int, increase: int) -> None:
        super().__init__()
        wider = features + increase
        self.up1, self.low1 = SkipResidual(features, features), SkipResidual(features, wider)
        self.low2 = PrincetonHourglass(depth - 1, wider, increase) if depth > 1 else SkipResidual(wider, wider)
        self.low3 = SkipResidual(wider, features)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(max_pool2d(x, 2))))
        return self.up1(x) + interpolate(low, scale_factor=2)


class Merge(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PrincetonNet(nn.Module):
    """(N, 3, H, W) -> (N, S, K, H/4, W/4), with princeton-vl's names."""

    def __init__(self, stacks: int, features: int, joints: int, increase: int = 0, depth: int = 4) -> None:
        super().__init__()
        self.pre = nn.Sequential(
            Conv(3, 64, 7, 2, bn=True, relu=True),
            SkipResidual(64, 128),
            nn.MaxPool2d(2),
            SkipResidual(128, 128),
            SkipResidual(128, features),
        )
        each = range(stacks)
        self.hgs = nn.ModuleList(nn.Sequential(PrincetonHourglass(depth, features, increase)) for _ in each)
        self.features = nn.ModuleList(
            nn.Sequential(SkipResidual(features, features), Conv(features, features, 1, bn=True, relu=True)) for _ in each
        )
        self.outs = nn.ModuleList(Conv(features, joints, 1) for _ in each)
        self.merge_features = nn.ModuleList(Merge(features, features) for _ in each[1:])
        self.merge_preds = nn.ModuleList(Merge(joints, features) for _ in each[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre(x)
        outputs = []
        for n, (hourglass, features, out) in enumerate(zip(self.hgs, self.features, self.outs)):
            y = features(hourglass(x))
            outputs.append(out(y))
            if n < len(self.merge_preds):
                x = x + self.merge_preds[n](outputs[-1]) + self.merge_features[n](y)
        return torch.stack(outputs, 1)


class Bottleneck(nn.Module):
    """Has a downsample only between different widths."""

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, padding=1)
        self.bn3, self.conv3 = nn.BatchNorm2d(planes), nn.Conv2d(planes, 2 * planes, 1)
        self.downsample = None if inputs == 2 * planes else nn.Sequential(nn.Conv2d(inputs, 2 * planes, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x).relu())
        y = self.conv2(self.bn2(y).relu())
        y = self.conv3(self.bn3(y).relu())
        return y + (x if self.downsample is None else self.downsample(x))


def bottlenecks(inputs: int, planes: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Bottleneck(inputs, planes), *(Bottleneck(2 * planes, planes) for _ in range(blocks - 1)))


class BearpawHourglass(nn.Module):
    """Levels in one list, the innermost first; the innermost has a fourth chain."""

    def __init__(self, planes: int, blocks: int, depth: int) -> None:
        super().__init__()
        self.hg = nn.ModuleList(
            nn.ModuleList(bottlenecks(2 * planes, planes, blocks) for _ in range(3 if level else 4)) for level in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.level(len(self.hg) - 1, x)

    def level(self, n: int, x: Tensor) -> Tensor:
        rows = self.hg[n]
        assert isinstance(rows, nn.ModuleList)
        low = rows[1](max_pool2d(x, 2))
        low = self.level(n - 1, low) if n else rows[3](low)
        return rows[0](x) + interpolate(rows[2](low), scale_factor=2)


class BearpawNet(nn.Module):
    """(N, 3, H, W) -> (N, S, K, H/4, W/4), with bearpaw's names."""

    def __init__(self, stacks: int, planes: int, joints: int, blocks: int = 1, depth: int = 4, inplanes: int = 64) -> None:
        super().__init__()
        width, each = 2 * planes, range(stacks)
        self.conv1, self.bn1 = nn.Conv2d(3, inplanes, 7, 2, 3), nn.BatchNorm2d(inplanes)
        self.layer1, self.layer2 = bottlenecks(inplanes, inplanes, 1), bottlenecks(2 * inplanes, 2 * inplanes, 1)
        self.layer3 = bottlenecks(4 * inplanes, planes, 1)
        self.hg = nn.ModuleList(BearpawHourglass(planes, blocks, depth) for _ in each)
        self.res = nn.ModuleList(bottlenecks(width, planes, blocks) for _ in each)
        self.fc = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU()) for _ in each)
        self.score = nn.ModuleList(nn.Conv2d(width, joints, 1) for _ in each)
        self.fc_ = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in each[1:])
        self.score_ = nn.ModuleList(nn.Conv2d(joints, width, 1) for _ in each[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        x = self.layer3(self.layer2(max_pool2d(x, 2)))
        outputs = []
        for n, score in enumerate(self.score):
            y = self.fc[n](self.res[n](self.hg[n](x)))
            outputs.append(score(y))
            if n < len(self.fc_):
                x = x + self.fc_[n](y) + self.score_[n](outputs[-1])
        return torch.stack(outputs, 1)


def with_random_statistics(net: nn.Module) -> nn.Module:
    """Set random BatchNorm statistics and scales, and eval mode."""
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for value, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return net.eval()


def prefixed_state(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return the weights with a wrapper's prefix in their names."""
    return {prefix + name: value for name, value in net.state_dict().items()}
