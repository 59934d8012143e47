"""Install the missing requirements of `make gpu-check` into a virtual environment that inherits the installed packages.

    python3 bench/gpu_install.py --into .venv-gpu

An installed torch of any version is not replaced, nor is any other package that is new enough: vendor containers ship their own
builds. Missing packages go into the environment; nothing outside it changes. Versions come from constraints.txt or, with an
inherited torch, from what pip finds compatible with it. This script uses only the standard library, because it runs before
anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import re
import site
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("train", "export", "tensorrt", "bench")
DEV_TOOLS = ("pytest",)
"""The packages of the extra `dev` that are needed."""
CUDA_PACKAGES = ("torch", "nvidia-dali-cuda130")
"""Requirements that depend on the CUDA version of the installed torch."""
PINNED = ("torch", "torchvision", "torchaudio", "triton", "numpy", "tensorrt", "torch-tensorrt")
"""Packages that must not be replaced if torch is inherited."""


class InstallError(Exception):
    """The installation is impossible; the message says in one sentence what is wrong and what to do."""


def install(environment: Path) -> None:
    """Install the missing packages into the environment of this Python. Raises `InstallError`."""
    print(f"Python {sys.version.split()[0]} in {sys.prefix}", flush=True)
    torch = torch_version()
    if torch is None:
        pip(["torch"], ROOT / "constraints.txt", "not installed; the build on PyPI has CUDA")
        torch = torch_version()
    if torch is None or not torch[1]:
        found = "cannot be found" if torch is None else f"{torch[0]} has no CUDA and is not replaced"
        raise InstallError(f"the installed torch {found}: remove {environment}, or set another Python with GPU_PYTHON=...")
    print(f"torch: {torch[0]}, CUDA {torch[1]}, not replaced", flush=True)
    constraint, major = constraints(environment), torch[1].partition(".")[0]
    pip(["--no-deps", "--editable", str(ROOT)], constraint, "hgfast from this checkout")
    pip(requirements(), constraint, "those that are missing or too old")
    if not has_module("nvidia.dali"):
        pip([f"nvidia-dali-cuda{'120' if major == '12' else '130'}"], constraint, f"torch is built for CUDA {torch[1]}")
    if not has_module("tensorrt"):
        pip([f"tensorrt-cu{major}"], constraint, "TensorRT is missing", required=False)
        if not has_module("tensorrt_rtx") and not has_module("tensorrt_rtx_bindings"):
            packages = [f"tensorrt-rtx-cu{major}-libs", f"tensorrt-rtx-cu{major}-bindings"]
            pip(packages, constraint, "TensorRT-RTX is missing", required=False)


def torch_version() -> tuple[str, str] | None:
    """Return the version of torch and of its CUDA, "" without CUDA; None without torch.

    Raises:
        InstallError: torch is installed but cannot be imported.
    """
    code = (
        "from importlib.util import find_spec; assert find_spec('torch'), 'missing'; "
        "import torch; print(torch.__version__, torch.version.cuda or '')"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if process.returncode:
        error = (process.stderr.strip().splitlines() or ["no error message"])[-1]
        if error == "AssertionError: missing":
            return None
        raise InstallError(f"the installed torch cannot be imported ({error}): repair it, or set another GPU_PYTHON")
    release, _, cuda = process.stdout.strip().splitlines()[-1].partition(" ")
    return release, cuda


def requirements() -> list[str]:
    """Return the requirements in the metadata of hgfast, except `CUDA_PACKAGES`."""
    found = []
    for line in requires("hgfast") or ():
        requirement, _, marker = line.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip().lower())[0]
        extra = re.search(r"""extra == ['"](\w+)""", marker)
        if name not in CUDA_PACKAGES and (extra is None or extra[1] in EXTRAS or name in DEV_TOOLS):
            found.append(requirement.strip())
    return list(dict.fromkeys(found))


def constraints(environment: Path) -> Path:
    """Return the constraint file: the project's, or, with an inherited torch, the inherited versions of `PINNED`."""
    spec = find_spec("torch")
    if spec is not None and Path(str(spec.origin)).resolve().is_relative_to(environment):
        return ROOT / "constraints.txt"
    lines = []
    for name in PINNED:
        with contextlib.suppress(PackageNotFoundError):
            lines.append(f"{name}=={version(name)}\n")
    path = environment / "pinned.txt"
    path.write_text("".join(lines))
    print(f"pinned: {' '.join(lines).replace(chr(10), '')}", flush=True)
    return path


def pip(args: Sequence[str], constraint: Path, reason: str, required: bool = True) -> None:
    """Run `pip install` with these arguments. Raises `InstallError` if it fails and is required."""
    packages = " ".join(args)
    print(f"== installing {packages} ({reason})", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(constraint), *args]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        if required:
            raise InstallError(f"pip could not install {packages}: see its output above")
        print(f"{packages} could not be installed; steps that need it will be reported as not possible", flush=True)


def has_module(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


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
