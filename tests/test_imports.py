"""Import rules: bench and export may import pipelines, and all of them hgfast's core, without cycles.

Imports inside functions count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("pipelines", "export", "bench")
"""Top-level folders, which are installed and imported as `hgfast.<folder>`."""
CORE = "core"
MAY_IMPORT = {CORE: set[str](), "pipelines": {CORE}, "export": {CORE, "pipelines"}, "bench": {CORE, "pipelines"}}
"""Folders that each folder may import; the core is `hgfast` without the three others."""
FILEIO, RUNTIME, TRAINING, VISUALIZATION, REPORTING = "fileio", "runtime", "training", "visualization", "reporting"
PARTIAL_ROWS = {
    FILEIO: set[str](),
    RUNTIME: {FILEIO, VISUALIZATION},
    TRAINING: {FILEIO, RUNTIME, VISUALIZATION},
    VISUALIZATION: {FILEIO},
    REPORTING: {FILEIO, RUNTIME, TRAINING, VISUALIZATION},
}
"""Sub-packages of the core that each one may import."""
ON_TOP = {
    "hgfast.visualization.overlays": {RUNTIME, TRAINING},
    "hgfast.training.run": {"pipelines"},
    "hgfast.training.checkpoint_evaluation": {"pipelines"},
}
"""Modules of a sub-package that only scripts and each other import, and what else they may import."""
ENTRY_POINTS = {
    "hgfast.train": set(),
    "hgfast.evaluate": {"pipelines"},
    "hgfast.predict": set(),
    "hgfast.convert": set(),
    "hgfast.__main__": {"pipelines", "export", "bench"},
}
"""Entry points, and what else they may import. No module imports them."""
TORCH_FREE = {"hgfast", "hgfast.runtime", "hgfast.runtime.session", "hgfast.__main__"}
HEAVY_PACKAGES = {
    "torch",
    "nvidia",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "torch_tensorrt",
    "h5py",
    "scipy",
    "yaml",
}


def modules() -> dict[str, ast.Module]:
    """Parse all modules; returns them by import name."""
    trees = {}
    for folder in ("hgfast", *FOLDERS):
        for path in python_files(ROOT / folder):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "examples" not in parts:  # stand-alone programs to copy
                parts = parts if folder == "hgfast" else ("hgfast", *parts)
                trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return trees


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files in a folder and its sub-folders, without following links."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from python_files(path)
        elif path.suffix == ".py":
            yield path


MODULES = modules()


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names after `import`; for `from a import b`, a.b if that is a module of the project, else a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (one if one in MODULES else str(node.module) for one in inside)


def project_imports(name: str, tree: ast.AST) -> set[str]:
    """Return the project's modules that a module imports."""
    return {one for one in imported_names(tree) if one in MODULES} - {name}


def folder_of(name: str) -> str:
    """`hgfast.bench.gpu.steps` -> bench, `hgfast.training.ema` -> core."""
    first = [*name.split("."), ""][1]
    return first if first in FOLDERS else CORE


def part_of(name: str) -> str | None:
    """`hgfast.training.ema` -> training, `hgfast.model` -> None."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PARTIAL_ROWS else None


GRAPH = {name: project_imports(name, tree) for name, tree in MODULES.items()}


def test_graph_is_not_empty() -> None:
    assert "hgfast.skeletons" in GRAPH["hgfast.model"] and "hgfast.pipelines.samples" in GRAPH["hgfast.training.run"]
    assert "hgfast.bench.measurements.latency" in GRAPH["hgfast.bench.latency"]
    assert "hgfast.export.exporter.options" in GRAPH["hgfast.export.trt"]
    assert {part_of(name) for name in GRAPH} == {*PARTIAL_ROWS, None} and {folder_of(name) for name in GRAPH} == set(MAY_IMPORT)


def test_every_import_names_the_installed_package() -> None:
    """A user's `pipelines.py` or `export/` must not shadow the project's."""
    wrong = {name: [one for one in imported_names(tree) if one.partition(".")[0] in FOLDERS] for name, tree in MODULES.items()}
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_follow_layers(folder: str) -> None:
    for name in GRAPH:
        if folder_of(name) == folder:
            allowed = {folder, *MAY_IMPORT[folder], *ENTRY_POINTS.get(name, ()), *ON_TOP.get(name, ())}
            assert not {one for one in GRAPH[name] if folder_of(one) not in allowed}, name


@pytest.mark.parametrize("part", PARTIAL_ROWS)
def test_arrows_between_the_parts_of_the_core(part: str) -> None:
    wrong = {
        name: found
        for name in GRAPH
        if part_of(name) == part
        and (
            found := {one for one in GRAPH[name] if part_of(one) not in {part, None, *PARTIAL_ROWS[part], *ON_TOP.get(name, ())}}
        )
    }
    assert not wrong


def test_entry_points_are_not_imported() -> None:
    assert not {name: found & set(ENTRY_POINTS) for name, found in GRAPH.items() if found & set(ENTRY_POINTS)}


def test_no_import_cycles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_runtime_imports_are_light() -> None:
    """Only imports at the top of a module count here."""
    pending, visited = list(TORCH_FREE), set[str]()
    while pending:
        name = pending.pop()
        visited.add(name)
        top = ast.Module([node for node in MODULES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert not {word.partition(".")[0] for word in imported_names(top)} & HEAVY_PACKAGES, name
        pending += project_imports(name, top) - visited
    assert len(visited) > 5


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import hgfast.config", {"torch"}),
        ("import hgfast; hgfast.__version__; hgfast.Session", {"torch", "yaml", "h5py", "scipy"}),
        ("import sys, hgfast.__main__ as it; sys.argv[1:] = ['--help']; it.main()", {"torch", "numpy", "jsonargparse"}),
    ],
)
def test_starts_without(code: str, absent: set[str]) -> None:
    code += f"\nimport sys\nassert not {absent!r} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_only_scripts_import_what_is_on_top() -> None:
    users = {name for name, found in GRAPH.items() if found & set(ON_TOP)}
    assert users and all(part_of(name) is None or name in ON_TOP for name in users), users
