"""Shared fixtures: synthetic data sets, real images if they are next to the checkout, and running of commands."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from hgfast.entry_point import run_main
from hgfast.pipelines.synthetic import generate_freihand, generate_mpii
from hgfast.system_info import cpu_features

if TYPE_CHECKING:
    from hgfast.export.exporter.artifact import ExportedArtifact

hypothesis.settings.register_profile("few", max_examples=20, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("many", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("few")  # --hypothesis-profile many: a hundred times as many random examples

# commands leave signals ignored that are so at their start, as in the background (SIGINT) and under nohup (SIGHUP)
for signum, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(signum) is signal.SIG_IGN:
        signal.signal(signum, handler)

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
NUM_HANDS = 48
TIMEOUT = 1200
"""Seconds after which a child process counts as hung. Generous, as machines are shared and slow ones exist."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ErrorOf = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU, warnings are shown instead of failing the test: drivers and libraries there have many that no CPU shows."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU or DALI where there is none, and those of bf16 on CPUs that only emulate it."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("bf16") and not cpu_features().bf16:
        pytest.skip(f"this CPU has no bf16 in hardware ({cpu_features().isa})")
    if item.get_closest_marker("dali") and not (find_spec("nvidia") and find_spec("nvidia.dali")):
        pytest.skip("needs NVIDIA DALI, which is not installed")


@pytest.fixture(autouse=True)
def reset_rng(request: pytest.FixtureRequest) -> None:
    """Reset a module's RNG before every test, so that the order of tests does not matter."""
    generator = getattr(request.module, "RNG", None)
    if generator is not None:
        bits = generator.bit_generator
        bits.state = type(bits)(bits.seed_seq).state


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of temporary files that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def make_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` writes once for all workers. Tests must not change it."""
    base = shared_folder(tmp_path_factory)
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / name).exists():
            make(base / f"{name}.part")
            (base / f"{name}.part").rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of `NUM_HANDS` synthetic hands in FreiHAND's layout."""
    return make_once(tmp_path_factory, "FreiHAND", lambda out: generate_freihand(out, NUM_HANDS, seed=5, workers=1))


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of synthetic people in MPII's layout: 30 images for training, 10 for validation."""
    return make_once(tmp_path_factory, "MPII", lambda out: generate_mpii(out, 30, seed=4, valid=10, workers=1))


@pytest.fixture(scope="session")
def cached_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export each network to ONNX once, for all test files and workers, and render the images to verify with once."""
    from hgfast.export.exporter import artifact, onnx_export
    from tests.exports import caching_exporter

    folder = shared_folder(tmp_path_factory) / "onnx"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "export_onnx_model", caching_exporter(folder))
        patch.setattr(artifact, "render_images", functools.cache(artifact.render_images))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network of 16 joints, as if it had been trained. Few layers make exports and builds fast."""
    from tests.exports import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "net.pt", depth=1)


@pytest.fixture(scope="session")
def tiny_onnx(tiny_checkpoint: Path, cached_exporter: None) -> ExportedArtifact:
    """`tiny_checkpoint` as ONNX in fp32, verified, with both outputs, for up to five images."""
    from tests.exports import export_onnx

    return export_onnx(tiny_checkpoint, tiny_checkpoint.with_name("fp32.onnx"))


@pytest.fixture
def real_freihand() -> Path:
    """Eight real FreiHAND images in the official layout."""
    return shared_path("fixtures/FreiHAND_pub_v2_mini")


def shared_path(name: str) -> Path:
    """Return the path of research-licensed files next to the checkout, or skip the test."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"research data {name} is not on this machine")
    return path


@pytest.fixture
def command() -> Command:
    """Return a function that runs a script of the project in a subprocess, on one thread."""

    def run(*words: object, ranks: int = 0, restarts: int = 0) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable]
        if ranks:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            launcher += ["--max-restarts", str(restarts)]
        return subprocess.run(
            [*launcher, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    return run


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs an entry point's `main` in this process, which saves the seconds of importing torch."""

    def run(main: Callable[[], object], *words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        capfd.readouterr()
        code: object = 0
        try:
            run_main(main)
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return run


@pytest.fixture
def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ErrorOf:
    """Return a function that runs an entry point's `main` in this process and returns its one-sentence error."""

    def run(main: Callable[[], None], *words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            run_main(main)
        stderr = capsys.readouterr().err
        assert end.value.code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
        return stderr

    return run
