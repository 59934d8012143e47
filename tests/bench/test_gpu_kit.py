"""bench/gpu_kit.py: versions, pieces that join to the same wheels, calls in order; nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hgfast.bench import gpu_check, gpu_install, gpu_kit
from hgfast.bench.gpu import kit_join
from hgfast.bench.gpu.steps import gpu_check_steps
from hgfast.bench.gpu_kit import SETTINGS, STEP_MINUTES, Call, command_of, plan_calls
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from tests.bench.test_gpu_check import assert_flags_parse
from tests.conftest import ErrorOf

STEPS = gpu_check_steps(SETTINGS)


def test_versions_are_those_of_the_other_python() -> None:
    assert gpu_kit.pinned_versions("3.12")["rpds-py"] == gpu_kit.pinned_versions("3.11")["rpds-py"] == "2026.9.1"
    assert gpu_kit.pinned_versions("3.10")["rpds-py"] == "0.30.0"
    dali = gpu_kit.requirements("dali", "3.12", pinned=False)
    assert dali[:2] == ["nvidia-dali-cuda130==2.2.0", "nvidia-nvimgcodec-cu13==0.8.0.22"]
    pinned = gpu_kit.requirements("dali", "3.12", pinned=True)
    assert pinned[0] == f"nvidia-dali-cuda130=={gpu_kit.pinned_versions('3.12')['nvidia-dali-cuda130']}"
    names = {re.split("==", line)[0] for group in gpu_kit.GROUPS for line in gpu_kit.requirements(group, "3.12", False)}
    assert {"jsonargparse", "setuptools", "tensorrt-rtx-cu13-libs"} <= names and "torch" not in names


def test_every_requirement_is_present_or_in_the_kit() -> None:
    """But for OpenVINO, which the GPU steps do not need."""
    brought = {gpu_kit.normalized(name) for group in gpu_kit.GROUPS.values() for name in group.split()}
    present = {gpu_kit.normalized(name) for name in re.findall(r"[\w-]+", gpu_kit.PRESENT)} | {"numpy"}
    needed = {gpu_install.name_of(requirement) for requirement in gpu_install.requirements()}
    assert needed - brought - present <= {"openvino"}


def fake_download(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> dict[str, bytes]:
    """Replace pip by wheels of random bytes, of one to three pieces a group; return them by name."""
    wheels: dict[str, bytes] = {}

    def download(packages: list[str], folder: Path, python: str) -> None:
        assert python == "3.12" and packages
        for number, size in enumerate((piece_bytes // 2, piece_bytes) if "dali" in packages[0] else (100,)):
            path = folder / f"{folder.name}{number}-1.0-py3-none-any.whl"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("module.py", os.urandom(size))
            wheels[path.name] = path.read_bytes()

    monkeypatch.setattr(gpu_kit, "download", download)
    monkeypatch.setattr(gpu_kit, "PIECE_BYTES", piece_bytes)
    return wheels


def run_kit(monkeypatch: pytest.MonkeyPatch, out: Path, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_kit.py", "--out", str(out), *flags])
    run_main(gpu_kit.main)


def test_pieces_join_to_the_same_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    wheels, out = fake_download(monkeypatch, 30_000), tmp_path / "kit"
    run_kit(monkeypatch, out)
    pieces = sorted(path.name for path in out.rglob("*.0*"))
    assert [name for name in pieces if "dali" in name] == ["dali.000", "dali.001"] and pieces[0] == "base.000"
    assert all(path.stat().st_size <= 30_000 for path in out.rglob("*.0*"))
    for group in gpu_kit.GROUPS:
        names = kit_join.join(out, group, tmp_path / "joined")
        assert all((tmp_path / "joined" / name).read_bytes() == wheels[name] for name in names)
    assert len(list((tmp_path / "joined").iterdir())) == len(wheels)
    run_kit(monkeypatch, out)  # an older kit is replaced
    assert capsys.readouterr().out.count("# call 1: bring") == 2

    command = [sys.executable, "-I", "-S", str(out / "call-1" / "kit_join.py"), str(out), "dali", str(tmp_path / "again")]
    damaged = next(out.rglob("dali.001"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "dali.001 is damaged: bring it again" in process.stderr
    damaged.unlink()
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "dali.001 is not in" in process.stderr and process.stderr.count("\n") == 1


def test_other_folders_are_not_replaced(tmp_path: Path, error_of: ErrorOf) -> None:
    (tmp_path / "file").touch()
    assert "is not empty and not a kit" in error_of(gpu_kit.main, "--out", str(tmp_path))
    assert "--python is 3, must be a version" in error_of(gpu_kit.main, "--out", str(tmp_path / "kit"), "--python", "3")


def make_calls(tmp_path: Path) -> tuple[list[Call], dict[str, list[Path]]]:
    pieces = {
        "base": ["base.000"],
        "dali": [f"dali.{number:03d}" for number in range(9)],
        "rtx": [f"rtx.{number:03d}" for number in range(5)],
    }
    paths = {group: [tmp_path / name for name in names] for group, names in pieces.items()}
    for group, files in paths.items():
        for path in files:
            with path.open("wb") as file:
                file.truncate(1_000_000 if group == "base" else gpu_kit.PIECE_BYTES)
    return plan_calls(STEPS, paths), paths


def test_calls_run_every_step_in_order_and_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pieces = make_calls(tmp_path)
    assert [step.name for call in calls for step in call.steps] == [step.name for step in STEPS]
    assert [path for call in calls for path in call.pieces] == [path for paths in pieces.values() for path in paths]
    brought = set[str]()
    for number, call in enumerate(calls):
        assert sum(path.stat().st_size for path in call.pieces) <= 60e6
        assert sum(step.minutes for step in call.steps) <= STEP_MINUTES
        brought |= {path.name for path in call.pieces}
        for step in call.steps:
            assert {path.name for path in pieces[gpu_kit.group_of(step)]} <= brought, step.name
        command = command_of(call, Path("exp/gpu-kit"), pieces, gpu_kit.GpuKitConfig(copy_to="$OUT"))
        assert len(command) < 2000
        assert ("kit_join.py exp/gpu-kit base" in command) == (number == 0)
        for words in re.findall(r"bench/gpu_check.py (.*?);", command):
            assert_flags_parse(["bench/gpu_check.py", *words.split()], monkeypatch)
            assert gpu_check.GpuCheckConfig(minutes_in_all=gpu_kit.LIMIT_MINUTES).training_minutes < STEP_MINUTES
    assert "tests-hgfast" in {step.name for step in calls[0].steps}


def test_repacked_wheel_has_the_modules_of_one_python(tmp_path: Path) -> None:
    path = tmp_path / "lib-1.0-py3-none-any.whl"
    modules = [f"lib/a.cpython-{version}-x86_64-linux-gnu.so" for version in ("312", "313t")]
    names = ["lib/__init__.py", *modules, "lib/include/a.h"]
    record = "".join(f"{name},sha256=x,1\n" for name in names) + "lib-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in names:
            wheel.writestr(name, name)
        wheel.writestr("lib-1.0.dist-info/RECORD", record)
    gpu_kit.repack(path, "3.12")
    with zipfile.ZipFile(path) as wheel:
        assert wheel.namelist() == [*names[:2], "lib-1.0.dist-info/RECORD"]
        assert wheel.read("lib-1.0.dist-info/RECORD").decode().splitlines() == [*record.splitlines()[:2], record.splitlines()[-1]]
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    gpu_kit.repack(path, "3.12")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_rehearsal_reports_the_time_and_failures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    commands = ["python3 -c 'import os; print(os.environ[\"PIP_NO_INDEX\"])'", "exit 3"]
    assert gpu_kit.rehearse(commands, Path(sys.executable)) == 1
    out = capfd.readouterr().out
    assert re.search(r"\n1\n(.|\n)*rehearsed 2 calls in 0\.\d minutes, 1 failed: seconds of each: \d, \d\n", out)


def test_download_without_pip_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(HgfastError, match="pip could not download the wheels"):
        gpu_kit.download(["numpy"], tmp_path, "3.12")
