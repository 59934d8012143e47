"""System information: cores, processor, the CPU's instruction set and package versions. Imports no framework."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from hgfast.errors import HgfastError


def available_cores() -> int:
    """Return the number of CPU cores this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RankVariables(NamedTuple):
    """This process's place among the ranks, as torchrun describes it in the environment."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def rank_variables() -> RankVariables:
    """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which only torchrun sets.

    Raises `HgfastError` if one is not a number or contradicts another, or if a variable that several ranks need is missing.
    """
    advice = "start with torchrun, which sets it, or unset WORLD_SIZE, RANK and LOCAL_RANK"
    values = {}
    for name, default in RankVariables._field_defaults.items():
        text = os.environ.get(name.upper(), str(default))
        if not text.isascii() or not text.isdigit():
            raise HgfastError(f"the environment variable {name.upper()} is {text!r}, which is not a number: {advice}")
        values[name] = int(text)
    variables = RankVariables(**values)
    if variables.world_size > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise HgfastError(
                    f"WORLD_SIZE is {variables.world_size}, and the environment variable {name} is missing: {advice}"
                )
        port = os.environ["MASTER_PORT"]
        if not port.isascii() or not port.isdigit() or not 0 <= int(port) < 65536:
            raise HgfastError(f"the environment variable MASTER_PORT is {port!r}, which is not a port: {advice}")
    for name, size in (("rank", "world_size"), ("local_rank", "local_world_size")):
        if values[name] >= max(1, values[size]) and size.upper() in os.environ:
            raise HgfastError(f"{name.upper()} is {values[name]}, and {size.upper()} is {values[size]}: {advice}")
    return variables


CPUINFO = Path("/proc/cpuinfo")
ISA_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("SSE41", frozenset({"sse4_1"})),
    ("AVX", frozenset({"avx"})),
    ("AVX2", frozenset({"avx2"})),
    ("AVX2_VNNI", frozenset({"avx2", "avx_vnni"})),
    ("AVX512_CORE", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    ("AVX512_CORE_VNNI", frozenset({"avx512bw", "avx512_vnni"})),
    ("AVX512_CORE_BF16", frozenset({"avx512bw", "avx512_bf16"})),
    ("AVX512_CORE_FP16", frozenset({"avx512bw", "avx512_bf16", "avx512_fp16"})),
    ("AVX512_CORE_AMX", frozenset({"avx512bw", "amx_bf16", "amx_int8"})),
)
"""oneDNN's names of x86 instruction sets, from oldest to newest, and the flags of /proc/cpuinfo that each requires."""
BF16_LEVELS = {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX"}
VNNI_LEVELS = {"AVX2_VNNI", "AVX512_CORE_VNNI", *BF16_LEVELS}
ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
"""Environment variables that limit the instruction set of ATen's kernels, and of oneDNN in torch and OpenVINO. onnxruntime and
DALI read neither."""
_LEVEL_OF_LIMIT = {"default": "SSE41", "avx2": "AVX2", "avx2_vnni_2": "AVX2_VNNI"}  # values that are not a level's name


@dataclass(frozen=True)
class CpuFeatures:
    """The CPU's effective instruction set.

    isa: oneDNN's name of it, such as "AVX2"; on architectures other than x86 the architecture.
    bf16: whether the hardware computes bfloat16 matrix products; otherwise torch emulates them, about a hundred times slower.
    vnni: whether the hardware computes int8 dot products; otherwise an int8 network is hardly faster than fp32.
    limit: the environment variables that lower `isa`, or "".
    """

    isa: str
    bf16: bool
    vnni: bool
    limit: str = ""


NO_BF16 = "no bf16 on this CPU"
"""Reason for a missing bf16 result."""


def cpu_features() -> CpuFeatures:
    """Read the CPU's instruction set from /proc/cpuinfo and apply the limits of the environment.

    This function decides whether bf16 and int8 run in hardware for torch, OpenVINO, benchmarks and tests.
    `torch.cpu.get_capabilities` reads CPUID and ignores the variables that torch's kernels obey.
    """
    flag_lines = _cpuinfo("flags") or _cpuinfo("features")
    flags = set(flag_lines[0].split()) if flag_lines else set[str]()
    if platform.machine().lower() not in ("x86_64", "amd64"):  # Linux on Arm lists bf16 and asimddp, its int8 dot product
        return CpuFeatures(platform.machine(), bf16="bf16" in flags, vnni="asimddp" in flags)
    names = [name for name, _ in ISA_LEVELS]
    supported = max((number for number, (_, required) in enumerate(ISA_LEVELS) if required <= flags), default=0)
    limits = {key: _isa_limit(os.environ[key], names) for key in ISA_LIMITS if key in os.environ}
    level = names[min([supported, *limits.values()])]
    limit = " ".join(f"{key}={os.environ[key]}" for key, number in limits.items() if number < supported)
    return CpuFeatures(level, level in BF16_LEVELS, level in VNNI_LEVELS, limit)


def _isa_limit(value: str, names: Sequence[str]) -> int:
    """Return the index of the newest level that a variable allows. Unknown values are ignored, as in torch and oneDNN."""
    level = _LEVEL_OF_LIMIT.get(value.lower(), value.upper())
    return names.index(level) if level in names else len(names) - 1


def cpu_name() -> str:
    """Return the processor's name from /proc/cpuinfo, or else the platform's."""
    names = _cpuinfo("model name")
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo(key: str) -> list[str]:
    """Return the values of a key in /proc/cpuinfo, one per core; an empty list if the file or key does not exist."""
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip().lower() == key]


def describe_system() -> dict[str, Any]:
    """Return a description of the machine for records and checkpoints."""
    cpu = cpu_features()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),
        "cores": available_cores(),
        "isa": cpu.isa,
        **({"isa_limit": cpu.limit} if cpu.limit else {}),
    }


def describe_machine(about: Mapping[str, Any]) -> str:
    """Format a recorded machine in one line, such as "AMD EPYC, 2 cores, AVX512_CORE_BF16". Older records lack some keys."""
    cores = about.get("cores")
    parts = [about.get("gpu"), about.get("processor"), f"{cores} cores" if cores else None, about.get("isa")]
    return ", ".join(str(part) for part in parts if part)


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_revision() -> str:
    """Return the git revision of hgfast's code, with + if the working tree has changes; otherwise its version, as v0.1.

    A repository that merely surrounds an installed hgfast is not its checkout.
    """
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():  # a folder, or the file of a worktree
        # a checkout of another user is refused without safe.directory; no hook or file monitor of its configuration may run
        options = ["-c", f"safe.directory={root}", "-c", "core.fsmonitor=false", "-C", str(root)]
        command = ["git", *options, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return f"v{sys.modules['hgfast'].__version__}"
