"""The installed package: cheap to import, and no module name that hides another."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT_FOLDERS = ("hgfast", "pipelines", "bench", "export")
PACKAGES = {
    *("torch", "numpy", "cv2", "nvidia", "onnx", "tensorrt", "triton", "tqdm", "yaml", "PIL", "matplotlib"),
    *("onnxruntime", "onnxscript", "openvino", "tensorrt_rtx", "tensorrt_bindings", "tensorrt_rtx_bindings", "torch_tensorrt"),
    *(
        "google",
        "h5py",
        "jinja2",
        "jsonargparse",
        "jsonschema",
        "scipy",
        "tabulate",
        "tensorboard",
        "torchvision",
        *SCRIPT_FOLDERS,
    ),
}


def test_importing_hgfast_imports_no_torch() -> None:
    code = "import sys, hgfast; assert 'torch' not in sys.modules; assert hgfast.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    import hgfast

    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        hgfast.load_modle  # noqa: B018


def test_make_help_names_every_target() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    (phony,) = [line.split()[1:] for line in lines if line.startswith(".PHONY:")]
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == set(phony) - {"help"}


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS)
def test_no_module_hides_the_standard_library(folder: str) -> None:
    """A script's folder comes first on sys.path."""
    names = {file.stem for file in (ROOT / folder).glob("*.py")} - {"__init__"}
    names |= {file.parent.name for file in (ROOT / folder).glob("*/__init__.py") if not file.parent.is_symlink()}
    assert names & set(sys.stdlib_module_names) == set()
    assert names & PACKAGES == set()


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS[1:])
def test_folders_are_parts_of_the_package_by_a_link(folder: str) -> None:
    link = ROOT / "hgfast" / folder
    assert link.is_symlink() and link.readlink() == Path("..", folder)


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS)
def test_text_files_have_an_encoding(folder: str) -> None:
    """Files do not depend on LANG: text is read and written with a named encoding."""
    without = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node.func, ast.Attribute) else ""
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            positional = {"read_text": 1, "write_text": 2}.get(name, 100)
            is_text = name in ("read_text", "write_text") or (
                name == "open" and bool({"r", "w", "a", "x", "r+", "w+"} & {*modes})
            )
            if is_text and len(node.args) < positional and "encoding" not in {keyword.arg for keyword in node.keywords}:
                without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not without
