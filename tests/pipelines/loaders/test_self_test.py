"""The self-test of DALI: its child process runs on the CPU as on a GPU, and its crash, hang or wrong pixels are one sentence."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgfast.config import Config, InferenceConfig, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.normalization import Normalization
from hgfast.pipelines import datasets
from hgfast.pipelines import self_test as command
from hgfast.pipelines.batch_plan import PlannedBatch
from hgfast.pipelines.loaders import self_test
from hgfast.pipelines.loaders.self_test import (
    KINDS,
    NUM_IMAGES,
    SIZES,
    compare_with_opencv,
    ensure_tested,
    run_self_test,
    write_jpegs,
)
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.samples import Samples
from hgfast.training.distributed import Ranks
from hgfast.visualization.draw import read_image
from tests.conftest import Command

TASKS = "tests.pipelines.loaders.self_test_tasks"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
VERSIONS = r"\((\S+ [\d.]+, )*\S+ [\d.]+; hw-decoder-load 0.65\)$"
pytestmark = pytest.mark.dali


def test_jpegs_are_of_all_kinds(tmp_path: Path) -> None:
    paths = write_jpegs(tmp_path)
    assert len(set(paths)) == NUM_IMAGES == 64
    for number, path in enumerate(paths):
        size, kind, _, orientation = path.stem.split()[1:]
        width, height = map(int, size.split("x"))
        image = read_image(path)
        assert image.shape[:2] == ((width, height) if int(orientation) > 4 else (height, width))
        assert (width, height) == SIZES[number % len(SIZES)]
        if kind == "gray":
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 2
    names = "\n".join(path.stem for path in paths)
    assert all(kind.replace(":", "") in names for kind in KINDS)
    assert {f"orientation {number}" in names for number in range(1, 9)} == {True}
    progressive = next(path for path in paths if "progressive" in path.stem)
    assert b"\xff\xc2" in progressive.read_bytes()


# ---- the child process ----


def test_crops_agree_with_opencvs_in_a_child() -> None:
    run_self_test(CPU, LoadingConfig())


@pytest.mark.parametrize(
    ("task", "timeout", "problem"),
    [
        ("crash", 120, r"crashed with signal 11 \(Segmentation fault\)"),
        ("hang", 0.5, "did not end within 0.5 seconds"),
        ("fail", 120, r"failed \(CUDA error: no kernel image is available\)"),
        ("leave", 120, "ended with exit code 7"),
        ("leave_quietly", 120, "ended without a result"),
        (
            "corrupt",
            120,
            r"decoded 1 of 32 JPEGs wrongly, such as \d\d [^,]+, which is off by up to \d+ and on average \S+ gray levels",
        ),
    ],
)
def test_problem_is_one_sentence(task: str, timeout: float, problem: str) -> None:
    advice = f"use --loader opencv, or install other versions of these packages {VERSIONS}"
    with pytest.raises(HgfastError, match=f"^the self-test of DALI on the CPU {problem}: {advice}"):
        run_self_test(CPU, LoadingConfig(), task=f"{TASKS}:{task}", timeout=timeout)


def test_file_that_dali_cannot_decode_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    opencv_crops = self_test._opencv_crops

    def then_break_a_file(samples: Samples, planned: PlannedBatch) -> NDArray[np.uint8]:
        crops = opencv_crops(samples, planned)
        if 3 in planned.index:
            Path(samples.paths[3]).write_bytes(b"broken")
        return crops

    monkeypatch.setattr(self_test, "NUM_IMAGES", 16)
    monkeypatch.setattr(self_test, "_opencv_crops", then_break_a_file)
    assert compare_with_opencv("cpu", 0.65) == "cannot decode a JPEG that OpenCV decodes"


# ---- remembered ----


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices that were tested, on a machine that claims to have a GPU; the child process is left out."""
    devices: list[torch.device] = []

    def run(device: torch.device, loading: LoadingConfig) -> None:
        devices.append(device)
        time.sleep(0.1)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")
    monkeypatch.setattr(self_test, "run_self_test", run)
    return devices


def test_a_pass_is_remembered(runs: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        ensure_tested(GPU, LoadingConfig())
    assert runs == [GPU]
    (record,) = (tmp_path / "cache/hgfast").glob("self-test-*.json")
    content = json.loads(record.read_text())
    assert content["gpu"] == "NVIDIA H200" and content["compute_capability"] == "9.0" and content["hw_decoder_load"] == "0.0"
    assert {"driver", "hgfast", "nvidia-dali-cuda130"} < content.keys()
    ensure_tested(GPU, LoadingConfig(hw_decoder_load=0.65))
    ensure_tested(GPU, LoadingConfig(hw_decoder_load=0.0))  # the default
    assert len(runs) == 2
    (tmp_path / "version").write_text("580.65.06\n")
    monkeypatch.setattr(self_test, "DRIVER_VERSION", tmp_path / "version")
    ensure_tested(GPU, LoadingConfig())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA A100")
    ensure_tested(GPU, LoadingConfig())
    assert len(runs) == 4
    ensure_tested(GPU, LoadingConfig(), again=True)
    assert len(runs) == 5


def test_a_failure_is_not_remembered(runs: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(device: torch.device, loading: LoadingConfig) -> None:
        raise HgfastError("it crashed")

    ensure_tested(GPU, LoadingConfig())
    with monkeypatch.context() as patch:
        patch.setattr(self_test, "run_self_test", run)
        with pytest.raises(HgfastError, match="it crashed"):
            ensure_tested(GPU, LoadingConfig(), again=True)
    assert not list((tmp_path / "cache/hgfast").glob("self-test-*.json"))
    ensure_tested(GPU, LoadingConfig())
    assert len(runs) == 2


def test_one_rank_tests_while_the_others_wait(runs: list[torch.device]) -> None:
    with ThreadPoolExecutor(4) as ranks:
        list(ranks.map(lambda rank: ensure_tested(torch.device("cuda", rank), LoadingConfig()), range(4)))
    assert len(runs) == 1


def test_folder_that_cannot_be_written(
    runs: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        ensure_tested(GPU, LoadingConfig())
    assert runs == [GPU, GPU]
    assert capsys.readouterr().err.count("warning: the self-test of DALI cannot be remembered") == 2


# ---- who calls it ----


def test_loader_on_a_gpu_is_tested_first(hands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[tuple[torch.device, LoadingConfig]] = []

    def refuse(device: torch.device, loading: LoadingConfig) -> None:
        tested.append((device, loading))
        raise HgfastError("DALI crashed")

    monkeypatch.setattr(datasets, "ensure_tested", refuse)
    samples, gpu = read_freihand(hands, "valid"), Ranks.single(GPU)
    training = Config(batch_size=4, threads=1, loading=LoadingConfig(hw_decoder_load=0.5))
    for config, loading in ((training, training.loading), (InferenceConfig(batch_size=4, threads=1), LoadingConfig())):
        with pytest.raises(HgfastError, match="DALI crashed"):
            datasets.open_loader(samples, 64, Normalization(), gpu, config)
        assert tested.pop() == (GPU, loading)
        datasets.open_loader(samples, 64, Normalization(), Ranks.single(CPU), config)
    datasets.open_loader(samples, 64, Normalization(), gpu, InferenceConfig(batch_size=4, threads=1, loader="opencv"))
    assert not tested


def test_command(in_process: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "run_self_test", lambda device, loading: None)
    done = in_process(command.main, "--device", "cpu")
    assert done.returncode == 0 and done.stdout == "DALI on the CPU: the crops of 64 JPEGs of all kinds agree with OpenCV's\n"

    def refuse(device: torch.device, loading: LoadingConfig) -> None:
        assert loading.hw_decoder_load == 0.25
        raise HgfastError("the self-test crashed")

    monkeypatch.setattr(self_test, "run_self_test", refuse)
    done = in_process(command.main, "--device", "cpu", "--hw-decoder-load", "0.25")
    assert done.returncode == 2 and done.stderr == "error: the self-test crashed\n"


@pytest.mark.gpu
@pytest.mark.dali
def test_this_gpu_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ensure_tested(GPU, LoadingConfig())
    assert list((tmp_path / "hgfast").glob("self-test-*.json"))
