"""The exported graph and the predictor of checkpoints on fake CUDA tensors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from hgfast import checkpoints
from hgfast.architectures import DECODERS, HEATMAP_KINDS, PRESETS, STRIDE
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportSpec
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.runtime import torch_predictor
from hgfast.runtime.boxes import crop_image, crop_squares
from hgfast.runtime.sidecar import OUTPUT_NAMES
from hgfast.runtime.torch_predictor import TorchPredictor
from hgfast.skeletons import BODY16
from tests.fake_gpu import GPU, SynchronizingCopy, fake_gpu, to_gpu

N, JOINTS = 3, len(BODY16.joints)
DECODED = list(product(HEATMAP_KINDS, DECODERS))
SPECS = [(False, False, False), (True, True, False), (False, True, True)]  # fp16, flip_test, normalized
GRAPHS = [("tiny", *decoded, *SPECS[1]) for decoded in DECODED]
GRAPHS += [("tiny", "logits", "dark", *spec) for spec in SPECS if spec != SPECS[1]]
GRAPHS += [("hg2", "logits", "dark", True, False, False)]
SLOW = [pytest.param(preset, "logits", "dark", True, False, False, marks=pytest.mark.slow) for preset in ("small", "hg1", "hg8")]


def make_model(preset: str, kind: str, decoder: str) -> StackedHourglass:
    arch = PRESETS[preset]
    return checkpoints.build_model(arch, Meta(BODY16, Normalization(), arch.input_size, kind, decoder, 0.0)).eval()


@pytest.mark.parametrize("preset, kind, decoder, fp16, flip_test, normalized", [*GRAPHS, *SLOW])
def test_exported_graph(preset: str, kind: str, decoder: str, fp16: bool, flip_test: bool, normalized: bool) -> None:
    graph = ExportModule(make_model(preset, kind, decoder), ExportSpec(fp16, flip_test, normalized, OUTPUT_NAMES))
    side = graph.meta.input_size
    shape, dtype = ((N, 3, side, side), torch.float32) if normalized else ((N, side, side, 3), torch.uint8)
    with fake_gpu() as mode, torch.inference_mode():
        to_gpu(graph, mode)
        keypoints, heatmaps = graph(torch.zeros(shape, dtype=dtype, device=GPU))
    assert keypoints.shape == (N, JOINTS, 3) and heatmaps.shape == (N, JOINTS, side // STRIDE, side // STRIDE)
    assert {(output.device, output.dtype) for output in (keypoints, heatmaps)} == {(GPU, torch.float32)}


@pytest.mark.parametrize("kind, decoder", DECODED)
def test_predictor_waits_for_keypoints_only(kind: str, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first copy to the host is that of the keypoints."""
    model = make_model("tiny", kind, decoder)
    predictor = TorchPredictor(model, flip_test=decoder == "dark")
    image, boxes = np.zeros((90, 120, 3), np.uint8), [(0, 0, 60, 60), (30, 20, 50, 70)]
    cropped = crop_image(image, *crop_squares(image, boxes), model.meta.input_size)
    monkeypatch.setattr(torch_predictor, "crop_image", lambda *_: cropped)  # needs values
    with fake_gpu() as mode, pytest.raises(SynchronizingCopy, match=rf"copies \({len(boxes)}, {JOINTS}, 3\) values"):
        to_gpu(model, mode)
        predictor.predict_crops(image, boxes)
