"""Broken exports: bytes or values of a sidecar, or bytes of an ONNX, of a TorchScript or of an engine's header.

Where it is the model that is broken, the sidecar's checksum is made right again, so that it reaches the runtime.
What may enter: making exported networks, breaking them and opening them.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "export"))  # where Python looks for the modules beside a script
sys.path.append(str(Path(__file__).parent))  # likewise, where a test imports this one

from mutations import broken_bytes, broken_values
from options import ExportConfig
from to_onnx import make_onnx
from torchscript import make_torchscript
from watched import ended

from hgfast import checkpoints, sidecar
from hgfast.checkpoints import build
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.runtime import Session
from hgfast.skeletons import BODY16

SIDE = 64  # pixels of the input


# ---- what is broken ----


def originals(folder: Path) -> dict[str, Path]:
    """A tiny network in every form that can be opened without a GPU, and what passes for an engine until it is run."""
    torch.manual_seed(0)
    checkpoint = folder / "net.pt"
    meta = Meta(BODY16, Preprocessing(), SIDE, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.describe(build(PRESETS["tiny"], meta)), checkpoint)
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    onnx = make_onnx(config, config.load(), config.target("onnx")).path
    script = make_torchscript(config, config.load(), config.target("torchscript")).path
    engine = folder / "net.engine"
    plan = b"vtrt" + bytes(12) + (4096).to_bytes(8, "little") + bytes((1, 7, 1, 116))
    engine.write_bytes(plan + bytes(4096 - len(plan)))
    content = json.loads(sidecar.place(onnx).read_text())
    content |= {"artefact": engine.name, "kind": "tensorrt_rtx", "builder": {"backend": "tensorrt_rtx", "version": "1.7.1.116"}}
    sidecar.place(engine).write_text(json.dumps(content | {"sha256": sidecar.checksum(engine)}))
    return {"onnx": onnx, "torchscript": script, "engine": engine}


def break_one(number: int, good: dict[str, Path], place: Path) -> Path:
    """The file of a case, its sidecar beside it: of four cases two have a broken sidecar, one an ONNX, one another form."""
    rng = random.Random(number)  # noqa: S311  (no secret)
    kind = ("onnx", "onnx", "onnx", rng.choice(("torchscript", "engine", "engine")))[number % 4]
    source = good[kind]
    path = place / f"net{source.suffix}"
    data, text = source.read_bytes(), sidecar.place(source).read_bytes()
    if number % 4 < 2:
        content = json.loads(text)
        text = broken_bytes(text, rng, len(text)) if number % 4 else json.dumps(broken_values(content, rng)).encode()
    else:
        data = broken_bytes(data, rng, {"onnx": 4096 if rng.random() < 0.5 else len(data)}.get(kind, 4096))
        path.write_bytes(data)
        text = json.dumps({**json.loads(text), "sha256": sidecar.checksum(path)}).encode()
    path.write_bytes(data)
    sidecar.place(path).write_bytes(text)
    return path


# ---- what opens it ----


def kind_of(number: int) -> str:
    """What is broken in a case: of four, two have a broken sidecar, one an ONNX, one another form."""
    return ("sidecar", "sidecar", "onnx", "torchscript, engine")[number % 4]


def start(good: dict[str, Path]) -> Callable[[int], str]:
    """What a process does with a case: in a folder of its own, so that several may be at work."""
    place = next(iter(good.values())).parent / f"broken-{os.getpid()}"
    place.mkdir()
    return partial(one, good, place)


def one(good: dict[str, Path], place: Path, number: int) -> str:
    """Break a file, and show it a picture if a session opens."""
    path = break_one(number, good, place)
    return ended(lambda: look(path))


def look(path: Path) -> None:
    image = np.full((SIDE, SIDE + 9, 3), 77, np.uint8)
    with Session(path, None if path.suffix != ".onnx" else "onnxruntime", threads=1) as session:
        points = session(image).keypoints
        if points.shape != (1, len(session.skeleton.joints), 2):
            raise AssertionError(f"keypoints of shape {points.shape}")
