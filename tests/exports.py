"""A tiny network as if it had been trained, and its exports, which all tests share: torch's exporter takes seconds."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from hgfast import checkpoints
from hgfast.architectures import architecture
from hgfast.export.exporter import onnx_export
from hgfast.export.exporter.artifact import ExportedArtifact, load_network
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportConfig
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.runtime.sidecar import BatchRange
from hgfast.skeletons import BODY16, Skeleton
from tests.foreign_nets import with_random_statistics

BATCH, MAX_BATCH = "1:2:5", 5
FLIP_FLAGS = {"flip_test": True, "input": "float", "decoder": "quarter"}
"""Flags of an export that differs from `tiny_onnx` in all that it can."""
Exporter = Callable[[ExportModule, BatchRange], onnx.ModelProto]


def save_checkpoint(
    path: Path, skeleton: Skeleton = BODY16, preset: str = "tiny", depth: int | None = None, **changed: Any
) -> Path:
    """Write the checkpoint of a network. changed: fields of its `Meta`."""
    torch.manual_seed(4)
    meta = Meta(skeleton, Normalization((0.45, 0.5, 0.4), (0.25, 0.2, 0.3)), 64, "logits", "dark", -0.5, shift=0.125)
    model = checkpoints.build_model(architecture(preset, depth=depth), replace(meta, **changed))
    with_random_statistics(model)
    with torch.no_grad():
        model.last.score.weight *= 20  # so that some joints have high scores
    checkpoints.save(checkpoints.model_state(model), path)
    return path


def export_onnx(checkpoint: Path, out: Path, **flags: Any) -> ExportedArtifact:
    """Export to ONNX, by default with both outputs and for up to `MAX_BATCH` images."""
    config = ExportConfig(checkpoint=checkpoint, **{"batch": BATCH, "threads": 1, "outputs": "keypoints,heatmaps", **flags})
    return onnx_export.make_onnx(config, load_network(config), out)


def caching_exporter(folder: Path) -> Exporter:
    """Return an `onnx_export.export_onnx_model` that reads the model from `folder` if it was exported before."""
    export = onnx_export.export_onnx_model

    def cached_export(graph: ExportModule, sizes: BatchRange) -> onnx.ModelProto:
        free_batch = sizes.max > sizes.min
        digest = hashlib.sha256(repr((graph.spec, graph.meta, free_batch or sizes.max)).encode())
        for name, value in graph.state_dict().items():
            digest.update(f"{name} {value.shape}".encode() + value.numpy().tobytes())
        path = folder / f"{digest.hexdigest()}.onnx"
        with path.with_suffix(".lock").open("w") as lock:  # another worker may be exporting it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                onnx.save(export(graph, sizes), path)
        return onnx.load(path)

    return cached_export
