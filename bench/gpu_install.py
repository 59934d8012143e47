"""Install the missing requirements of `make gpu-check` into a virtual environment that inherits the installed packages.

    python3 bench/gpu_install.py --into .venv-gpu
    python3 bench/gpu_install.py --into .venv-gpu --wheels WHEELS

An installed torch of any version is not replaced, nor is any other package that is new enough: vendor containers ship their own
builds. Missing packages go into the environment; nothing outside it changes. Versions come from constraints.txt or, with an
inherited torch, from what pip finds compatible with it. With --wheels, or with the variables PIP_NO_INDEX and PIP_FIND_LINKS of
pip, nothing is downloaded: packages come from a folder of wheels, as `make gpu-kit` prepares one. A package that cannot be
installed is reported with the steps that need it, and the others are installed. This script uses only the standard library,
because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
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
PURPOSES = {
    "nvidia-dali-cuda": "steps whose names contain dali or loader",
    "nvidia-nvimgcodec": "steps whose names contain dali or loader",
    "nvidia-nvjpeg": "steps whose names contain dali or loader",
    "onnxruntime": "verification of onnx-* and int8",
    "openvino": "verification of onnx-* by OpenVINO",
    "onnx": "onnx-*, engine-*",
    "tensorrt-rtx": "engine-rtx-fp16",
    "tensorrt": "engine-*",
    "cuda-bindings": "engine-*",
    "h5py": "loader-mpii, and tests of MPII",
    "scipy": "pckh, and the noise of benchmarks",
    "matplotlib": "charts",
    "tensorboard": "TensorBoard curves",
    "pytest": "tests-*",
    "hypothesis": "tests-*",
}
"""What needs a package, by the start of its name; every step needs the others."""
PINNED = ("torch", "torchvision", "torchaudio", "triton", "numpy", "tensorrt", "torch-tensorrt")
"""Packages that must not be replaced if torch is inherited."""


class InstallError(Exception):
    """The installation is impossible; the message says in one sentence what is wrong and what to do."""


def install(environment: Path, wheels: Path | None = None, rehearse: bool = False) -> None:
    """Install the missing packages into the environment of this Python.

    Args:
        wheels: folder from which pip takes all packages; None: an index.
        rehearse: accept a torch without CUDA.

    Raises:
        InstallError: torch or hgfast itself cannot be installed.
    """
    print(f"Python {sys.version.split()[0]} in {sys.prefix}", flush=True)
    torch = torch_version()
    if torch is None and wheels is None:
        require(pip(["torch"], ROOT / "constraints.txt", "not installed; the build on PyPI has CUDA"), "torch")
        torch = torch_version()
    if torch is None or not (torch[1] or rehearse):
        found = "cannot be found" if torch is None else f"{torch[0]} has no CUDA and is not replaced"
        raise InstallError(f"the installed torch {found}: remove {environment}, or set another Python with GPU_PYTHON=...")
    print(f"torch: {torch[0]}, CUDA {torch[1] or 'none'}, not replaced", flush=True)
    constraint, major = constraints(environment), torch[1].partition(".")[0]
    dali = f"nvidia-dali-cuda{'120' if major == '12' else '130'}"
    editable = ["--no-deps", "--editable", str(ROOT)]
    if wheels is not None:
        if not has_module("setuptools"):
            pip(["setuptools"], constraint, "to install hgfast", wheels)
        require(pip(["--no-build-isolation", *editable], constraint, "hgfast from this checkout", wheels), "hgfast")
        missing = install_wheels(wheels, constraint, dali)
    else:
        require(pip(editable, constraint, "hgfast from this checkout"), "hgfast")
        missing = install_all(requirements(), constraint, "those that are missing or too old")
        if not has_module("nvidia.dali"):
            missing += install_all([dali], constraint, f"torch is built for CUDA {torch[1]}")
        if not has_module("tensorrt") and install_all([f"tensorrt-cu{major}"], constraint, "TensorRT is missing"):
            missing.append("tensorrt")
            if not has_module("tensorrt_rtx") and not has_module("tensorrt_rtx_bindings"):
                packages = [f"tensorrt-rtx-cu{major}-libs", f"tensorrt-rtx-cu{major}-bindings"]
                missing += install_all(packages, constraint, "TensorRT-RTX is missing")
    for name in missing:
        print(f"missing: {name}; needed by: {purpose(name)}", flush=True)


def install_wheels(wheels: Path, constraint: Path, dali: str) -> list[str]:
    """Install, from wheels alone, the requirements of hgfast and the packages of the folder that are not installed. Dependencies
    that are neither are left out. Returns the requirements that are neither installed nor in the folder, or failed."""
    available = {normalized(path.name.partition("-")[0]) for path in wheels.glob("*.whl")}
    wanted = {name_of(requirement): requirement for requirement in (*requirements(), dali)}
    missing = [name for name in wanted if name not in available and not is_installed(name)]
    others = [name for name in sorted(available - set(wanted)) if not is_installed(name)]
    present = [requirement for name, requirement in wanted.items() if name not in missing]
    return missing + install_all(["--no-deps", *present, *others], constraint, f"from {wheels}", wheels)


def install_all(args: Sequence[str], constraint: Path, reason: str, wheels: Path | None = None) -> list[str]:
    """Install packages at once or, if that fails, one after the other. Returns the names of those that could not be installed.

    args: requirements, and flags of pip that begin with "--".
    """
    if pip(args, constraint, reason, wheels):
        return []
    flags, packages = [arg for arg in args if arg.startswith("--")], [arg for arg in args if not arg.startswith("--")]
    if len(packages) == 1:
        return [name_of(packages[0])]
    return [name_of(package) for package in packages if not pip([*flags, package], constraint, "alone", wheels)]


def require(succeeded: bool, package: str) -> None:
    """Raise `InstallError` if pip could not install a package that everything needs."""
    if not succeeded:
        raise InstallError(f"pip could not install {package}: see its output above")


def normalized(name: str) -> str:
    """Return a package name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    return normalized(re.split(r"[^\w.-]", requirement.strip())[0])


def is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def purpose(name: str) -> str:
    """Return what needs a package."""
    return next((steps for start, steps in PURPOSES.items() if name.startswith(start)), "every step")


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
        name = name_of(requirement)
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
    path.write_text("".join(lines), "utf-8")
    print(f"pinned: {' '.join(lines).replace(chr(10), '')}", flush=True)
    return path


def pip(args: Sequence[str], constraint: Path, reason: str, wheels: Path | None = None) -> bool:
    """Run `pip install` with these arguments and return whether it succeeded."""
    print(f"== installing {' '.join(args)} ({reason})", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(constraint), *args]
    command += ["--no-index", "--find-links", str(wheels)] if wheels is not None else []
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def has_module(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def create_environment(path: Path, wheels: Path | None = None) -> Path:
    """Create the environment if it is missing and return its Python; without an inherited pip, that of `wheels` is installed.

    Raises:
        InstallError: there is no pip.
    """
    python = path / "bin" / "python"
    if not python.exists():
        print(f"== creating {path}, which inherits the packages of {sys.executable}", flush=True)
        with_pip = has_module("ensurepip")  # a separate package on Debian; without it the inherited pip serves
        venv.EnvBuilder(system_site_packages=True, with_pip=with_pip, symlinks=True).create(path)
        (path / ".gitignore").write_text("*\n", "utf-8")
        if sys.prefix != sys.base_prefix:  # an environment of an environment inherits only the base Python's packages
            packages = path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
            lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
            (packages / "outer.pth").write_text("".join(lines), "utf-8")
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        wheel = next(iter(sorted(wheels.glob("pip-*.whl"))), None) if wheels is not None else None
        if wheel is not None:  # a wheel is a zip archive, from which Python can run pip
            command = [str(python), str(wheel / "pip"), "install", "--no-index", "--find-links", str(wheels), "pip"]
            if subprocess.run(command, check=False).returncode == 0:
                return python
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


def wheel_folder(given: Path | None) -> Path | None:
    """Return the folder of --wheels, else that of pip's own variables, else None. Raises `InstallError` for a folder without
    wheels."""
    if given is None and os.environ.get("PIP_NO_INDEX", "").lower() not in ("", "0", "false", "no"):
        given = Path((os.environ.get("PIP_FIND_LINKS") or ".").split()[0])
    if given is not None and not next(given.glob("*.whl"), None):
        raise InstallError(f"there are no wheels in {given}: give the folder of the wheels of `make gpu-kit` as --wheels")
    return None if given is None else given.resolve()


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / ".venv-gpu", help="the environment; created if missing")
    parser.add_argument("--wheels", type=Path, help="install from this folder alone, without a network")
    parser.add_argument("--rehearse", action="store_true", help="accept a machine without a GPU, and a torch without CUDA")
    given = parser.parse_args(args)
    into = given.into.resolve()
    try:
        wheels = wheel_folder(given.wheels)
        if not given.rehearse and not count_gpus():
            raise InstallError("no GPU is visible: use a machine with an NVIDIA GPU and driver; in a container, pass --gpus all")
        if Path(sys.prefix).resolve() == into:
            install(into, wheels, given.rehearse)
            return
        python = create_environment(into, wheels)
    except (InstallError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    flags = ["--into", str(into), *(["--wheels", str(wheels)] if wheels else []), *["--rehearse"] * given.rehearse]
    raise SystemExit(subprocess.run([python, __file__, *flags], check=False).returncode)


if __name__ == "__main__":
    main()
