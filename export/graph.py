"""The deployed graph: images in, keypoints out, as one module that traces and exports.

    uint8 NHWC RGB -> float, normalise -> network (fp32 or fp16) -> last stack -> decode in fp32 -> keypoints (N, K, 3)

What may enter: what the graph computes. Files, formats and runtimes stay outside.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hgfast.errors import HgfastError
from hgfast.inference import check_sides, keypoints_of
from hgfast.model import Residual, StackedHourglass
from hgfast.sidecar import HEATMAPS, KEYPOINTS


@dataclass(frozen=True)
class Wiring:
    """What a graph takes and gives.

    half: the network computes in fp16; what is before and after it does not. flip_test: the mirrored images go through the
    network too, in one batch with the others. normalised: the input is (N, 3, H, W) float32 that was normalised by whoever
    calls, instead of (N, H, W, 3) uint8 RGB. outputs: of `hgfast.sidecar.OUTPUTS`, in their order.
    """

    half: bool = False
    flip_test: bool = False
    normalised: bool = False
    outputs: tuple[str, ...] = (KEYPOINTS,)


class Deployed(nn.Module):
    """(N, S, S, 3) uint8 RGB, or as `Wiring` says -> what `Wiring.outputs` names, in a tuple.

    keypoints: (N, K, 3) float32, x and y in input pixels (corner convention, see `hgfast.geometry`) and score.
    heatmaps: (N, K, S / 4, S / 4) float32 of the last stack, of `model.meta.kind`.

    The model that is given is copied. Raises `HgfastError` for a flip test of joints without names.
    """

    def __init__(self, model: StackedHourglass, wiring: Wiring) -> None:
        super().__init__()
        if wiring.flip_test:
            check_sides(model.meta.skeleton)
        self.wiring, self.meta = wiring, model.meta
        self.network = copy.deepcopy(model).eval()
        if wiring.half:
            fold(self.network)  # rounded once instead of twice
            self.network.half()
            if any(not value.isfinite().all() for value in self.network.state_dict().values()):
                raise HgfastError("weights of this network are too large for fp16, whose largest number is 65504: use fp32")
        self.network.requires_grad_(False)
        mean, std = torch.tensor(self.meta.preprocessing.mean), torch.tensor(self.meta.preprocessing.std)
        self.register_buffer("factor", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("summand", (-mean / std).view(3, 1, 1))
        self.register_buffer("swap", torch.tensor(self.meta.skeleton.swap))
        self.factor: Tensor
        self.summand: Tensor
        self.swap: Tensor
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if not self.wiring.normalised:
            images = images.float().permute(0, 3, 1, 2) * self.factor + self.summand  # TensorRT permutes no bytes
        heatmaps = self.heatmaps(images)
        given = {KEYPOINTS: keypoints_of(self.network, heatmaps), HEATMAPS: heatmaps}
        return tuple(given[name] for name in self.wiring.outputs)

    def heatmaps(self, images: Tensor) -> Tensor:
        """Normalised float32 (N, 3, S, S) -> (N, K, S / 4, S / 4) float32; with a flip test the mean of both ways."""
        if self.wiring.flip_test:
            images = torch.cat((images, images.flip(-1)))
        maps = self.network.last_stack(images.half() if self.wiring.half else images).float()
        if not self.wiring.flip_test:
            return maps
        straight, mirrored = maps.view(2, -1, *maps.shape[1:]).unbind()
        return (straight + mirrored.flip(-1).index_select(1, self.swap)) / 2


def fold(network: StackedHourglass) -> None:
    """Take every BatchNorm that follows a convolution into that one's weights, in place; those before a residual stay."""
    modules: list[Any] = list(network.modules())
    for module in modules:
        if isinstance(module, Residual):
            parts: Any = module
            parts.conv1, parts.bn2 = fuse_conv_bn_eval(module.conv1, module.bn2), nn.Identity()
            parts.conv2, parts.bn3 = fuse_conv_bn_eval(module.conv2, module.bn3), nn.Identity()
        elif isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            first: Any = module[0]
            module[0], module[1] = fuse_conv_bn_eval(first, module[1]), nn.Identity()
