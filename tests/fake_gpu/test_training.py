"""Training, losses, EMA and decoding on fake CUDA tensors."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from hgfast import checkpoints
from hgfast.architectures import DECODERS, HEATMAP_KINDS, STRIDE, architecture
from hgfast.config import LossConfig
from hgfast.heatmaps import decode, render
from hgfast.losses import HEATMAP_KIND_OF_LOSS, heatmap_loss
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization, apply_color_affine, color_affine_kernel, normalize_images
from hgfast.runtime.torch_predictor import decode_keypoints, forward_heatmaps
from hgfast.skeletons import BODY16
from hgfast.training.batch import Batch
from hgfast.training.nan_guard import NonFiniteGuard
from hgfast.training.throughput import forward_flops
from hgfast.training.trainer import Trainer
from tests.factories import make_trainer
from tests.fake_gpu import GPU, SynchronizingCopy, fake_gpu, needs_backward, to_gpu

N, JOINTS = 4, len(BODY16.joints)
SLOW_PRESETS = [pytest.param(preset, marks=pytest.mark.slow) for preset in ("small", "hg1", "hg8")]


def make_model(preset: str, **changes: int) -> StackedHourglass:
    arch = architecture(preset, **changes)
    forward_flops(arch, JOINTS)  # which the trainer needs, is cached, and cannot be computed on a fake device
    return checkpoints.build_model(arch, Meta(BODY16, Normalization(), arch.input_size, "logits", "dark", 0.0))


def make_batch(size: int) -> Batch:
    images = torch.empty(N, 3, size, size, device=GPU).to(memory_format=torch.channels_last)
    points, labeled = torch.empty(N, JOINTS, 2, device=GPU), torch.empty(N, JOINTS, dtype=torch.bool, device=GPU)
    return Batch(images, points, labeled, np.arange(N), np.zeros(N, bool), np.tile(np.eye(3), (N, 1, 1)), N)


def test_the_fake_gpu_refuses_what_a_gpu_would_wait_for() -> None:
    with fake_gpu():
        values = torch.ones(3, device=GPU)
        assert (values + values).device == GPU
        for wait in (lambda: values.sum().item(), lambda: bool(values.any()), lambda: float(values[0])):
            with pytest.raises(DataDependentOutputException):
                wait()
        with pytest.raises(RuntimeError, match=r"[Dd]evice"):
            values + torch.ones(3)
        for copy in (values.cpu, lambda: values.to("cpu"), lambda: torch.empty(3).copy_(values)):
            with pytest.raises(SynchronizingCopy, match="copies"):
                copy()


def train_step(trainer: Trainer, size: int) -> Tensor:
    trainer.model.train()
    return trainer.train_step(make_batch(size))


@needs_backward
@pytest.mark.parametrize("preset", ["tiny", "hg2", *SLOW_PRESETS])
def test_a_training_step_does_not_synchronize(preset: str, tmp_path: Path) -> None:
    """Forward and backward pass, clipping, AdamW, EMA and the check of gradients; parameters, gradients and states on the GPU."""
    model = make_model(preset)
    with fake_gpu() as mode:
        to_gpu(model, mode)
        trainer = make_trainer(tmp_path, model=model, device=GPU, amp="bf16")
        loss = train_step(trainer, model.arch.input_size)
        assert loss.device == GPU and loss.shape == () and trainer.ema is not None
        tensors = [*model.parameters(), *model.buffers(), *trainer.ema.module.parameters()]
        tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
        assert {tensor.device for tensor in tensors} == {GPU}


@needs_backward
@pytest.mark.parametrize(
    "settings",
    [{"amp": "fp16"}, {"amp": "off"}, {"amp": "fp16", "grad_accum": 2}, {"optimizer": "adam"}, {"ema": 0.0}, {"grad_clip": 0.0}],
    ids=str,
)
def test_settings_do_not_add_a_synchronization(settings: dict[str, object], tmp_path: Path) -> None:
    model = make_model("tiny", depth=1)
    with fake_gpu() as mode:
        to_gpu(model, mode)
        trainer = make_trainer(tmp_path, model=model, device=GPU, **{"amp": "bf16", **settings})
        assert train_step(trainer, 64).device == GPU


@needs_backward
def test_rmsprop_synchronizes(tmp_path: Path) -> None:
    """As documented: torch has no fused rmsprop, so the host must know whether the gradients are finite."""
    model = make_model("tiny", depth=1)
    with fake_gpu() as mode, pytest.raises(DataDependentOutputException):
        to_gpu(model, mode)
        train_step(make_trainer(tmp_path, model=model, device=GPU, optimizer="rmsprop"), 64)


@needs_backward
@pytest.mark.parametrize(("name", "unlabeled"), [("cross_entropy", "ignore"), ("mse", "ignore"), ("mse", "zero")])
def test_losses(name: str, unlabeled: str) -> None:
    with fake_gpu():
        batch = make_batch(64)
        predictions = torch.empty(N, 2, JOINTS, 16, 16, device=GPU, dtype=torch.bfloat16, requires_grad=True)
        loss = heatmap_loss(LossConfig(name=name, unlabeled=unlabeled), predictions, batch.keypoints, batch.labeled, N)  # type: ignore[arg-type]
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.device == GPU and predictions.grad is not None and predictions.grad.device == GPU
        assert render(batch.keypoints, 16, 16).device == GPU and name in HEATMAP_KIND_OF_LOSS


@pytest.mark.parametrize(("decoder", "kind"), list(product(DECODERS, HEATMAP_KINDS)))
def test_decoders(decoder: str, kind: str) -> None:
    with fake_gpu(), torch.inference_mode():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            decoded = decode(torch.empty(N, JOINTS, 16, 12, device=GPU, dtype=dtype), decoder, kind)
            assert (decoded.device, decoded.shape, decoded.dtype) == (GPU, (N, JOINTS, 3), torch.float32)


@pytest.mark.parametrize(("preset", "flip_test"), [("tiny", True), ("tiny", False), ("hg2", False)])
def test_prediction(preset: str, flip_test: bool) -> None:
    """From uint8 images to keypoints, as in evaluation and in hgfast predict."""
    model = make_model(preset).eval()
    size = model.arch.input_size
    with fake_gpu() as mode, torch.inference_mode():
        to_gpu(model, mode)
        images = normalize_images(torch.empty(N, size, size, 3, dtype=torch.uint8, device=GPU), model.meta.normalization)
        assert images.is_contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            heatmaps = forward_heatmaps(model, images, flip_test)
        assert heatmaps.shape == (N, JOINTS, size // STRIDE, size // STRIDE)
        assert decode_keypoints(model, heatmaps).device == GPU


def test_colors_and_the_guard_of_gradients() -> None:
    with fake_gpu():
        crops, affine = torch.empty(N, 64, 64, 3, dtype=torch.uint8, device=GPU), torch.empty(N, 3, 4, device=GPU)
        images = apply_color_affine(crops, affine)
        assert images.device == GPU and images.shape == (N, 3, 64, 64)
        images = color_affine_kernel(crops, affine, torch.bfloat16)
        assert images.is_contiguous(memory_format=torch.channels_last) and images.dtype == torch.bfloat16
        guard = NonFiniteGuard(GPU, 2)
        guard.update(images.mean().isfinite(), 3)
        with pytest.raises(DataDependentOutputException):
            _ = guard.first_bad_step
