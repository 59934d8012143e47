"""YAML files that people write, read without surprises: plain values, and no more of them than a person writes.

An alias stands for a copy of what it names, so a few lines of aliases of aliases are billions of values to whoever walks
through them: files are measured before they are read.
What may enter: from a YAML file to plain values, whatever they are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hgfast.errors import HgfastError

BYTES = 2**20
"""The most that a file may have."""
VALUES = 50_000
"""The most values, aliases being as many as what they stand for."""


def read_yaml(path: Path, what: str, most: int = VALUES) -> Any:
    """The content of a file, as `yaml.safe_load` has it.

    Args:
        what: the file is, as "the configuration", for the message.
        most: values that it may hold.

    Raises:
        HgfastError: no such file, not YAML, or too much of it.
    """
    where = f"{what} {path}"
    try:
        if path.stat().st_size > BYTES:
            raise HgfastError(f"{where} has more than {BYTES} bytes, which nobody has written: choose another file")
        text = path.read_text("utf-8")
    except OSError as error:
        raise HgfastError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise HgfastError(f"{where} is not valid YAML: it is no text in UTF-8") from error
    try:
        if _weight(yaml.compose(text, Loader=yaml.SafeLoader), {}) > most:
            raise HgfastError(f"{where} holds more than {most} values, aliases for what they name included: write it plainly")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]  # YAMLError apart, of values that are not what their tags say
        raise HgfastError(f"{where} is not valid YAML: {said}") from error


def _weight(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node is, capped a little above `VALUES`. Raises ValueError for one that holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias stands for something that it is part of")
        return known[id(node)]
    known[id(node)] = 0
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    weight = 1
    for part in parts:
        weight += _weight(part, known)
        if weight > VALUES:
            break
    known[id(node)] = weight
    return weight
