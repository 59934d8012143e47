"""Every script of bench/ from the shell: `--help` and wrong flags are answered before the heavy packages are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY_PACKAGES = {"torch", "nvidia.dali", "scipy", "cv2", "h5py", "onnx", "onnxruntime", "openvino", "matplotlib", "PIL"}
SCRIPTS = [*sorted((ROOT / "bench").glob("*.py")), ROOT / "hgfast/report.py"]
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
print("heavy:", sorted(set(sys.modules) & {heavy}), "code:", code)
"""


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.stem != "__init__"], ids=lambda path: path.stem)
def test_flags_are_parsed_before_heavy_imports(script: str) -> None:
    for flag, code, text in (("--help", "code: 0", "usage: "), ("--no-such-flag", "code: 2", "unknown flag --no-such-flag")):
        command = [sys.executable, "-c", RUN.replace("{heavy}", str(HEAVY_PACKAGES)), str(script), flag]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.endswith(f"heavy: [] {code}\n"), done.stdout[-200:]
        assert text in done.stdout + done.stderr or "unrecognized arguments" in done.stderr  # gpu_install has argparse alone
