"""Prepare a machine that has a GPU but no network: download the wheels that it lacks, in pieces, and print the calls to make.

    python bench/gpu_kit.py --out exp/gpu-kit
    python bench/gpu_kit.py --out exp/gpu-kit-3.11 --python 3.11 --rehearse OTHER_ENVIRONMENT/bin/python

The machine has a checkout, and a Python with torch for CUDA and the packages of `PRESENT`. Each call brings a folder of at most
60 MB, in pieces of 20 MB, to the same place in that checkout, and runs a command of at most ten minutes there; ignored files of
earlier calls stay. The commands install what has arrived, and run the steps of bench/gpu_check.py in order, those of DALI once
all of it is there. The records are in exp/gpu-check/results.

DALI has the newest version whose nvImageCodec decodes regions of JPEGs on a GPU, or with --pinned that of constraints.txt.
--rehearse runs the calls on this machine, on the CPU and without an index, with a Python that has the same packages.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hgfast.bench.gpu.step_runner import relative_to_root
from hgfast.bench.gpu.steps import GpuCheckSettings, Step, gpu_check_steps
from hgfast.bench.gpu_install import normalized
from hgfast.bench.harness.record import ROOT, require_checkout
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_folder, temporary_folder

JOIN_SCRIPT = ROOT / "bench" / "gpu" / "kit_join.py"
PIECE_BYTES = 20_000_000
CALL_BYTES = 60_000_000  # of the pieces that a call brings
STEP_MINUTES = 8.0  # of the steps of a call, if each takes as long as expected
LIMIT_MINUTES = 9.0  # of the steps of a call; the rest of ten minutes is for the installation
PRESENT = (
    "torch, cuda-bindings, onnx, onnxruntime, onnxscript, opencv-python-headless, h5py, scipy, matplotlib, pillow, tensorboard, "
    "pytest and hypothesis"
)
"""Packages that the machine has, with their dependencies."""
GROUPS = {
    "base": "pip setuptools jsonargparse typeshed_client importlib-resources docstring_parser jsonschema "
    "jsonschema-specifications referencing rpds-py attrs tabulate tqdm PyYAML Jinja2 MarkupSafe",
    "dali": "nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-nvjpeg nvtx libcst optree astunparse gast six makefun",
    "rtx": "tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
"""Packages to bring, without their dependencies. DALI needs nvCOMP, nvJPEG2000 and nvTIFF only for other files than JPEGs."""
RESULTS = Path("exp/gpu-check/results")
SETTINGS = GpuCheckSettings(
    slug="gpu",
    gpus=1,
    gpu_memory_gb=0.0,
    threads=1,
    out=RESULTS,
    work=RESULTS.parent,
    quick=False,
    loader="opencv",
    train_minutes=1.0,
)
"""Settings from which the steps' names and minutes follow; their commands are made on the machine."""
SAFE_DALI = {"nvidia-dali-cuda130": "2.2.0", "nvidia-nvimgcodec-cu13": "0.8.0.22"}
"""The newest versions that decode regions of JPEGs on a GPU: nvImageCodec 0.9.0 crashes."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_26_x86_64", "manylinux2014_x86_64", "linux_x86_64")


@dataclass(kw_only=True)
class GpuKitConfig:
    """Settings of the kit."""

    out: Path = Path("exp/gpu-kit")
    """folder of the kit, which is replaced; it must be ignored by git in the checkout"""
    python: str = "3.12"
    """version of the machine's Python"""
    pinned: bool = False
    """take DALI's version from constraints.txt"""
    copy_to: str = ""
    """folder to which every call copies the records and the output of the steps, for example $OUT; none: they stay"""
    rehearse: Path | None = None
    """run the calls on this machine with this Python, on the CPU"""


def pinned_versions(python: str) -> dict[str, str]:
    """Return the versions in constraints.txt for a version of Python, by normalized package name."""
    versions = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        found = re.fullmatch(r"([\w.-]+)==([\w.]+)(?:; python_version (<|>=) '(.+)')?", line)
        if found is None:
            continue
        name, version, relation, other = found.groups()
        is_older = [int(part) for part in python.split(".")] < [int(part) for part in (other or "0").split(".")]
        if relation is None or is_older == (relation == "<"):
            versions[normalized(name)] = version
    return versions


def requirements(group: str, python: str, pinned: bool) -> list[str]:
    """Return the requirements of a group with their versions."""
    versions = pinned_versions(python) | ({} if pinned else SAFE_DALI)
    names = GROUPS[group].split()
    return [f"{name}=={versions[normalized(name)]}" if normalized(name) in versions else name for name in names]


def download(packages: Sequence[str], folder: Path, python: str) -> None:
    """Download wheels for another Python without their dependencies. Raises `HgfastError`."""
    flags = [
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        python,
    ]
    platforms = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", *flags, *platforms, "--dest", str(folder), *packages]
    if subprocess.run(command, check=False).returncode:
        raise HgfastError("pip could not download the wheels: see its output above")


def repack(wheel: Path, python: str) -> None:
    """Remove C headers and the extension modules of other Pythons from a wheel."""
    keep = f".cpython-{python.replace('.', '')}-"
    with zipfile.ZipFile(wheel) as source:
        removed = {
            name for name in source.namelist() if "/include/" in name or (re.search(r"\.cpython-\w+-", name) and keep not in name)
        }
        if not removed:
            return
        target = wheel.with_suffix(".part")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for info in source.infolist():
                if info.filename in removed:
                    continue
                content = source.read(info)
                if info.filename.endswith(".dist-info/RECORD"):
                    lines = content.decode().splitlines(keepends=True)
                    content = "".join(line for line in lines if line.rsplit(",", 2)[0] not in removed).encode()
                archive.writestr(info, content, zipfile.ZIP_DEFLATED, 9)
    target.rename(wheel)


def split(wheels: Sequence[Path], size: int) -> list[bytes]:
    """Return pieces of at most `size` bytes of an archive of the wheels."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for wheel in wheels:
            archive.add(wheel, wheel.name)
    content = stream.getvalue()
    return [content[start : start + size] for start in range(0, len(content), size)]


def make_pieces(out: Path, groups: Sequence[str], python: str, pinned: bool) -> dict[str, list[Path]]:
    """Download and split the groups; return their pieces, which lie in OUT/pieces with manifest.json."""
    pieces_folder = out / "pieces"
    pieces_folder.mkdir(parents=True)
    manifest: dict[str, dict[str, dict[str, str]]] = {"groups": {}, "wheels": {}}
    pieces: dict[str, list[Path]] = {}
    for group in groups:
        folder = out / "wheels" / group
        folder.mkdir(parents=True)
        download(requirements(group, python, pinned), folder, python)
        wheels = sorted(folder.glob("*.whl"))
        for wheel in wheels:
            repack(wheel, python)
        pieces[group] = []
        for number, content in enumerate(split(wheels, PIECE_BYTES)):
            path = pieces_folder / f"{group}.{number:03d}"
            path.write_bytes(content)
            pieces[group].append(path)
        manifest["groups"][group] = {path.name: digest(path) for path in pieces[group]}
        manifest["wheels"][group] = {wheel.name: digest(wheel) for wheel in wheels}
    (pieces_folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return pieces


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Call(NamedTuple):
    """What a call brings, and the steps that it runs."""

    pieces: list[Path]
    steps: list[Step]


def plan_calls(steps: Sequence[Step], pieces: dict[str, list[Path]]) -> list[Call]:
    """Return the calls in order, each with at most `CALL_BYTES` of pieces and `STEP_MINUTES` of steps.

    A step of DALI or TensorRT-RTX, and all steps after it, wait until the pieces of its group have been brought.
    """
    waiting, remaining, calls = [path for paths in pieces.values() for path in paths], list(steps), list[Call]()
    while remaining or waiting:
        brought, size = list[Path](), 0
        while waiting and size + waiting[0].stat().st_size <= CALL_BYTES:
            size += waiting[0].stat().st_size
            brought.append(waiting.pop(0))
        missing, minutes, chosen = {path.stem for path in waiting}, STEP_MINUTES, list[Step]()
        while remaining and remaining[0].minutes <= minutes and group_of(remaining[0]) not in missing:
            minutes -= remaining[0].minutes
            chosen.append(remaining.pop(0))
        calls.append(Call(brought, chosen))
    return calls


def group_of(step: Step) -> str:
    """Return the group of wheels that a step needs beside the base."""
    if "dali" in step.name or "loader" in step.name:
        return "dali"
    return "rtx" if "rtx" in step.name else "base"


def command_of(call: Call, kit: Path, pieces: dict[str, list[Path]], config: GpuKitConfig) -> str:
    """Return the command of a call: it joins and installs the groups that are complete now, and runs the steps."""
    wheels, rehearsal = kit / "wheels", " --rehearse" * (config.rehearse is not None)
    groups = [group for group, paths in pieces.items() if paths[-1] in call.pieces]
    commands = [f"python3 {kit}/call-1/kit_join.py {kit} {group} {wheels}" for group in groups]
    if groups:
        commands.append(f"python3 bench/gpu_install.py --into {kit}/venv --wheels {wheels}{rehearsal}")
    if call.steps:
        names = ",".join(step.name for step in call.steps)
        flags = f"--minutes-in-all {LIMIT_MINUTES:g} --steps [{names}] --out {RESULTS}{rehearsal}"
        commands.append(f"{kit}/venv/bin/python bench/gpu_check.py {flags}")
    command = " && ".join(commands)
    if call.steps and config.copy_to:
        command += f'; code=$?; cp -r {RESULTS} {RESULTS.parent / "logs"} "{config.copy_to}"; exit $code'
    return command


def write_calls(out: Path, calls: Sequence[Call]) -> None:
    """Move the pieces from OUT/pieces to a folder for each call, and add the joiner and the manifest to the first."""
    (out / "call-1").mkdir()
    shutil.copy(JOIN_SCRIPT, out / "call-1")
    (out / "pieces" / "manifest.json").rename(out / "call-1" / "manifest.json")
    for number, call in enumerate(calls, 1):
        for path in call.pieces:
            (out / f"call-{number}").mkdir(exist_ok=True)
            path.rename(out / f"call-{number}" / path.name)
    (out / "pieces").rmdir()
    shutil.rmtree(out / "wheels")


def rehearse(commands: Sequence[str], python: Path) -> int:
    """Run the commands on this machine with `python` as python3 and without an index; print the times and return the number of
    those that failed."""
    with temporary_folder() as folder:
        script = folder / "python3"  # not a link, from which Python would not find its environment
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python.absolute()))} "$@"\n', "utf-8")
        script.chmod(0o755)
        variables = {"PATH": f"{folder}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        seconds, failures = list[float](), 0
        for number, command in enumerate(commands, 1):
            print(f"\n== rehearsal of call {number}: {command}", flush=True)
            start_time = time.perf_counter()
            environment = {key: value for key, value in os.environ.items() if key not in ("PIP_FIND_LINKS", "PYTHONPATH")}
            failures += (
                subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, env=environment | variables, check=False).returncode != 0
            )
            seconds.append(time.perf_counter() - start_time)
    print(f"rehearsed {len(commands)} calls in {sum(seconds) / 60:.1f} minutes, {failures} failed: seconds of each: ", end="")
    print(", ".join(f"{value:.0f}" for value in seconds), flush=True)
    return failures


def main() -> None:
    config = parse(GpuKitConfig, description=__doc__ or "")
    require_checkout("gpu_kit")
    if not re.fullmatch(r"3\.\d+", config.python):
        raise HgfastError(f"--python is {config.python}, must be a version such as 3.12")
    out = ROOT / config.out
    if out.exists() and not (out / "call-1").is_dir() and any(out.iterdir()):
        raise HgfastError(f"--out {config.out} is not empty and not a kit: choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    prepare_folder(out, "--out")
    pieces = make_pieces(out, list(GROUPS), config.python, config.pinned)
    calls = plan_calls(gpu_check_steps(SETTINGS), pieces)
    commands = [command_of(call, relative_to_root(out), pieces, config) for call in calls]
    write_calls(out, calls)
    print(f"\nthe machine needs a checkout of this revision, Python {config.python} and {PRESENT}")
    for number, (call, command) in enumerate(zip(calls, commands), 1):
        size = sum(path.stat().st_size for path in (out / f"call-{number}").glob("*")) / 1e6
        minutes = sum(step.minutes for step in call.steps)
        print(
            f"\n# call {number}: bring {config.out}/call-{number}, {size:.1f} MB; about {minutes:g} minutes of steps\n{command}"
        )
    if config.rehearse is not None and rehearse(commands, config.rehearse):
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
