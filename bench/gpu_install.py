"""Install the missing requirements of `make gpu-check` into a virtual environment that inherits the installed packages.

    python3 bench/gpu_install.py --into .venv-gpu

An installed torch of any version is not replaced, nor is any other package that is new enough: vendor containers ship their own
builds. Missing packages go into the environment; nothing outside it changes. Versions come from constraints.txt or, with an
inherited torch, from what pip finds compatible with it. This script uses only the standard library, because it runs before
anything is installed, and reads the requirements from setup.py.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import ctypes
import importlib
import re
import site
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("train", "export", "tensorrt", "bench")
DEV_TOOLS = ("pytest",)
"""The packages of the extra `dev` that are needed."""
CUDA_PACKAGES = ("torch", "nvidia-dali-cuda130")
"""Packages that depend on the CUDA version of the installed torch (see `plan_installs`)."""
IMPORT_NAMES = {
    "cuda-bindings": ("cuda.bindings",),
    "opencv-python-headless": ("cv2",),
    "pillow": ("PIL",),
    "pyyaml": ("yaml",),
    "jsonargparse": ("jsonargparse", "docstring_parser"),
}
"""Import names of packages whose import name differs from the package name."""
LIBRARIES = ("nvidia.dali", "tensorrt", "torch_tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
PINNED = ("torch", "torchvision", "torchaudio", "triton", "numpy", "tensorrt", "torch-tensorrt")
"""Packages that must not be replaced if torch is inherited."""


class InstallError(Exception):
    """The installation is impossible; the message says in one sentence what is wrong and what to do."""


@dataclass(frozen=True)
class TorchInfo:
    """An importable torch. cuda: version of its build, "" without CUDA. in_environment: in the environment, not inherited."""

    version: str
    cuda: str
    in_environment: bool


@dataclass(frozen=True)
class EnvironmentInfo:
    """The installed packages. versions: by package name in lower case, "?" if only the module was found. libraries: the
    importable ones of `LIBRARIES`. has_hgfast: whether `import hgfast` finds this checkout."""

    torch: TorchInfo | None
    versions: Mapping[str, str]
    libraries: frozenset[str]
    has_hgfast: bool


@dataclass(frozen=True)
class PipInstall:
    """One call of pip. requirements: its arguments. reason: for the log. required: whether a failure ends the installation."""

    requirements: tuple[str, ...]
    reason: str
    required: bool = True


@dataclass(frozen=True)
class Requirement:
    """A requirement of setup.py such as `jsonargparse[signatures]>=4.49`. text: without the environment marker."""

    text: str
    name: str
    min_version: str

    @classmethod
    def parse(cls, line: str) -> Requirement:
        text = line.partition(";")[0].strip()
        info = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=([\d.]+))?", text)
        if info is None:
            raise InstallError(f"setup.py requires {line!r}, which does not have the form name>=version: rewrite it")
        return cls(text, info[1].lower(), info[2] or "0")

    def is_satisfied(self, info: EnvironmentInfo) -> bool:
        installed = info.versions.get(self.name)
        return installed is not None and (installed == "?" or version_tuple(installed) >= version_tuple(self.min_version))


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version: (2, 9, 0) for "2.9.0a0+50eac81"."""
    info = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in info[0].split(".")) if info else ()


# ---- planning ----


def required_packages(path: Path = ROOT / "setup.py") -> list[Requirement]:
    """Return the requirements in setup.py, which is parsed, not executed."""
    tree = ast.parse(path.read_text())
    lists: dict[str, list[str]] = {}
    lines: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List):
            lists[node.targets[0].id] = ast.literal_eval(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "install_requires" and isinstance(node.value, ast.Name):
            lines += lists[node.value.id]
        if isinstance(node, ast.keyword) and node.arg == "extras_require" and isinstance(node.value, ast.Dict):
            extras = {ast.literal_eval(key): value for key, value in zip(node.value.keys, node.value.values) if key}
            by_name = {name: lists[value.id] for name, value in extras.items() if isinstance(value, ast.Name)}
            lines += [line for name in EXTRAS for line in by_name[name]]
            lines += [line for line in by_name["dev"] if Requirement.parse(line).name in DEV_TOOLS]
    return list(dict.fromkeys(Requirement.parse(line) for line in lines))


def inspect_environment(needed: Sequence[Requirement]) -> EnvironmentInfo:
    """Return the packages that this Python can import."""
    importlib.invalidate_caches()
    versions = {}
    for requirement in needed:
        modules = IMPORT_NAMES.get(requirement.name, (requirement.name.replace("-", "_"),))
        if all(has_module(module) for module in modules):
            versions[requirement.name] = installed_version(requirement.name)
    spec = find_spec("hgfast")
    return EnvironmentInfo(
        inspect_torch(),
        versions,
        frozenset(name for name in LIBRARIES if has_module(name)),
        spec is not None and spec.origin is not None and Path(spec.origin).resolve().is_relative_to(ROOT),
    )


def inspect_torch() -> TorchInfo | None:
    """Return the installed torch, or None. Raises `InstallError` if it is installed but cannot be imported."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    command = [sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda or '')"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        error = (process.stderr.strip().splitlines() or ["no error message"])[-1]
        raise InstallError(
            f"the torch in {Path(spec.origin).parent} cannot be imported ({error}): repair it, or set another GPU_PYTHON"
        )
    fields = process.stdout.strip().splitlines()[-1].split()
    in_environment = Path(spec.origin).resolve().is_relative_to(Path(sys.prefix).resolve())
    return TorchInfo(fields[0], fields[1] if len(fields) > 1 else "", in_environment)


def has_module(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the module belongs to another package, for example opencv-python
        return "?"


def plan_installs(info: EnvironmentInfo, needed: Sequence[Requirement]) -> list[PipInstall]:
    """Return the pip calls in order. Without torch it is torch alone, whose CUDA version determines the others.

    Raises:
        InstallError: the installed torch has no CUDA; it is not replaced.
    """
    if info.torch is None:
        return [PipInstall(("torch",), "not installed; the build on PyPI has CUDA")]
    if not info.torch.cuda:
        hint = "remove the environment" if info.torch.in_environment else "set another Python with GPU_PYTHON=..."
        raise InstallError(f"the installed torch {info.torch.version} has no CUDA and is not replaced: {hint}")
    missing = [requirement for requirement in needed if not requirement.is_satisfied(info)]
    missing = [requirement for requirement in missing if requirement.name not in CUDA_PACKAGES]
    major = info.torch.cuda.partition(".")[0]
    installs = []
    if missing:
        installs.append(PipInstall(tuple(requirement.text for requirement in missing), "missing or too old"))
    if "nvidia.dali" not in info.libraries:
        name = "nvidia-dali-cuda120" if major == "12" else "nvidia-dali-cuda130"
        installs.append(PipInstall((name,), f"DALI is missing; torch is built for CUDA {info.torch.cuda}"))
    if "tensorrt" not in info.libraries:
        installs.append(PipInstall((f"tensorrt-cu{major}",), "TensorRT is missing", required=False))
        if not info.libraries & {"tensorrt_rtx", "tensorrt_rtx_bindings"}:
            packages = (f"tensorrt-rtx-cu{major}-libs", f"tensorrt-rtx-cu{major}-bindings")
            installs.append(PipInstall(packages, "TensorRT-RTX is missing", required=False))
    if not info.has_hgfast:
        installs.append(PipInstall(("--no-deps", "--editable", str(ROOT)), "hgfast from this checkout"))
    return installs


# ---- installing ----


def install(environment: Path) -> None:
    """Install the missing packages into the environment of this Python. Raises `InstallError`."""
    needed = required_packages()
    info = inspect_environment(needed)
    print_environment(info, needed)
    if info.torch is None:
        run_installs(plan_installs(info, needed), ROOT / "constraints.txt")
        info = inspect_environment(needed)
        if info.torch is None:
            raise InstallError("pip installed torch, but it cannot be found: remove the environment and try again")
    run_installs(plan_installs(info, needed), constraints(info.torch, environment))


def constraints(torch: TorchInfo, environment: Path) -> Path:
    """Return the constraint file: the project's, or, with an inherited torch, the inherited versions of `PINNED`."""
    if torch.in_environment:
        return ROOT / "constraints.txt"
    pins = {name: pinned for name in PINNED if (pinned := installed_version(name)) != "?"}
    path = environment / "pinned.txt"
    path.write_text("".join(f"{name}=={pinned}\n" for name, pinned in pins.items()))
    print(f"pinned: {', '.join(f'{name} {pinned}' for name, pinned in pins.items())}", flush=True)
    return path


def run_installs(installs: Sequence[PipInstall], constraint: Path) -> None:
    """Run pip for each install. Raises `InstallError` if a required one fails."""
    for pip_install in installs:
        packages = " ".join(pip_install.requirements)
        print(f"== installing {packages} ({pip_install.reason})", flush=True)
        if pip(pip_install.requirements, constraint):
            continue
        if pip_install.required:
            raise InstallError(f"pip could not install {packages}: see its output above")
        print(f"{packages} could not be installed; steps that need it will be reported as not possible", flush=True)


def pip(args: Sequence[str], constraint: Path) -> bool:
    """Run `pip install` with these arguments and return whether it succeeded."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(constraint), *args]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def print_environment(info: EnvironmentInfo, needed: Sequence[Requirement]) -> None:
    """Print the installed packages."""
    torch = info.torch
    print(f"Python {sys.version.split()[0]} in {sys.prefix}")
    print(f"torch: {f'{torch.version}, CUDA {torch.cuda or chr(45)}, not replaced' if torch else 'none'}")
    for requirement in needed:
        if requirement.name == "torch" and torch and version_tuple(torch.version) < version_tuple(requirement.min_version):
            print(f"hgfast requires torch {requirement.min_version} or later and was not tested with this version")
    names = [requirement.name for requirement in needed if requirement.name not in CUDA_PACKAGES]
    installed = [f"{name} {info.versions[name]}" for name in names if name in info.versions]
    print(f"packages: {', '.join(installed) or 'none'}")
    print(f"libraries: {', '.join(sorted(info.libraries)) or 'none'}", flush=True)


def create_environment(path: Path) -> Path:
    """Create the environment if it is missing and return its Python. Raises `InstallError` if it has no pip."""
    python = path / "bin" / "python"
    if not python.exists():
        print(f"== creating {path}, which inherits the packages of {sys.executable}", flush=True)
        with_pip = has_module("ensurepip")  # a separate package on Debian; without it the inherited pip serves
        venv.EnvBuilder(system_site_packages=True, with_pip=with_pip, symlinks=True).create(path)
        (path / ".gitignore").write_text("*\n")
        if sys.prefix != sys.base_prefix:  # an environment of an environment inherits only the base Python's packages
            packages = path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
            lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
            (packages / "outer.pth").write_text("".join(lines))
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        raise InstallError(f"the environment {path} has no pip: remove it and install pip (on Debian and Ubuntu python3-venv)")
    return python


def count_gpus() -> int:
    """Return the number of GPUs that the NVIDIA driver reports; 0 without a driver."""
    count = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0:
            driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / ".venv-gpu", help="the environment; created if missing")
    into = parser.parse_args(args).into.resolve()
    try:
        if not count_gpus():
            raise InstallError("no GPU is visible: use a machine with an NVIDIA GPU and driver; in a container, pass --gpus all")
        if Path(sys.prefix).resolve() == into:
            install(into)
            return
        python = create_environment(into)
    except (InstallError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    raise SystemExit(subprocess.run([python, __file__, "--into", into], check=False).returncode)


if __name__ == "__main__":
    main()
