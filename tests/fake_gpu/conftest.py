"""Run each file of this folder in one child process, in which a CPU build of torch has a CUDA device, and report its tests here.

The device must exist before torch looks for it, so a process that has already run other tests is too late. A build of torch for
CUDA brings its own device.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TIMEOUT, make_once

RESULTS = "HGFAST_FAKE_GPU_RESULTS"
"""Environment variable of the child: the file of its results, test ID -> traceback or "" if the test passed."""
IS_CHILD = RESULTS in os.environ
_failures: dict[str, str] = {}


@pytest.fixture(scope="session")
def cuda_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled CUDA device."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler: apt install g++")
    folder = Path(torch.__file__).parent
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{folder / 'include'}", f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'}"]

    def compile_to(out: Path) -> None:
        out.mkdir()
        source = Path(__file__).parent / "cuda_device.cpp"
        command = [compiler, *options, str(source), "-lc10", "-ltorch_cpu", "-o", str(out / "cuda_device.so")]
        subprocess.run(command, check=True, timeout=TIMEOUT)

    return make_once(tmp_path_factory, "fake-gpu", compile_to) / "cuda_device.so"


@functools.cache
def run_in_child(file: Path, marks: str, library: Path | None, results: Path) -> dict[str, str]:
    """Run a file's tests with these marks in a child process; returns the traceback of each, "" if it passed."""
    load = f"import ctypes; ctypes.CDLL({str(library)!r}); " if library is not None else ""
    words = ["-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", "-m", marks, str(file)]
    code = f"{load}import sys, pytest; sys.exit(pytest.main({words}))"
    environment = {**os.environ, RESULTS: str(results), "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert results.exists(), process.stdout + process.stderr
    return dict(json.loads(results.read_text()))


@pytest.fixture(autouse=True)
def child_failures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if IS_CHILD:
        return {}
    file = request.path
    library = None if torch.backends.cuda.is_built() else request.getfixturevalue("cuda_device")
    results = tmp_path_factory.getbasetemp() / f"{file.stem}.json"
    return run_in_child(file, request.config.option.markexpr, library, results)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Report the child's result instead of running the test here."""
    if IS_CHILD:
        return None
    failure = pyfuncitem.funcargs["child_failures"][pyfuncitem.name]
    if failure:
        pytest.fail(failure, pytrace=False)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if IS_CHILD and (report.when == "call" or report.failed):
        _failures[report.nodeid.rpartition("::")[2]] = report.longreprtext


def pytest_sessionfinish() -> None:
    if IS_CHILD:
        Path(os.environ[RESULTS]).write_text(json.dumps(_failures))
