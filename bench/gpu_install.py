"""Install what `make gpu-check` needs and does not find, into a virtual environment that sees what is there already.

    python3 bench/gpu_install.py --into .venv-gpu

A torch that is there is kept whatever its version, and so is every other package that is new enough: a vendor's container
brings builds of its own. What is missing goes into the environment; nothing outside it is changed. Versions are those of
constraints.txt, or, beside somebody else's torch, whatever goes with it.
What may enter: the standard library alone, for nothing is installed yet; what is needed is read from setup.py.
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
TOOLS = ("pytest",)
"""Of the extra `dev`, all that is needed here."""
APART = ("torch", "nvidia-dali-cuda130")
"""Which of them depends on what is there: see `decide`."""
MODULES = {
    "cuda-bindings": ("cuda.bindings",),
    "opencv-python-headless": ("cv2",),
    "pillow": ("PIL",),
    "pyyaml": ("yaml",),
    "jsonargparse": ("jsonargparse", "docstring_parser"),
}
"""What is imported of a package, where it is not called the same."""
LIBRARIES = ("nvidia.dali", "tensorrt", "torch_tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
KEPT = ("torch", "torchvision", "torchaudio", "triton", "numpy", "tensorrt", "torch-tensorrt")
"""What nothing that is installed may replace, where torch is somebody else's."""


class Refused(Exception):
    """It cannot be done. The message is one sentence: what is wrong and what to do."""


@dataclass(frozen=True)
class Torch:
    """A torch that can be imported. cuda: of its build, "" for one without. ours: it is in the environment itself."""

    version: str
    cuda: str
    ours: bool


@dataclass(frozen=True)
class Found:
    """What is there. versions: of packages by name in lower case, "?" where only the module is known. libraries: of
    `LIBRARIES`. hgfast: whether it can be imported and is this one."""

    torch: Torch | None
    versions: Mapping[str, str]
    libraries: frozenset[str]
    hgfast: bool


@dataclass(frozen=True)
class Install:
    """One call of pip. words: what it gets. why: for people. must: whether to give up where it fails."""

    words: tuple[str, ...]
    why: str
    must: bool = True


@dataclass(frozen=True)
class Requirement:
    """A line of setup.py, `jsonargparse[signatures]>=4.49`. text: without its marker. least: the oldest version that will do."""

    text: str
    name: str
    least: str

    @classmethod
    def read(cls, line: str) -> Requirement:
        text = line.partition(";")[0].strip()
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=([\d.]+))?", text)
        if found is None:
            raise Refused(f"setup.py asks for {line!r}, which is not of the form name>=version: write it so")
        return cls(text, found[1].lower(), found[2] or "0")

    def met(self, found: Found) -> bool:
        here = found.versions.get(self.name)
        return here is not None and (here == "?" or numbers(here) >= numbers(self.least))


def numbers(version: str) -> tuple[int, ...]:
    """(2, 9, 0) of "2.9.0a0+50eac81"."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


# ---- what is needed, what is there, what to do ----


def wanted(path: Path = ROOT / "setup.py") -> list[Requirement]:
    """What setup.py says is needed, without running it."""
    tree = ast.parse(path.read_text())
    lists: dict[str, list[str]] = {}
    lines: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List):
            lists[node.targets[0].id] = ast.literal_eval(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            lines += ast.literal_eval(node.value)
        if isinstance(node, ast.keyword) and node.arg == "extras_require" and isinstance(node.value, ast.Dict):
            extras = {ast.literal_eval(key): value for key, value in zip(node.value.keys, node.value.values) if key}
            by_name = {name: lists[value.id] for name, value in extras.items() if isinstance(value, ast.Name)}
            lines += [line for name in EXTRAS for line in by_name[name]]
            lines += [line for line in by_name["dev"] if Requirement.read(line).name in TOOLS]
    return list(dict.fromkeys(Requirement.read(line) for line in lines))


def look(needed: Sequence[Requirement]) -> Found:
    """What this Python has."""
    importlib.invalidate_caches()
    versions = {}
    for requirement in needed:
        modules = MODULES.get(requirement.name, (requirement.name.replace("-", "_"),))
        if all(there(module) for module in modules):
            versions[requirement.name] = version_of(requirement.name)
    ours = find_spec("hgfast")
    return Found(
        look_at_torch(),
        versions,
        frozenset(name for name in LIBRARIES if there(name)),
        ours is not None and ours.origin is not None and Path(ours.origin).resolve().is_relative_to(ROOT),
    )


def look_at_torch() -> Torch | None:
    """Raises `Refused` for one that cannot be imported."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    asked = [sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda or '')"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
        raise Refused(
            f"the torch in {Path(spec.origin).parent} cannot be imported ({told}): repair it, or name another GPU_PYTHON"
        )
    words = done.stdout.strip().splitlines()[-1].split()
    ours = Path(spec.origin).resolve().is_relative_to(Path(sys.prefix).resolve())
    return Torch(words[0], words[1] if len(words) > 1 else "", ours)


def there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a module that another package brought, opencv-python say
        return "?"


def decide(found: Found, needed: Sequence[Requirement]) -> list[Install]:
    """What pip is to install, in turn. Without torch it is torch alone: what else is needed depends on its CUDA.

    Raises:
        Refused: a torch without CUDA, which is not replaced.
    """
    if found.torch is None:
        return [Install(("torch",), "there is none; PyPI's is built for CUDA")]
    if not found.torch.cuda:
        advice = "remove the environment" if found.torch.ours else "name another Python with GPU_PYTHON=..."
        raise Refused(f"torch {found.torch.version} is here, was built without CUDA and is not replaced: {advice}")
    missing = [one for one in needed if one.name not in APART and not one.met(found)]
    major = found.torch.cuda.partition(".")[0]
    installs = []
    if missing:
        installs.append(Install(tuple(one.text for one in missing), "missing, or too old"))
    if "nvidia.dali" not in found.libraries:
        name = "nvidia-dali-cuda120" if major == "12" else "nvidia-dali-cuda130"
        installs.append(Install((name,), f"there is no DALI; torch is built for CUDA {found.torch.cuda}"))
    if "tensorrt" not in found.libraries:
        installs.append(Install((f"tensorrt-cu{major}",), "there is no TensorRT", must=False))
        if not found.libraries & {"tensorrt_rtx", "tensorrt_rtx_bindings"}:
            packages = (f"tensorrt-rtx-cu{major}-libs", f"tensorrt-rtx-cu{major}-bindings")
            installs.append(Install(packages, "there is no TensorRT-RTX either", must=False))
    if not found.hgfast:
        installs.append(Install(("--no-deps", "--editable", str(ROOT)), "hgfast itself, as it lies here"))
    return installs


# ---- doing it ----


def install(environment: Path) -> None:
    """Look, decide and let pip work, in the environment that this Python belongs to. Raises `Refused`."""
    needed = wanted()
    found = look(needed)
    say(found, needed)
    if found.torch is None:
        carry_out(decide(found, needed), ROOT / "constraints.txt")
        found = look(needed)
        if found.torch is None:
            raise Refused("pip has installed torch, and it cannot be found: remove the environment and try again")
    carry_out(decide(found, needed), constraints(found.torch, environment))


def constraints(torch: Torch, environment: Path) -> Path:
    """The file that pip has to keep to: the project's own, or, beside somebody else's torch, what must not be replaced."""
    if torch.ours:
        return ROOT / "constraints.txt"
    pins = {name: found for name in KEPT if (found := version_of(name)) != "?"}
    path = environment / "kept.txt"
    path.write_text("".join(f"{name}=={found}\n" for name, found in pins.items()))
    print(f"not to be replaced: {', '.join(f'{name} {found}' for name, found in pins.items())}", flush=True)
    return path


def carry_out(installs: Sequence[Install], constraint: Path) -> None:
    """Raises `Refused` where pip cannot install what must be there."""
    for one in installs:
        print(f"== installing {' '.join(one.words)} ({one.why})", flush=True)
        if pip(one.words, constraint):
            continue
        if one.must:
            raise Refused(f"pip could not install {' '.join(one.words)}: what it said is above")
        print(f"{' '.join(one.words)} could not be installed; what needs it will be called not possible", flush=True)


def pip(words: Sequence[str], constraint: Path) -> bool:
    """Whether pip could install them."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--constraint", str(constraint), *words]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def say(found: Found, needed: Sequence[Requirement]) -> None:
    """What there is, for people."""
    torch = found.torch
    print(f"Python {sys.version.split()[0]} in {sys.prefix}")
    print(f"torch: {f'{torch.version}, CUDA {torch.cuda or chr(45)}, kept' if torch else 'none'}")
    for one in needed:
        if one.name == "torch" and torch and numbers(torch.version) < numbers(one.least):
            print(f"hgfast asks for torch {one.least} or later, and has not been tried with this one")
    here = [f"{one.name} {found.versions[one.name]}" for one in needed if one.name in found.versions and one.name not in APART]
    print(f"packages: {', '.join(here) or 'none'}")
    print(f"libraries: {', '.join(sorted(found.libraries)) or 'none'}", flush=True)


def make_environment(path: Path) -> Path:
    """The Python of the environment, which is made where there is none. Raises `Refused` where it has no pip."""
    python = path / "bin" / "python"
    if not python.exists():
        print(f"== making {path}, which sees the packages of {sys.executable}", flush=True)
        with_pip = there("ensurepip")  # Debian has it in a package of its own; then the system's pip will do
        venv.EnvBuilder(system_site_packages=True, with_pip=with_pip, symlinks=True).create(path)
        (path / ".gitignore").write_text("*\n")
        if sys.prefix != sys.base_prefix:  # an environment itself, whose packages its own Python does not have
            packages = path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
            lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
            (packages / "outer.pth").write_text("".join(lines))
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        raise Refused(f"the environment {path} has no pip: remove it, install pip or, on Debian and Ubuntu, python3-venv")
    return python


def gpus() -> int:
    """How many GPUs NVIDIA's driver shows; 0 without a driver."""
    count = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0:
            driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / ".venv-gpu", help="the environment; made where there is none")
    into = parser.parse_args(words).into.resolve()
    try:
        if not gpus():
            raise Refused(
                "no GPU is visible: this needs an NVIDIA GPU with a driver, and in a container leave to use it (--gpus all)"
            )
        if Path(sys.prefix).resolve() == into:
            install(into)
            return
        python = make_environment(into)
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    raise SystemExit(subprocess.run([python, __file__, "--into", into], check=False).returncode)


if __name__ == "__main__":
    main()
