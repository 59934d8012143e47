"""Safe reading of YAML files: plain values only, and a limit on their number.

An alias stands for a copy of its anchor, so a few lines of nested aliases may expand to billions of values: the values are
counted before the file is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hgfast.errors import HgfastError

MAX_BYTES = 2**20
"""Largest size of a file."""
MAX_VALUES = 50_000
"""Largest number of values, with aliases expanded."""


def read_yaml(path: Path, description: str, max_values: int = MAX_VALUES) -> Any:
    """Read a file, called `description` in errors, as `yaml.safe_load` does.

    Raises `HgfastError` if it does not exist, is not YAML, is too large, or has more than `max_values` with aliases expanded.
    """
    where = f"{description} {path}"
    try:
        with path.open("rb") as file:  # which may be a pipe: it is read once, and not to an end that may never come
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise HgfastError(f"{where} has more than {MAX_BYTES} bytes: choose another file")
        text = content.decode("utf-8")
    except OSError as error:
        raise HgfastError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise HgfastError(f"{where} is not valid YAML: it is not text in UTF-8") from error
    try:
        if _count_values(yaml.compose(text, Loader=yaml.SafeLoader), {}) > max_values:
            raise HgfastError(f"{where} holds more than {max_values} values, with aliases expanded: simplify it")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        # the errors besides YAMLError come from values that contradict their tags
        raise HgfastError(f"{where} is not valid YAML: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    """Describe an error without the file's content, which may be that of any file that somebody has named."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "a value contradicts its tag, or nests too deeply"
    problem = re.sub(r"(['\"]).{3,}\1", "…", error.problem or "it cannot be read")
    return f"{problem} in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"


def _count_values(node: yaml.Node | None, counts: dict[int, int]) -> int:
    """Count the values of a node, up to a little above `MAX_VALUES`. Raises ValueError for a node that contains itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in counts:
        if not counts[id(node)]:
            raise ValueError("an alias refers to a value that contains it")
        return counts[id(node)]
    counts[id(node)] = 0
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1
    for part in parts:
        total += _count_values(part, counts)
        if total > MAX_VALUES:
            break
    counts[id(node)] = total
    return total
