"""The wheel in fresh environments: without torch, and beside a user's own modules of the same names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import hgfast
from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.export.exporter.artifact import load_network
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import ExportConfig
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.skeletons import BODY16
from tests.conftest import ROOT


def readme_example() -> str:
    """The Python block that opens a session."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "with Session(" in block]
    return str(example)


Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building writes into it
    shutil.copytree(ROOT, source, ignore=lambda _, names: ignored_names(names))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True)
    (path,) = folder.glob("hgfast-*.whl")
    return path


def make_environment(folder: Path) -> Run:
    """Create a virtual environment; returns a function that runs one of its programs in `folder` and returns its output."""
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env/bin"
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}

    def run(program: str, *words: object, code: int = 0) -> str:
        command = [programs / program, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables, check=False)
        assert done.returncode == code, done.stderr[-3000:]
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.mark.install
def test_without_torch(wheel: Path, tmp_path: Path) -> None:
    """`hgfast predict` on an exported network, and the Python example of README."""
    example = readme_example()
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    checkpoint = tmp_path / "exp/mpii/best.pt"
    checkpoint.parent.mkdir(parents=True)
    meta = Meta(BODY16, Normalization(), 64, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.model_state(build_model(PRESETS["tiny"], meta)), checkpoint)
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    make_onnx(config, load_network(config), config.output_path("onnx"))
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((600, 500, 3), 90, np.uint8))
    run = make_environment(tmp_path)
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    run("python", *pip, wheel, "onnxruntime")
    absent = ("torch", "onnx", "pipelines", "export", "bench")
    assert run("python", "-c", f"import importlib.util as u; print([n for n in {absent} if u.find_spec(n)])").strip() == "[]"
    assert '"joints"' in run("python", "-c", example)
    assert "predict" in run("hgfast", "--help") and "--min-score" in run("hgfast", "predict", "--help")
    run("hgfast", "predict", "exp/mpii/best.fp32.onnx", "photo.jpg", "--out", "predictions")
    content = json.loads((tmp_path / "predictions/keypoints.json").read_text())
    assert len(content["images"]) == 1 and not content["failed"] and (tmp_path / "predictions/photo.jpg").is_file()
    assert "is a checkpoint, which requires torch" in run("hgfast", "predict", checkpoint, "photo.jpg", code=2)
    for words in (
        ["train", "--data", "."],
        ["evaluate", checkpoint, "--data", "."],
        ["report", "exp/mpii"],
        ["export", "onnx", checkpoint],
    ):
        error = run("hgfast", *words, code=2)
        assert re.fullmatch(r"error: this needs \w+, which is not installed: pip install 'hgfast\[train\]'\n", error), error


@pytest.mark.install
def test_every_step_beside_modules_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    """The wheel's dependencies come from this environment, whose own hgfast is not seen. Nothing imports the user's modules."""
    run = make_environment(tmp_path)
    (site_packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    run("python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", wheel)
    (tmp_path / "pipelines.py").write_text("raise RuntimeError('a module of the user')\n")
    for name in ("export", "bench", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package of the user')\n")
    assert str(site_packages) in run("python", "-c", "import hgfast; print(hgfast.__file__)")
    assert run("hgfast", "--version").strip() == f"hgfast {hgfast.__version__}"
    run("hgfast", "synthetic", "freihand", "--out", "hands", "--count", 20)
    run("hgfast", "train", "--data", "hands", "--exp", "own", "--model.preset", "tiny", "--train.epochs", 1, "--device", "cpu")
    run("hgfast", "evaluate", "exp/own/best.pt", "--data", "hands", "--split", "valid", "--json", "result.json")
    (row,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert row["method"] == "network" and 0 <= row["pck@0.2"] <= 1
    run("hgfast", "export", "onnx", "exp/own/best.pt", "--no-verify")
    (image, *_) = sorted((tmp_path / "hands/training/rgb").iterdir())
    run("hgfast", "predict", "exp/own/best.fp32.onnx", image, "--out", "predictions")
    assert len(json.loads((tmp_path / "predictions/keypoints.json").read_text())["images"]) == 1


def ignored_names(names: list[str]) -> set[str]:
    """Names that are not part of the installation, or large."""
    return {name for name in names if name.startswith(".") or name in ("exp", "data", "build", "tests", "__pycache__")}
