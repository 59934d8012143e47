"""A plain installation without torch: `hgfast predict` on an exported network, and the Python example of README."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.to_onnx import make_onnx
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.skeletons import BODY16
from tests.conftest import ROOT


def readme_example() -> str:
    """The Python block that opens a session."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "with Session(" in block]
    return str(example)


@pytest.mark.install
def test_plain_installation(tmp_path: Path) -> None:
    example = readme_example()
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    checkpoint = tmp_path / "exp" / "mpii" / "best.pt"
    checkpoint.parent.mkdir(parents=True)
    meta = Meta(BODY16, Normalization(), 64, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.model_state(build_model(PRESETS["tiny"], meta)), checkpoint)
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    make_onnx(config, config.load_model(), config.output_path("onnx"))
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((600, 500, 3), 90, np.uint8))
    source = tmp_path / "source"  # the installation writes into it
    shutil.copytree(ROOT, source, ignore=lambda _, names: ignored_names(names))
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}

    def run(program: str, *words: object) -> str:
        command = [programs / program, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=bare, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run(
        "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        ROOT / "constraints.txt",
        source,
        "onnxruntime",
    )
    absent = ("torch", "onnx", "pipelines", "export", "bench")
    assert run("python", "-c", f"import importlib.util as u; print([n for n in {absent} if u.find_spec(n)])").strip() == "[]"
    assert '"joints"' in run("python", "-c", example)
    assert "predict" in run("hgfast", "--help") and "--min-score" in run("hgfast", "predict", "--help")
    run("hgfast", "predict", "exp/mpii/best.fp32.onnx", "photo.jpg", "--out", "predictions")
    content = json.loads((tmp_path / "predictions/keypoints.json").read_text())
    assert len(content["images"]) == 1 and not content["failed"] and (tmp_path / "predictions/photo.jpg").is_file()
    command = [programs / "hgfast", "predict", checkpoint, "photo.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=bare, check=False)
    assert done.returncode == 2 and "is a checkpoint, which requires torch" in done.stderr and "Traceback" not in done.stderr


def ignored_names(names: list[str]) -> set[str]:
    """Names that are not part of the installation, or large."""
    return {name for name in names if name.startswith(".") or name in ("exp", "data", "build", "tests", "__pycache__")}
