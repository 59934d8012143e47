"""hgfast.system_info on known CPUs, and that torch, OpenVINO and the flags agree with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hgfast
from hgfast import system_info
from hgfast.errors import HgfastError
from hgfast.runtime.backends import DeviceOptions, make_openvino_fn
from hgfast.system_info import BF16_LEVELS, ISA_LIMITS, VNNI_LEVELS, cpu_features, describe_machine
from hgfast.training.amp import resolve_amp, slow_precision
from tests.conftest import ROOT, TIMEOUT

AVX2 = "sse4_1 avx avx2 f16c fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq"
CPUS = {
    "Haswell, Zen 3": (AVX2, "AVX2"),
    "Alder Lake": (f"{AVX2} avx_vnni", "AVX2_VNNI"),
    "Skylake-X": (AVX512, "AVX512_CORE"),
    "Ice Lake": (f"{AVX512} avx512_vnni", "AVX512_CORE_VNNI"),
    "Zen 4": (f"{AVX512} avx512_vnni avx512_bf16", "AVX512_CORE_BF16"),
    "Sapphire Rapids": (f"{AVX512} avx_vnni avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8", "AVX512_CORE_AMX"),
    "Sapphire Rapids, AMX hidden": (f"{AVX512} avx_vnni avx512_vnni avx512_bf16 avx512_fp16", "AVX512_CORE_FP16"),
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def x86_without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ISA_LIMITS:
        monkeypatch.delenv(name, raising=False)


def set_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, key: str = "flags") -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: Some CPU\n{key}\t\t: fpu {flags}\n" * 2)
    monkeypatch.setattr(system_info, "CPUINFO", file)


@pytest.mark.parametrize("cpu", CPUS)
def test_isa_of_known_cpus(cpu: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags, isa = CPUS[cpu]
    set_flags(monkeypatch, tmp_path, flags)
    found = cpu_features()
    assert (found.isa, found.limit) == (isa, "")
    assert found.bf16 == ("bf16" in flags) and found.vnni == ("vnni" in flags)
    assert resolve_amp("auto", CPU) == ("bf16" if found.bf16 else "off")
    assert resolve_amp("bf16", CPU) == "bf16" and (slow_precision("bf16", CPU) is None) == found.bf16
    assert slow_precision("off", CPU) is None and slow_precision("bf16", torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("limits", "isa", "named"),
    [
        ({"ATEN_CPU_CAPABILITY": "avx2"}, "AVX2", "ATEN_CPU_CAPABILITY=avx2"),
        ({"ATEN_CPU_CAPABILITY": "default"}, "SSE41", "ATEN_CPU_CAPABILITY=default"),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, "AVX512_CORE_FP16", ""),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, "AVX2_VNNI", "ONEDNN_MAX_CPU_ISA=AVX2_VNNI"),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, "AVX512_CORE_VNNI", "ONEDNN_MAX_CPU_ISA=avx512_core_vnni"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "AVX512_CORE_FP16", ""),
        ({"ONEDNN_MAX_CPU_ISA": "AVX11"}, "AVX512_CORE_FP16", ""),
        (
            {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
            "AVX2",
            "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX512_CORE",
        ),
    ],
)
def test_limits_of_the_environment(
    limits: dict[str, str], isa: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_flags(monkeypatch, tmp_path, CPUS["Sapphire Rapids, AMX hidden"][0])
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    found = cpu_features()
    assert (found.isa, found.limit) == (isa, named)
    assert (found.bf16, found.vnni) == (isa in BF16_LEVELS, isa in VNNI_LEVELS)


def test_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    for features, bf16, dot in (("fp asimd asimddp i8mm bf16", True, True), ("fp asimd", False, False)):
        set_flags(monkeypatch, tmp_path, features, "Features")
        assert (cpu_features().isa, cpu_features().bf16, cpu_features().vnni) == ("aarch64", bf16, dot)


def test_a_machine_without_cpuinfo_has_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system_info, "CPUINFO", tmp_path / "none")
    assert not cpu_features().bf16 and not cpu_features().vnni


def test_openvino_refuses_bf16_without_hardware(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_flags(monkeypatch, tmp_path, AVX2)
    with pytest.raises(HgfastError, match=r"no bf16 in hardware \(AVX2\): run the network in fp32"):
        make_openvino_fn(b"", DeviceOptions(bf16=True))


def test_torch_agrees_with_the_limit() -> None:
    """The independent reference: ATen names the capability that its kernels take in a process with the same variables."""
    code = (
        "import torch; from hgfast.system_info import cpu_features; "
        "print(torch.backends.cpu.get_cpu_capability(), cpu_features().isa)"
    )
    for limit in ("avx2", "default"):
        command, env = [sys.executable, "-c", code], {**os.environ, "ATEN_CPU_CAPABILITY": limit}
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
        aten, isa = done.stdout.split()
        assert (aten, isa) == ({"avx2": "AVX2", "default": "DEFAULT"}[limit], {"avx2": "AVX2", "default": "SSE41"}[limit])


def test_a_machine_in_words() -> None:
    assert describe_machine({"processor": "Some CPU", "cores": 2, "isa": "AVX2", "gpu": None}) == "Some CPU, 2 cores, AVX2"
    assert describe_machine({"processor": "Some CPU", "cores": 2}) == "Some CPU, 2 cores"  # an older record without isa


# ---- revision ----


@pytest.mark.parametrize("is_checkout", [False, True])
def test_revision_is_that_of_hgfasts_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_checkout: bool) -> None:
    """Not of a repository around site-packages; also if the checkout belongs to somebody else."""
    package = tmp_path / "hgfast" if is_checkout else tmp_path / "venv/hgfast"
    package.mkdir(parents=True)
    (package / "system_info.py").touch()
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], env={**os.environ, **identity}, check=True)  # noqa: S607
    monkeypatch.setattr(system_info, "__file__", str(package / "system_info.py"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert re.fullmatch(r"[0-9a-f]{12}" if is_checkout else rf"v{re.escape(hgfast.__version__)}", system_info.git_revision())


# ---- ranks ----


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc', which is not a number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '', which is not a number"),
        ({"RANK": "-1"}, "RANK is '-1', which is not a number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and the environment variable RANK is missing"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, and the environment variable MASTER_ADDR is missing"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h"}, "the environment variable MASTER_PORT is missing"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "x"}, "MASTER_PORT is 'x', which is not a port"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, "RANK is 2, and WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK is 1, and LOCAL_WORLD_SIZE is 1"),
    ],
)
def test_rank_variables_that_contradict(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HgfastError, match=message) as error:
        system_info.rank_variables()
    assert "start with torchrun, which sets it, or unset WORLD_SIZE" in str(error.value)


def test_rank_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system_info.rank_variables() == (0, 1, 0, 1)
    values = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "80"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert system_info.rank_variables() == (5, 8, 1, 4)
