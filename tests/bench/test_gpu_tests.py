"""The table of the GPU tests in docs/testing.md is complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.conftest import ROOT

TESTS = ROOT / "tests"


def gpu_tests(path: Path) -> list[str]:
    """Return the names of the tests of a file that are marked gpu, by a decorator, its parameters, or a constant of both."""
    tree = ast.parse(path.read_text())
    constants = {
        target.id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            decorators = " ".join(constants.get(text, text) for text in map(ast.unparse, node.decorator_list))
            if "mark.gpu" in decorators or "DEVICES" in decorators:
                names.append(f"{path.relative_to(TESTS).as_posix()}::{node.name}")
    return names


def test_every_gpu_test_is_in_the_table_once() -> None:
    expected = [name for path in sorted(TESTS.rglob("test_*.py")) for name in gpu_tests(path)]
    rows = [line.split(" | ") for line in (ROOT / "docs" / "testing.md").read_text().splitlines() if line.startswith("| `")]
    names = [re.sub(r"[|` ]", "", row[0]) for row in rows]
    assert sorted(names) == sorted(expected) and len(expected) >= 20
    assert all(len(row) == 3 and all(len(cell) > 5 for cell in row) for row in rows)
