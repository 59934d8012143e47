"""Fuzz exports: mutate a sidecar, an ONNX, a TorchScript or the header of an engine, and open the file.

If the model is mutated, the checksum in its sidecar is corrected, so that the model reaches the runtime.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.export.exporter.artifact import load_network
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.exporter.torchscript_export import make_torchscript
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.runtime import sidecar
from hgfast.runtime.session import Session
from hgfast.skeletons import BODY16
from tests.robustness.mutations import mutate_bytes, mutate_values
from tests.robustness.resource_monitor import outcome_of

SIDE = 64  # pixels of the input


# ---- mutation ----


def prepare(folder: Path) -> dict[str, Path]:
    """Export a tiny network to a new folder in every format that opens without a GPU, and write a fake engine that opens."""
    folder.mkdir()
    torch.manual_seed(0)
    checkpoint = folder / "net.pt"
    meta = Meta(BODY16, Normalization(), SIDE, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.model_state(build_model(replace(PRESETS["tiny"], depth=1), meta)), checkpoint)
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    onnx = make_onnx(config, load_network(config), config.output_path("onnx")).path
    script = make_torchscript(config, load_network(config), config.output_path("torchscript")).path
    engine = folder / "net.engine"
    plan = b"vtrt" + bytes(12) + (4096).to_bytes(8, "little") + bytes((1, 7, 1, 116))
    engine.write_bytes(plan + bytes(4096 - len(plan)))
    content = json.loads(sidecar.sidecar_path(onnx).read_text())
    content |= {"artefact": engine.name, "kind": "tensorrt_rtx", "builder": {"backend": "tensorrt_rtx", "version": "1.7.1.116"}}
    sidecar.sidecar_path(engine).write_text(json.dumps(content | {"sha256": sidecar.sha256_of(engine)}))
    return {"onnx": onnx, "torchscript": script, "engine": engine}


def break_export(number: int, exports: dict[str, Path], folder: Path) -> Path:
    """Write the file of a case with its sidecar; returns its path.

    Of four cases, two have a broken sidecar, one a broken ONNX, and one a broken TorchScript or engine.
    """
    rng = random.Random(number)  # noqa: S311  (not cryptographic)
    kind = ("onnx", "onnx", "onnx", rng.choice(("torchscript", "engine", "engine")))[number % 4]
    source = exports[kind]
    path = folder / f"net{source.suffix}"
    data, text = source.read_bytes(), sidecar.sidecar_path(source).read_bytes()
    if number % 4 < 2:
        content = json.loads(text)
        text = mutate_bytes(text, rng, len(text)) if number % 4 else json.dumps(mutate_values(content, rng)).encode()
    else:
        data = mutate_bytes(data, rng, {"onnx": 4096 if rng.random() < 0.5 else len(data)}.get(kind, 4096))
        path.write_bytes(data)
        text = json.dumps({**json.loads(text), "sha256": sidecar.sha256_of(path)}).encode()
    path.write_bytes(data)
    sidecar.sidecar_path(path).write_bytes(text)
    return path


# ---- opening ----


def kind_of(number: int) -> str:
    """Return the kind of a case (see `break_export`)."""
    return ("sidecar", "sidecar", "onnx", "torchscript, engine")[number % 4]


def start(exports: dict[str, Path]) -> Callable[[int], str]:
    """Return the function that runs a case; every process has its own folder."""
    folder = next(iter(exports.values())).parent / f"broken-{os.getpid()}"
    folder.mkdir()
    return partial(run_case, exports, folder)


def run_case(exports: dict[str, Path], folder: Path, number: int) -> str:
    """Break a file, open a session and run it on an image."""
    path = break_export(number, exports, folder)
    return outcome_of(lambda: run_session(path))


def run_session(path: Path) -> None:
    image = np.full((SIDE, SIDE + 9, 3), 77, np.uint8)
    with Session(path, None if path.suffix != ".onnx" else "onnxruntime", threads=1) as session:
        keypoints = session(image).keypoints
        if keypoints.shape != (1, len(session.skeleton.joints), 2):
            raise AssertionError(f"keypoints of shape {keypoints.shape}")
