"""Who imports whom: arrows point one way, from the scripts over the pipelines to hgfast, and there is no cycle.

Imports inside functions count too: what is imported late is still known.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

BELOW = {"hgfast": set[str](), "pipelines": {"hgfast"}, "export": {"hgfast", "pipelines"}, "bench": {"hgfast", "pipelines"}}
"""What each folder may know beside itself."""
ENTRIES = {"hgfast.train": {"pipelines"}, "hgfast.evaluate": {"pipelines"}}
"""Entry points, which know more. Nothing imports them."""
LIGHT = {"hgfast", "hgfast.runtime"}
HEAVY = {
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
    """All modules by name; scripts' are their folder's."""
    found = {}
    for folder in BELOW:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "examples" not in parts:  # programs to copy, which nobody imports
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Names after `import`, and of `from a import b` both a.b and a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)


def ours(name: str, tree: ast.AST) -> set[str]:
    """The modules of the project that one imports. A script's folder is on its path, so that it names neighbours without it."""
    folder = name.partition(".")[0]
    found = {word if word in MODULES else f"{folder}.{word}" for word in imported(tree)}
    return {one for one in found if one in MODULES} - {name}


GRAPH = {name: ours(name, tree) for name, tree in MODULES.items()}


def test_the_graph_has_what_one_knows_of_it() -> None:
    assert "hgfast.heatmaps" in GRAPH["hgfast.model"] and "pipelines.samples" in GRAPH["hgfast.evaluate"]
    assert "bench.contest" in GRAPH["bench.latency"] and "export.options" in GRAPH["export.trt"]


@pytest.mark.parametrize("folder", BELOW)
def test_arrows_point_one_way(folder: str) -> None:
    for name in GRAPH:
        if name.partition(".")[0] == folder:
            wrong = {one for one in GRAPH[name] if one.partition(".")[0] not in {folder, *BELOW[folder], *ENTRIES.get(name, ())}}
            assert not wrong, name


def test_nobody_imports_an_entry_point_that_knows_more() -> None:
    assert not {name: found & set(ENTRIES) for name, found in GRAPH.items() if found & set(ENTRIES)}


def test_there_is_no_cycle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_what_is_embedded_needs_nothing_heavy_when_it_is_imported() -> None:
    """Only what is imported at the top of a module counts here."""
    waiting, seen = list(LIGHT), set[str]()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        top = ast.Module([node for node in MODULES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert not {word.partition(".")[0] for word in imported(top)} & HEAVY, name
        waiting += ours(name, top) - seen
    assert len(seen) > 5


def test_every_module_says_what_may_enter_it() -> None:
    silent = [name for name, tree in MODULES.items() if "may enter" not in (ast.get_docstring(tree) or "")]
    assert not silent
