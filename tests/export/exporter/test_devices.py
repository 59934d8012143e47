"""TorchScript and sessions on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.export.exporter.artifact import ExportedArtifact, load_network
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportConfig, TensorRTConfig
from hgfast.export.exporter.tensorrt_export import export_engine
from hgfast.export.exporter.torchscript_export import make_torchscript
from hgfast.export.exporter.verify import gpu_tolerances, tolerances_for
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime.backends import Artifact
from hgfast.runtime.session import Session
from tests.gpu import DEVICES

COUNT = 3


@pytest.fixture
def on_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Hide the GPU from tests of the CPU."""
    if device.type == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return device


def export(checkpoint: Path, out: Path, precision: Any) -> tuple[ExportConfig, ExportedArtifact]:
    config = ExportConfig(checkpoint=checkpoint, precision=precision, batch="1:2:4", outputs="keypoints,heatmaps")
    return config, make_torchscript(config, load_network(config), out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torchscript_equals_eager(precision: Any, on_device: torch.device, tiny_checkpoint: Path, tmp_path: Path) -> None:
    config, exported = export(tiny_checkpoint, tmp_path / "net.torchscript", precision)
    assert exported.rows and {row["verdict"] for row in exported.rows} == {"ok"}
    assert all(("limits" in row) == (on_device.type == "cuda") for row in exported.rows)
    images = render_images(64, COUNT, False)
    found = Artifact(exported.path)(images)
    graph = ExportModule(load_network(config), config.spec).to(on_device)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        keypoints, heatmaps = (output.cpu().numpy() for output in graph(torch.from_numpy(images).to(on_device)))
    limits = gpu_tolerances(tolerances_for(precision, 1))
    assert limits is not None
    assert np.abs(found["heatmaps"] - heatmaps).max() <= limits.heatmaps * np.abs(heatmaps).max()
    assert np.median(np.abs(found["keypoints"][..., :2] - keypoints[..., :2])) < limits.pixels


@pytest.mark.parametrize("device", DEVICES)
def test_session_in_the_callers_stream(on_device: torch.device, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A session works after what the caller has enqueued in the stream, and its results are complete when it returns."""
    _, exported = export(tiny_checkpoint, tmp_path / "net.torchscript", "fp32")
    images = list(render_images(64, COUNT, False))
    with Session(exported.path) as session:
        expected = [people.keypoints for people in session(images)]
    on_gpu = on_device.type == "cuda"
    stream = torch.cuda.Stream() if on_gpu else None
    with Session(exported.path, stream=stream.cuda_stream if stream is not None else None) as session:
        before = torch.ones(2048, 2048, device=on_device) / 2048
        with torch.cuda.stream(stream):  # None has no effect
            product = before
            for _ in range(20):
                product = product @ before
            found = [people.keypoints for people in session(images)]
            if stream is not None:
                assert stream.query()  # the session has waited for its own work and all before it
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)
    assert torch.allclose(product, torch.full_like(product, 1 / 2048), rtol=1e-3)


@contextmanager
def loading_in_background(hands: Path, device: torch.device) -> Iterator[None]:
    """Load batches with DALI in another thread, which frees the memory of each while the next is decoded."""
    plan = BatchPlan(read_freihand(hands, "train", ["gs"]), 64, 8, augment=AugmentConfig(), seed=0)
    loader, stop, errors = DaliLoader(plan, device, 1, Normalization()), Event(), list[Exception]()

    def load() -> None:
        try:
            for epoch in count():
                for _ in loader.epoch(epoch):
                    if stop.is_set():
                        return
        except Exception as error:
            errors.append(error)

    thread = Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


@pytest.mark.dali
@pytest.mark.parametrize("device", DEVICES)
def test_network_beside_dali(
    on_device: torch.device, hands: Path, tiny_checkpoint: Path, tiny_onnx: ExportedArtifact, tmp_path: Path
) -> None:
    """An exported network, on a GPU an engine that captures a CUDA graph for each batch size, is right while DALI decodes."""
    path, images = tiny_onnx.path, render_images(64, 4, False)
    expected = Artifact(path)(images)["keypoints"]
    if on_device.type == "cuda":
        config = TensorRTConfig(checkpoint=tiny_checkpoint, batch="1:2:4", outputs="keypoints,heatmaps")
        try:
            path = export_engine(config, load_network(config), tmp_path / "net.engine").path
        except HgfastError as error:
            pytest.skip(str(error))
    with loading_in_background(hands, on_device):
        network = Artifact(path)
        for number in (1, 2, 3, 4) * 5:
            found = network(images[:number])["keypoints"]
            assert np.isfinite(found).all()
            assert np.median(np.abs(found[..., :2] - expected[:number, :, :2])) < 0.1
