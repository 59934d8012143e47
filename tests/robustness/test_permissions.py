"""Files and folders without permission end every command with one sentence, as for an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hgfast import convert, evaluate, predict, report, train
from hgfast.export import to_onnx
from hgfast.pipelines import cache, check, synthetic
from tests.conftest import ROOT, TIMEOUT, Command
from tests.exports import save_checkpoint

NAMES = ("data", "annotations", "run", "checkpoint", "out", "name of 300 letters")


def ignores_permissions(folder: Path) -> bool:
    """Return whether this process may read files without permission."""
    (folder / "probe").touch(0)
    return os.access(folder / "probe", os.R_OK)


def commands(folder: Path) -> list[tuple[Callable[[], object], list[object]]]:
    """Return every command, with its flags, that reads and writes in `folder`."""
    data, network, out = ["--dataset", "freihand", "--data", folder / "data"], folder / "run/best.pt", folder / "out"
    return [
        (train.main, [*data, "--model.preset", "tiny", "-m", 0.001, "-e", "new", "--out", out, "--train.amp", "off"]),
        (train.main, ["-c", "run", "--out", folder]),
        (evaluate.main, [network, *data, "--json", out / "result.json"]),
        (predict.main, [network, folder / "data/evaluation/rgb", "--out", out]),
        (report.main, [folder / "run", "--out", out / "report.html"]),
        (to_onnx.main, [network, "--out", out / "network.onnx", "--no-verify"]),
        (convert.main, [network, out / "network.pt"]),
        (check.main, [*data, "--loader", "opencv"]),
        (cache.main, [*data, "--cache", out / "crops", "--model.preset", "tiny"]),
        (synthetic.main, ["freihand", "--out", out / "hands", "--count", 1]),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_permissions_are_one_sentence(hands: Path, tmp_path: Path, in_process: Command, name: str) -> None:
    if ignores_permissions(tmp_path):
        pytest.skip("root may read and write anywhere: run the tests with python -m tests.unprivileged")
    folder = tmp_path / ("x" * 300 if name == NAMES[-1] else "work")
    if name != NAMES[-1]:
        shutil.copytree(hands, folder / "data")
        (folder / "out").mkdir()
        (folder / "run").mkdir()
        save_checkpoint(folder / "run/best.pt")
    paths = {"data": "data", "annotations": "data/training_K.json", "run": "run", "checkpoint": "run/best.pt", "out": "out"}
    forbidden = folder / paths[name] if name in paths else None
    if forbidden:
        forbidden.chmod(0)
    refused = 0
    for main, words in commands(folder):
        result = in_process(main, *words)
        assert result.returncode in (0, 1, 2) and "Traceback" not in result.stderr, result.stderr
        if result.returncode == 2:
            refused += 1
            last = result.stderr.splitlines()[-1]
            assert last.startswith("error: ") and len(last) < 1000
    assert refused >= 2
    if forbidden:
        forbidden.chmod(0o700)


def test_root_loses_its_right(tmp_path: Path) -> None:
    code = "import sys; from tests.robustness.test_permissions import *; print(ignores_permissions(Path(sys.argv[1])))"
    command = [sys.executable, "-m", "tests.unprivileged", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert done.stdout == "False\n"
