"""What README promises to applications: a plain installation without torch, and its lines of Python as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "export"))  # where Python looks for the modules beside a script

from options import ExportConfig
from to_onnx import make_onnx

from hgfast import checkpoints
from hgfast.checkpoints import build
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import BODY16


def readme_lines() -> str:
    """The block of Python that opens a session."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "with Session(" in block]
    return str(found)


@pytest.mark.install
def test_ten_lines_in_a_fresh_environment(tmp_path: Path) -> None:
    lines = readme_lines()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    checkpoint = tmp_path / "exp" / "mpii" / "best.pt"
    checkpoint.parent.mkdir(parents=True)
    meta = Meta(BODY16, Preprocessing(), 64, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.describe(build(PRESETS["tiny"], meta)), checkpoint)
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    make_onnx(config, config.load(), config.target("onnx"))
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((600, 500, 3), 90, np.uint8))
    source = tmp_path / "source"  # installing writes into it
    shutil.copytree(ROOT, source, ignore=lambda _, names: left_out(names))
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}

    def run(*words: object) -> str:
        done = subprocess.run([python, *map(str, words)], capture_output=True, text=True, cwd=tmp_path, env=bare, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", source, "onnxruntime")
    missing = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'yaml') if u.find_spec(n)])"
    assert run("-c", missing).strip() == "[]"
    assert '"joints"' in run("-c", lines)


def left_out(names: list[str]) -> set[str]:
    """Of the tree: what is no part of the project, or large."""
    return {name for name in names if name.startswith(".") or name in ("exp", "data", "build", "tests", "__pycache__")}
