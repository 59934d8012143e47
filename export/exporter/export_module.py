"""The module to export: images in, keypoints out.

uint8 NHWC RGB -> float, normalize -> network (fp32 or fp16) -> last stack -> decode in fp32 -> keypoints (N, K, 3)
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hgfast.errors import HgfastError
from hgfast.export.exporter.options import ExportSpec
from hgfast.model import Residual, StackedHourglass
from hgfast.runtime.sidecar import HEATMAPS, KEYPOINTS
from hgfast.runtime.torch_predictor import check_flip_pairs, decode_keypoints


class ExportModule(nn.Module):
    """Maps images (N, S, S, 3) uint8 RGB, or those of `ExportSpec`, to a tuple of `ExportSpec.outputs`.

    keypoints: (N, K, 3) float32, x and y in input pixels (corner convention, see `hgfast.geometry`) and score.
    heatmaps: (N, K, S / stride, S / stride) float32 of the last stack, of `model.meta.heatmap_kind`.

    The module copies the model. Raises `HgfastError` for a flip test of joints without names.
    """

    def __init__(self, model: StackedHourglass, spec: ExportSpec) -> None:
        super().__init__()
        if spec.flip_test:
            check_flip_pairs(model.meta.skeleton)
        self.spec, self.meta = spec, model.meta
        self.network = copy.deepcopy(model).eval()
        if spec.fp16:
            fuse_batch_norms(self.network)  # rounds weights once instead of twice
            self.network.half()
            if any(not value.isfinite().all() for value in self.network.state_dict().values()):
                raise HgfastError("weights of this network exceed 65504, the largest number in fp16: use fp32")
        self.network.requires_grad_(False)
        mean, std = torch.tensor(self.meta.normalization.mean), torch.tensor(self.meta.normalization.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("bias", (-mean / std).view(3, 1, 1))
        self.register_buffer("swap", torch.tensor(self.meta.skeleton.flip_indices))
        self.scale: Tensor
        self.bias: Tensor
        self.swap: Tensor
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if not self.spec.normalized:
            images = images.float().permute(0, 3, 1, 2) * self.scale + self.bias  # TensorRT does not permute uint8
        heatmaps = self.heatmaps(images)
        outputs = {KEYPOINTS: decode_keypoints(self.network, heatmaps), HEATMAPS: heatmaps}
        return tuple(outputs[name] for name in self.spec.outputs)

    def example(self, count: int) -> Tensor:
        """Return `count` black images in the input format."""
        size = self.meta.input_size
        if self.spec.normalized:
            return torch.zeros(count, 3, size, size)
        return torch.zeros(count, size, size, 3, dtype=torch.uint8)

    def heatmaps(self, images: Tensor) -> Tensor:
        """Map normalized float32 (N, 3, S, S) to (N, K, S / stride, S / stride) float32, averaged with a flip test."""
        if self.spec.flip_test:
            images = torch.cat((images, images.flip(-1)))
        maps = self.network.forward_last_stack(images.half() if self.spec.fp16 else images).float()
        if not self.spec.flip_test:
            return maps
        original, flipped = maps.view(2, -1, *maps.shape[1:]).unbind()
        return (original + flipped.flip(-1).index_select(1, self.swap)) / 2


def fuse_batch_norms(network: StackedHourglass) -> None:
    """Fuse every BatchNorm that follows a convolution into it, in place; those before a residual remain."""
    modules: list[Any] = list(network.modules())
    for module in modules:
        if isinstance(module, Residual):
            block: Any = module
            block.conv1, block.bn2 = fuse_conv_bn_eval(module.conv1, module.bn2), nn.Identity()
            block.conv2, block.bn3 = fuse_conv_bn_eval(module.conv2, module.bn3), nn.Identity()
        elif isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            first: Any = module[0]
            module[0], module[1] = fuse_conv_bn_eval(first, module[1]), nn.Identity()
